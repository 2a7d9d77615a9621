//! Certificates on record, as they are printed.

use anstyle::{AnsiColor, Style};

use super::super::Output;
use super::super::json::Json;
use super::super::times::rfc3339;
use crate::server::proto::admin::{Certificate, Kind, ListCertificatesResponse, State};

/// A page as `certs list` prints it.
pub(super) fn table(page: &ListCertificatesResponse) -> String {
    let mut text = heading();
    text.extend(page.certificates.iter().map(line));
    if page.certificates.is_empty() {
        text += "(none)\n";
    }
    if !page.next_page_token.is_empty() {
        text += &format!("\nThere are more: add --page-token {}\n", page.next_page_token);
    }
    text
}

/// The names of the columns.
fn heading() -> String {
    const BOLD: Style = Style::new().bold();
    format!("{BOLD}{:<40}  {:<12}  {:<7}  {:<20}  {}{BOLD:#}\n", "SERIAL", "KIND", "STATE", "EXPIRES", "FOR")
}

/// One certificate below them.
fn line(certificate: &Certificate) -> String {
    let style = state_style(certificate.state());
    let whom = if certificate.spiffe_id.is_empty() { "-" } else { &certificate.spiffe_id };
    format!(
        "{:<40}  {:<12}  {style}{:<7}{style:#}  {:<20}  {whom}\n",
        certificate.serial,
        kind_name(certificate.kind()),
        state_name(certificate.state()),
        rfc3339(certificate.not_after.as_ref()),
    )
}

/// Certificates line by line, for people or for programs.
pub(super) struct Lines(Option<Json>);

impl Lines {
    /// # Errors
    /// In words: a bug.
    pub(super) fn of(output: Output) -> Result<Self, String> {
        match output {
            Output::Json => Json::of("Certificate").map(|json| Self(Some(json))),
            Output::Text => Ok(Self(None)),
        }
    }

    /// What stands above them; nothing for programs.
    pub(super) fn heading(&self) -> String {
        if self.0.is_none() { heading() } else { String::new() }
    }

    /// The lines of a page, `left` at most, of which so many fewer are left then.
    ///
    /// # Errors
    /// In words: a bug.
    pub(super) fn of_page(&self, certificates: &[Certificate], left: &mut u64) -> Result<String, String> {
        let mut text = String::new();
        for certificate in certificates {
            if *left == 0 {
                break;
            }
            *left -= 1;
            match &self.0 {
                Some(json) => {
                    text += &json.line(certificate)?;
                    text.push('\n');
                }
                None => text += &line(certificate),
            }
        }
        Ok(text)
    }
}

/// Everything on record about one certificate.
pub(super) fn details(certificate: &Certificate) -> String {
    let object = |object: &Option<crate::server::proto::admin::ObjectReference>| {
        object.as_ref().map(|object| format!("{} (UID {})", object.name, object.uid)).unwrap_or_default()
    };
    let credential = certificate.credential().as_str_name().trim_start_matches("CREDENTIAL_").to_lowercase().replace('_', " ");
    let rows = [
        ("SPIFFE ID", certificate.spiffe_id.clone()),
        ("serial", certificate.serial.clone()),
        ("kind", kind_name(certificate.kind()).to_owned()),
        ("state", state_name(certificate.state()).to_owned()),
        ("issued", rfc3339(certificate.issued_at.as_ref())),
        ("not before", rfc3339(certificate.not_before.as_ref())),
        ("not after", rfc3339(certificate.not_after.as_ref())),
        ("revoked", rfc3339(certificate.revoked_at.as_ref())),
        ("reason", certificate.revocation_reason.clone()),
        ("namespace", certificate.namespace.clone()),
        ("service account", certificate.service_account.clone()),
        ("pod", object(&certificate.pod)),
        ("node", object(&certificate.node)),
        ("cluster", certificate.cluster.clone()),
        ("holder", certificate.holder.clone()),
        ("credential", credential),
        ("issuer", certificate.issuer.clone()),
        ("generation", certificate.generation.to_string()),
        ("bundle number", certificate.bundle_number.to_string()),
        ("SHA-256", certificate.sha256.clone()),
        ("profile digest", certificate.profile_digest.clone()),
        ("replica", format!("{} (record {})", certificate.replica, certificate.replica_sequence)),
    ];
    let lines = rows.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name:<16} {value}\n"));
    lines.collect::<String>() + &certificate.pem
}

pub(super) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Unspecified => "-",
        Kind::Leaf => "leaf",
        Kind::Serving => "serving",
        Kind::Intermediate => "intermediate",
        Kind::Cross => "cross",
        Kind::Root => "root",
    }
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Unspecified => "-",
        State::Valid => "valid",
        State::Expired => "expired",
        State::Revoked => "revoked",
    }
}

fn state_style(state: State) -> Style {
    match state {
        State::Valid => AnsiColor::Green.on_default(),
        State::Revoked => AnsiColor::Red.on_default(),
        State::Expired | State::Unspecified => Style::new().dimmed(),
    }
}
