//! `meshmint certs stats`: counts over the ledger, with small charts.

use std::time::Duration;

use super::super::admin_client::{Target, words};
use super::super::times::rfc3339;
use super::super::{Output, screen};
use super::chart::{Style, bar, spark};
use super::json;
use super::text::kind_name;
use crate::pki::inspect::span;
use crate::server::proto::admin::{GetStatsRequest, LifetimeCount, Stats};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
    /// Charts in plain characters, as where the output is no terminal
    #[arg(long)]
    ascii: bool,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Result<String, String> {
    let stats = args.target.connect().await?.get_stats(GetStatsRequest {}).await.map_err(|status| words(&status))?.into_inner();
    match args.output {
        Output::Json => json("Stats", &stats),
        Output::Text => {
            let style = if args.ascii || !screen::is_rich() { Style::Ascii } else { Style::Blocks };
            Ok(counts(&stats) + &charts(&stats, style, screen::width()) + &rows(&stats))
        }
    }
}

fn counts(stats: &Stats) -> String {
    format!(
        "on record        {}\nvalid            {}\nexpired          {}\nrevoked          {}\nlive holders     {}\nnext expiry      {}\n",
        stats.total,
        stats.valid,
        stats.expired,
        stats.revoked,
        stats.live_holders,
        stats.next_expiry.as_ref().map_or_else(|| "-".to_owned(), |at| rfc3339(Some(at))),
    )
}

/// The charts, `width` columns wide at most.
fn charts(stats: &Stats, style: Style, width: usize) -> String {
    let mut text = String::new();
    if let [whole @ .., running] = stats.issued_per_minute.as_slice() {
        let (hour, last, most) = (whole.iter().sum::<u64>() + running, whole.last().copied().unwrap_or(0), whole.iter().max().copied().unwrap_or(0));
        let rate = |count: u64, seconds: u32| count as f64 / f64::from(seconds);
        text += &format!(
            "\nissued           {hour} in the last hour ({:.1}/s), {last} in the last minute ({:.1}/s), {most} in the busiest, {running} in this one\n",
            rate(hour, 3600),
            rate(last, 60),
        );
        text += &axis("60m ago ", &stats.issued_per_minute, " now", style, width);
    }
    if let [first, ..] = stats.expiring_per_hour.as_slice() {
        let day: u64 = stats.expiring_per_hour.iter().sum();
        text += &format!("\nexpiring         {first} within an hour, {day} within a day\n");
        text += &axis("now     ", &stats.expiring_per_hour, " +24h", style, width);
    }
    let keys: Vec<_> = stats.keys.iter().map(|each| (each.key.clone(), each.count)).collect();
    let lifetimes: Vec<_> = stats.lifetimes.iter().map(|each| (class(each, style), each.count)).collect();
    text + &bars("keys", &keys, style, width) + &bars("lifetimes", &lifetimes, style, width)
}

fn axis(from: &str, values: &[u64], to: &str, style: Style, width: usize) -> String {
    let room = width.saturating_sub(from.len() + to.len() + 4);
    format!("  {from}{}{to}\n", spark(values, room, style))
}

/// Valid leaves by one of their properties.
fn bars(title: &str, rows: &[(String, u64)], style: Style, width: usize) -> String {
    const LABEL: usize = 12;
    const COUNT: usize = 10;
    let most = rows.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let line = |(label, count): &(String, u64)| {
        let bar = bar(*count, most, width.saturating_sub(LABEL + COUNT + 6), style);
        format!("  {label:<LABEL$}  {count:>COUNT$}  {bar}").trim_end().to_owned() + "\n"
    };
    if rows.is_empty() { String::new() } else { format!("\n{title:<16} valid leaves\n") + &rows.iter().map(line).collect::<String>() }
}

fn class(row: &LifetimeCount, style: Style) -> String {
    let at_most = match style {
        Style::Blocks => "≤",
        Style::Ascii => "<=",
    };
    match row.at_most.and_then(|at_most| Duration::try_from(at_most).ok()) {
        Some(bound) => format!("{at_most} {}", span(bound.as_secs())),
        None => "longer".to_owned(),
    }
}

fn rows(stats: &Stats) -> String {
    let mut text = String::new();
    if !stats.rows.is_empty() {
        text += &format!("\n{:<12}  {:>10}  {:<32}  {:>10}  {:>10}\n", "KIND", "GENERATION", "ISSUER", "ON RECORD", "VALID");
    }
    for row in &stats.rows {
        text += &format!("{:<12}  {:>10}  {:<32}  {:>10}  {:>10}\n", kind_name(row.kind()), row.generation, row.issuer, row.total, row.valid);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::proto::admin::KeyCount;

    #[test]
    fn charts_fit_their_screen_in_both_styles() {
        let mut stats = Stats { issued_per_minute: vec![0; 61], expiring_per_hour: vec![0; 24], ..Stats::default() };
        (stats.issued_per_minute[59], stats.issued_per_minute[60], stats.issued_per_minute[10]) = (240, 7, 120);
        stats.expiring_per_hour[3] = 9;
        stats.keys = vec![KeyCount { key: "P-256".to_owned(), count: 400 }, KeyCount { key: "RSA-2048".to_owned(), count: 100 }];
        let day = prost_types::Duration { seconds: 86_400, nanos: 0 };
        stats.lifetimes = vec![LifetimeCount { at_most: Some(day), count: 499 }, LifetimeCount { at_most: None, count: 1 }];
        for width in [20, 40, 80, 200] {
            for style in [Style::Ascii, Style::Blocks] {
                let text = charts(&stats, style, width);
                let drawn = text.lines().filter(|line| line.starts_with("  ") && !line.contains("  0"));
                for line in drawn {
                    assert!(line.chars().count() <= width.max(26), "{width}: {line:?}");
                }
                assert_eq!(text.is_ascii(), matches!(style, Style::Ascii), "{text}");
            }
        }
        let text = charts(&stats, Style::Ascii, 80);
        assert!(text.contains("367 in the last hour (0.1/s), 240 in the last minute (4.0/s), 240 in the busiest, 7 in this one"), "{text}");
        assert!(text.contains("0 within an hour, 9 within a day"), "{text}");
        assert!(text.contains("P-256") && text.contains("<= 1d") && text.contains("longer"), "{text}");
        assert_eq!(charts(&Stats::default(), Style::Ascii, 80), "", "an older server gives none");
    }
}
