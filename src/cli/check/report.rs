//! The lines of `meshmint check`: collected, and shown to people or programs.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::super::{Outcome, screen};
use crate::pki::inspect::{Severity, printable};
use crate::server::checkup::Check;
use crate::server::proto::admin::{Fact, Severity as SeverityMessage};

/// The page that explains every check.
const PAGE: &str = "docs/checks.md";

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// What the server is, where it answered.
    pub(super) server_version: Option<String>,
    lines: Vec<Line>,
}

/// One line.
#[derive(Debug, Serialize)]
struct Line {
    check: String,
    group: &'static str,
    severity: Severity,
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    /// What to do, where it isn't well.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    doc: Option<String>,
}

/// As `-o json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    ok: bool,
    failed: usize,
    warnings: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_version: Option<&'a str>,
    checks: &'a [Line],
}

impl Report {
    pub(super) fn ok(&mut self, check: Check, message: impl Into<String>) {
        self.push(check, Severity::Ok, message.into(), String::new());
    }

    pub(super) fn warning(&mut self, check: Check, message: impl Into<String>, detail: impl Into<String>) {
        self.push(check, Severity::Warning, message.into(), detail.into());
    }

    pub(super) fn failed(&mut self, check: Check, message: impl Into<String>, detail: impl Into<String>) {
        self.push(check, Severity::Failed, message.into(), detail.into());
    }

    pub(super) fn push(&mut self, check: Check, severity: Severity, message: String, detail: String) {
        let row = check.row();
        let (hint, doc) = if severity == Severity::Ok { (None, None) } else { (Some(row.hint), Some(format!("{PAGE}#{}", row.id))) };
        self.insert(Line { check: row.id.to_owned(), group: row.group, severity, message, detail, hint, doc });
    }

    /// A fact of the server's. What a newer one knows and we don't is shown without hint.
    pub(super) fn fact(&mut self, fact: Fact) {
        let severity = match fact.severity() {
            SeverityMessage::Ok => Severity::Ok,
            SeverityMessage::Warning => Severity::Warning,
            SeverityMessage::Failed | SeverityMessage::Unspecified => Severity::Failed,
        };
        match Check::find(&fact.check) {
            Some(check) => self.push(check, severity, fact.message, fact.detail),
            None => {
                self.insert(Line { check: fact.check, group: "other", severity, message: fact.message, detail: fact.detail, hint: None, doc: None });
            }
        }
    }

    /// What stands in a line came from other programs and clusters: one line it stays, and steers no terminal.
    fn insert(&mut self, mut line: Line) {
        line.message = printable(&line.message);
        line.detail = printable(&line.detail);
        let place = |line: &Line| Check::ALL.iter().position(|check| check.row().id == line.check).unwrap_or(Check::ALL.len());
        let after = self.lines.iter().position(|other| place(other) > place(&line)).unwrap_or(self.lines.len());
        self.lines.insert(after, line);
    }

    fn count(&self, severity: Severity) -> usize {
        self.lines.iter().filter(|line| line.severity == severity).count()
    }

    /// The gravest decides.
    pub(super) fn outcome(&self) -> Outcome {
        match self.lines.iter().map(|line| line.severity).max() {
            Some(Severity::Failed) => Outcome::Failed,
            Some(Severity::Warning) => Outcome::Warnings,
            Some(Severity::Ok) | None => Outcome::Ok,
        }
    }

    /// Lines in groups, those that aren't well with what to do; with signs and colours where `rich`.
    pub(super) fn text(&self, rich: bool) -> String {
        const BOLD: Style = Style::new().bold();
        const DIM: Style = Style::new().dimmed();
        let (mut text, mut group) = (String::new(), "");
        for line in &self.lines {
            if line.group != group {
                group = line.group;
                let gap = if text.is_empty() { "" } else { "\n" };
                _ = writeln!(text, "{gap}{BOLD}{group}{BOLD:#}");
            }
            let (sign, style, indent) = mark(line.severity, rich);
            let detail = if line.severity == Severity::Ok || line.detail.is_empty() { String::new() } else { format!(" ({})", line.detail) };
            _ = writeln!(text, "{style}{sign}{style:#} {}{detail}", line.message);
            if let Some(hint) = line.hint {
                _ = writeln!(text, "{indent} {hint}\n{indent} {DIM}meshmint check --explain {}{DIM:#}", line.check);
            }
        }
        let verdict = match (self.count(Severity::Failed), self.count(Severity::Warning)) {
            (0, 0) => "all is well".to_owned(),
            (0, warnings) => format!("well, with {warnings} to look at"),
            (failed, 0) => format!("{failed} failed"),
            (failed, warnings) => format!("{failed} failed, {warnings} to look at"),
        };
        _ = writeln!(text, "\n{BOLD}{verdict}{BOLD:#}");
        text
    }

    /// Everything, as indented JSON.
    ///
    /// # Errors
    /// The serializer's, which has none for these types.
    pub(super) fn json(&self) -> Result<String, String> {
        let document = Document {
            ok: self.outcome() == Outcome::Ok,
            failed: self.count(Severity::Failed),
            warnings: self.count(Severity::Warning),
            server_version: self.server_version.as_deref(),
            checks: &self.lines,
        };
        screen::json(&document)
    }
}

/// The sign of a line, its colour, and blanks of its width.
fn mark(severity: Severity, rich: bool) -> (&'static str, Style, &'static str) {
    let style = match severity {
        Severity::Ok => AnsiColor::Green.on_default(),
        Severity::Warning => AnsiColor::Yellow.on_default(),
        Severity::Failed => AnsiColor::Red.on_default(),
    };
    match (severity, rich) {
        (Severity::Ok, true) => ("√", style, " "),
        (Severity::Warning, true) => ("‼", style, " "),
        (Severity::Failed, true) => ("×", style, " "),
        (Severity::Ok, false) => ("ok  ", style, "    "),
        (Severity::Warning, false) => ("warn", style, "    "),
        (Severity::Failed, false) => ("FAIL", style, "    "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        report.warning(Check::LedgerSpace, "little", "/var");
        report.ok(Check::AdminAnswers, "answers");
        report.failed(Check::LedgerWritable, "full", "");
        report
    }

    #[test]
    fn lines_stand_in_the_order_of_the_table_with_what_to_do() {
        let text = anstream::adapter::strip_str(&report().text(false)).to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..4], ["server", "ok   answers", "", "ledger"]);
        assert!(
            lines[4] == "FAIL full" && lines[5].starts_with("     free space") && lines[6] == "     meshmint check --explain ledger-writable",
            "{text}"
        );
        assert!(lines[7] == "warn little (/var)" && lines[9] == "     meshmint check --explain ledger-space", "{text}");
        assert_eq!(lines.last(), Some(&"1 failed, 1 to look at"));
        assert!(text.is_ascii());
        let rich = anstream::adapter::strip_str(&report().text(true)).to_string();
        assert!(["√ answers", "× full", "‼ little"].iter().all(|line| rich.lines().any(|other| other.starts_with(line))), "{rich}");
    }

    #[test]
    fn the_gravest_decides() {
        assert_eq!(report().outcome(), Outcome::Failed);
        let mut report = Report::default();
        assert_eq!(report.outcome(), Outcome::Ok);
        report.warning(Check::LedgerSpace, "", "");
        assert_eq!(report.outcome(), Outcome::Warnings);
        let severity = SeverityMessage::Failed.into();
        report.fact(Fact { check: "of-a-newer-server".to_owned(), severity, message: "new".to_owned(), detail: String::new() });
        assert_eq!(report.outcome(), Outcome::Failed);
        assert!(report.json().unwrap().contains("of-a-newer-server"));
        let severity = SeverityMessage::Warning.into();
        let mut known = Report::default();
        known.fact(Fact { check: "token-keys".to_owned(), severity, message: "old".to_owned(), detail: "issuer".to_owned() });
        assert!(known.json().unwrap().contains("docs/checks.md#token-keys"));
    }
}
