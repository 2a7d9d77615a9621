//! A report as text for people: short, aligned, and with colours where the caller wants them.

use std::fmt::Write;

use time::OffsetDateTime;
use time::macros::format_description;

use super::{CertificateReport, ChainReport, ChainStatus, Kind, Report, RequestReport, Severity};

/// The escape sequences to colour with; [`Palette::PLAIN`] has none.
#[derive(Debug, Clone, Copy)]
pub struct Palette {
    /// Headings.
    pub heading: &'static str,
    /// What is as it should be.
    pub good: &'static str,
    /// What is worth a look.
    pub warning: &'static str,
    /// What won't do.
    pub bad: &'static str,
    /// Labels.
    pub label: &'static str,
    /// Back to normal.
    pub reset: &'static str,
}

impl Palette {
    /// No colours.
    pub const PLAIN: Self = Self { heading: "", good: "", warning: "", bad: "", label: "", reset: "" };
    /// ANSI colours, for a terminal (or for a stream that takes them out where there is none).
    pub const ANSI: Self = Self { heading: "\x1b[1m", good: "\x1b[32m", warning: "\x1b[33m", bad: "\x1b[31m", label: "\x1b[2m", reset: "\x1b[0m" };

    fn of(&self, severity: Severity) -> &'static str {
        match severity {
            Severity::Ok => self.good,
            Severity::Warning => self.warning,
            Severity::Failed => self.bad,
        }
    }
}

/// The report for a person; it ends in a newline.
pub fn render_text(report: &Report, palette: Palette) -> String {
    let mut page = Page { text: String::new(), palette };
    for certificate in &report.certificates {
        page.certificate(certificate, report.now);
    }
    for request in &report.requests {
        page.request(request);
    }
    if let Some(bundle) = &report.bundle {
        page.heading("SPIFFE bundle");
        page.field("sequence", &bundle.sequence.map_or_else(|| "none".to_owned(), |number| number.to_string()));
        page.field("refresh", &bundle.refresh_hint_seconds.map_or_else(|| "no hint".to_owned(), |seconds| format!("every {}", span(seconds))));
        page.field("keys", &format!("{} roots, {} for JWT-SVIDs", report.certificates.len(), bundle.jwt_keys));
    }
    if let Some(chain) = &report.chain {
        page.chain(chain);
    }
    if !report.remarks.is_empty() {
        page.heading("remarks");
        for remark in &report.remarks {
            page.point(remark.severity, &remark.what);
        }
    }
    let unverified = report.chain.as_ref().is_some_and(|chain| chain.status == ChainStatus::NotChecked);
    page.verdict(report.severity, unverified);
    page.text
}

/// How long something still lives at `now`, and until when: `expires in 23h 41m (2026-11-24 21:10:03Z)`.
pub fn lifetime(not_before: OffsetDateTime, not_after: OffsetDateTime, now: OffsetDateTime) -> String {
    let apart = |from: OffsetDateTime, to: OffsetDateTime| span((to - from).whole_seconds().unsigned_abs());
    if now > not_after {
        format!("expired {} ago ({})", apart(not_after, now), instant(not_after))
    } else if now < not_before {
        format!("valid only in {} ({}), then until {}", apart(now, not_before), instant(not_before), instant(not_after))
    } else {
        format!("expires in {} ({})", apart(now, not_after), instant(not_after))
    }
}

pub(super) fn instant(at: OffsetDateTime) -> String {
    at.format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z")).unwrap_or_else(|_| at.unix_timestamp().to_string())
}

/// Seconds in the two largest units that say something: `9y 120d`, `23h 41m`, `42s`.
pub fn span(seconds: u64) -> String {
    let units = [(31_536_000, "y"), (86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(length, _)| seconds >= *length).unwrap_or(units.len() - 1);
    let mut rest = seconds;
    let mut parts = Vec::with_capacity(2);
    for (length, unit) in units.iter().skip(first).take(2) {
        if rest >= *length || parts.is_empty() {
            parts.push(format!("{}{unit}", rest / length));
        }
        rest %= length;
    }
    parts.join(" ")
}

struct Page {
    text: String,
    palette: Palette,
}

impl Page {
    fn heading(&mut self, title: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        _ = writeln!(self.text, "{}{title}{}", self.palette.heading, self.palette.reset);
    }

    fn field(&mut self, label: &str, value: &str) {
        _ = writeln!(self.text, "  {}{label:<10}{} {value}", self.palette.label, self.palette.reset);
    }

    fn point(&mut self, severity: Severity, what: &str) {
        let mark = match severity {
            Severity::Ok => "-",
            Severity::Warning => "!",
            Severity::Failed => "x",
        };
        _ = writeln!(self.text, "  {}{mark}{} {what}", self.palette.of(severity), self.palette.reset);
    }

    fn certificate(&mut self, certificate: &CertificateReport, now: OffsetDateTime) {
        self.heading(&format!("certificate {}: {}", certificate.position, certificate.kind.as_str()));
        if let Some(id) = &certificate.spiffe_id {
            self.field("SPIFFE ID", id);
        }
        let own = certificate.spiffe_id.as_ref().map(|id| format!("URI:{id}"));
        let others: Vec<_> = certificate.names.iter().filter(|name| Some(*name) != own.as_ref()).map(String::as_str).collect();
        if !others.is_empty() {
            self.field("names", &others.join(", "));
        }
        self.field("life", &lifetime(certificate.not_before, certificate.not_after, now));
        self.field("from", &instant(certificate.not_before));
        self.field("serial", &certificate.serial);
        if !certificate.subject.is_empty() || certificate.kind != Kind::Leaf {
            self.field("subject", or_empty(&certificate.subject));
        }
        self.field("issuer", or_empty(&certificate.issuer));
        self.field("key", &format!("{}, signed with {}", key(&certificate.public_key), certificate.signature_algorithm));
        let usage = certificate.key_usage.as_ref().map_or_else(|| "no keyUsage".to_owned(), |usage| usage.join(", "));
        let purposes =
            certificate.extended_key_usage.as_ref().map_or_else(|| "any purpose".to_owned(), |purposes| format!("for {}", purposes.join(", ")));
        let below = match (certificate.kind, certificate.path_length) {
            (Kind::Intermediate | Kind::Root, None) => "; pathlen unlimited".to_owned(),
            (_, Some(length)) => format!("; pathlen {length}"),
            (_, None) => String::new(),
        };
        self.field("usage", &format!("{usage}; {purposes}{below}"));
        self.field("SHA-256", &certificate.sha256);
        if let Some(id) = &certificate.authority_key_id {
            self.field("AKI", id);
        }
        if let Some(id) = &certificate.subject_key_id {
            self.field("SKI", id);
        }
        for departure in &certificate.departures {
            self.point(if departure.must { Severity::Failed } else { Severity::Warning }, &departure.to_string());
        }
    }

    fn request(&mut self, request: &RequestReport) {
        self.heading(&format!("CSR {}", request.position));
        self.field("subject", or_empty(&request.subject));
        self.field("key", &format!("{}, signed with {}", key(&request.public_key), request.signature_algorithm));
        self.field("asks for", &if request.names.is_empty() { "no names".to_owned() } else { request.names.join(", ") });
        for extension in &request.extensions {
            self.field("", extension);
        }
        let (severity, what) = match request.self_signature_verifies {
            true => (Severity::Ok, "signed by its own key: its sender has the private key"),
            false => (Severity::Failed, "not signed by its own key"),
        };
        self.point(severity, what);
    }

    fn chain(&mut self, chain: &ChainReport) {
        self.heading("chain");
        let against = if chain.roots_given { "the given roots" } else { "the roots in the input itself, which anybody could have put there" };
        match chain.status {
            ChainStatus::NotChecked => {
                self.point(Severity::Ok, "not checked: there is no root in the input; give the trusted ones with --roots FILE")
            }
            ChainStatus::Failed => {
                let why = chain.why.as_deref().unwrap_or("unknown");
                self.point(Severity::Failed, &format!("doesn't verify against {against}, at step {}: {why}", chain.failed_step.unwrap_or("unknown")));
            }
            ChainStatus::Verified => {
                let way = chain.path.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ← ");
                self.point(Severity::Ok, &format!("verifies against {against}: {way}"));
                if let Some(root) = &chain.root {
                    self.field("root", &format!("{}, SHA-256 {}", or_empty(&root.subject), root.sha256));
                }
            }
        }
    }

    fn verdict(&mut self, severity: Severity, unverified: bool) {
        let word = match severity {
            // What wasn't checked isn't ok.
            Severity::Ok if unverified => "nothing wrong found, but not verified",
            Severity::Ok => "ok",
            Severity::Warning => "warnings",
            Severity::Failed => "failed",
        };
        _ = writeln!(self.text, "\n{}{word}{}", self.palette.of(severity), self.palette.reset);
    }
}

fn or_empty(name: &str) -> &str {
    if name.is_empty() { "(empty)" } else { name }
}

fn key(key: &super::KeyReport) -> String {
    match key.bits {
        // The name of a curve says its size.
        Some(bits) if key.algorithm == "RSA" => format!("RSA {bits} bits"),
        _ => key.algorithm.clone(),
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::super::inspect_chain;
    use super::*;
    use crate::spiffe::x509_svid::makers::{Made, NOW, authority_params, leaf_params};

    #[test]
    fn spans_say_two_units() {
        for (seconds, expected) in [
            (0, "0s"),
            (42, "42s"),
            (60, "1m"),
            (61, "1m 1s"),
            (85_260, "23h 41m"),
            (86_400, "1d"),
            (90_000, "1d 1h"),
            (86_460, "1d"),
            (3650 * 86_400, "10y"),
            (3649 * 86_400, "9y 364d"),
        ] {
            assert_eq!(span(seconds), expected);
        }
    }

    #[test]
    fn life_in_words() {
        let (before, after) = (NOW - Duration::hours(1), NOW + Duration::seconds(85_260));
        assert_eq!(lifetime(before, after, NOW), "expires in 23h 41m (2026-11-24 11:41:00Z)");
        assert_eq!(lifetime(before, before, NOW), "expired 1h ago (2026-11-23 11:00:00Z)");
        assert_eq!(lifetime(after, after, NOW), "valid only in 23h 41m (2026-11-24 11:41:00Z), then until 2026-11-24 11:41:00Z");
    }

    #[test]
    fn a_chain_reads_well() {
        let root = Made::root("root");
        let intermediate = root.below(authority_params("ca"));
        let leaf = intermediate.below(leaf_params());
        let report = inspect_chain(&[&leaf.der, &intermediate.der], Some(&[root.der]), NOW);
        let text = render_text(&report, Palette::PLAIN);
        for line in [
            "certificate 1: leaf",
            "  SPIFFE ID  spiffe://cluster.local/ns/shop/sa/cart",
            "  life       expires in 1d (2026-11-24 12:00:00Z)",
            "  issuer     CN=ca",
            "  key        ECDSA P-256, signed with ECDSA with SHA-256",
            "  usage      digitalSignature; for serverAuth, clientAuth",
            "  usage      keyCertSign, cRLSign; any purpose; pathlen unlimited",
            "  - verifies against the given roots: certificate 1 ← certificate 2 ← root 1",
            "ok",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
        assert!(render_text(&report, Palette::ANSI).contains("\u{1b}[32m"));
        let failed = render_text(&inspect_chain(&[&leaf.der], Some(&[]), NOW), Palette::PLAIN);
        assert!(failed.contains("x doesn't verify against the given roots, at step issuer") && failed.ends_with("\nfailed\n"), "{failed}");
        let alone = render_text(&inspect_chain(&[&leaf.der], None, NOW), Palette::PLAIN);
        assert!(alone.contains("not checked") && alone.contains("--roots"), "{alone}");
        assert!(alone.ends_with("\nnothing wrong found, but not verified\n"), "what wasn't checked isn't ok: {alone}");
    }
}
