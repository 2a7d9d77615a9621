//! Authorities and roots, for people.

use anstyle::{AnsiColor, Style};

use super::super::times::rfc3339;
use crate::server::proto::admin::{AddTrustResponse, Authority, ListAuthoritiesResponse, Origin, Phase, Role};

/// What `authority list` prints.
pub(super) fn table(list: &ListAuthoritiesResponse) -> String {
    const BOLD: Style = Style::new().bold();
    let heading = format!("{BOLD}{:<32}  {:<12}  {:<10}  {:<7}  {:<20}  {}{BOLD:#}\n", "ID", "ROLE", "PHASE", "TRUSTED", "EXPIRES", "SUBJECT");
    let lines = list.authorities.iter().map(line);
    let roots = list.authorities.iter().filter(|authority| authority.trusted).count();
    let end = format!("\nTrust domain {}, trust bundle number {} with {roots} {}.\n", list.trust_domain, list.bundle_number, plural(roots));
    heading + &lines.collect::<String>() + &end
}

fn plural(roots: usize) -> &'static str {
    if roots == 1 { "root" } else { "roots" }
}

fn line(authority: &Authority) -> String {
    let style = phase_style(authority.phase());
    format!(
        "{:<32}  {:<12}  {style}{:<10}{style:#}  {:<7}  {:<20}  {}\n",
        authority.id,
        role(authority),
        phase_name(authority.phase()),
        if authority.trusted { "yes" } else { "-" },
        rfc3339(authority.not_after.as_ref()),
        authority.subject
    )
}

/// What `authority show` prints.
pub(super) fn details(authority: &Authority) -> String {
    let rows = [
        ("id", authority.id.clone()),
        ("role", role(authority)),
        ("phase", phase_name(authority.phase()).to_owned()),
        ("origin", origin_name(authority.origin()).to_owned()),
        ("trusted", if authority.trusted { "yes, it is in the trust bundle" } else { "" }.to_owned()),
        ("key", format!("{}{}", authority.key, if authority.has_key { ", held here" } else { ", not held here" })),
        ("subject", authority.subject.clone()),
        ("serial", authority.serial.clone()),
        ("not before", rfc3339(authority.not_before.as_ref())),
        ("not after", rfc3339(authority.not_after.as_ref())),
        ("since", rfc3339(authority.since.as_ref())),
        ("parent", authority.parent.clone()),
        ("root", authority.root.clone()),
        ("SHA-256", authority.sha256.clone()),
    ];
    let lines = rows.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name:<16} {value}\n"));
    lines.collect::<String>() + &authority.pem + &authority.upstream_chain.concat()
}

/// What `authority trust add` prints.
pub(super) fn trusted(done: &AddTrustResponse) -> String {
    let AddTrustResponse { id, added, bundle_number, published } = done;
    let what = if *added { "joined the trust bundle, which is number" } else { "was in the trust bundle already, which is number" };
    let when = if *published {
        "It is in every answer of this server now."
    } else {
        "It will be in the answers of this server as soon as its ledger answers."
    };
    format!("root {id} {what} {bundle_number}\n{when}\n")
}

fn role(authority: &Authority) -> String {
    match authority.role() {
        Role::Unspecified => "-".to_owned(),
        Role::Root => "root".to_owned(),
        Role::Intermediate => "intermediate".to_owned(),
        Role::Issuing => format!("issuing {}", authority.generation),
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Unspecified => "-",
        Phase::Published => "published",
        Phase::Active => "active",
        Phase::Retiring => "retiring",
        Phase::Distrusted => "distrusted",
        Phase::Trusted => "foreign",
    }
}

fn phase_style(phase: Phase) -> Style {
    match phase {
        Phase::Active => AnsiColor::Green.on_default(),
        Phase::Distrusted => AnsiColor::Red.on_default(),
        Phase::Published | Phase::Trusted => AnsiColor::Yellow.on_default(),
        Phase::Retiring | Phase::Unspecified => Style::new().dimmed(),
    }
}

fn origin_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Unspecified => "-",
        Origin::Generated => "made here",
        Origin::Imported => "imported",
        Origin::Upstream => "signed by an upstream issuer",
        Origin::Foreign => "foreign: its key was never ours",
    }
}
