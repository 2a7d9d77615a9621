//! Commands of a plan. Names come from a cluster, so each is written such that a shell takes it as one word and nothing else.

/// One word for a shell, quoted where it needs to be.
pub(super) fn word(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:@=,".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    // No control character gets to a terminal or through a pasted line.
    let shown: String = text.chars().filter(|letter| !letter.is_control()).collect();
    format!("'{}'", shown.replace('\'', r"'\''"))
}

/// A Secret copied into another namespace without being seen: `entries` are the new entries, each with the one that it is taken from.
pub(super) fn copy_secret(from: (&str, &str), to: (&str, &str), entries: &[(&str, &str)]) -> String {
    let data: Vec<_> = entries.iter().map(|(new, old)| format!(r#""{new}":"{{{{index .data "{old}"}}}}""#)).collect();
    let template = format!(r#"{{"apiVersion":"v1","kind":"Secret","metadata":{{"name":"{}"}},"data":{{{}}}}}"#, to.1, data.join(","));
    format!(
        "kubectl --namespace {} get secret {} --output go-template='{template}' | kubectl --namespace {} create --filename -",
        word(from.0),
        word(from.1),
        word(to.0)
    )
}

/// A command that runs only where the file has a certificate: roots that are overwritten by nothing are an outage.
pub(super) fn with_certificates(file: &str, command: &str) -> String {
    format!("grep -q 'BEGIN CERTIFICATE' {file} && {command}")
}

/// A Secret's entry replaced by the contents of a file with certificates.
pub(super) fn put_file(namespace: &str, secret: &str, entry: &str, file: &str) -> String {
    let patch = format!(
        r#"kubectl --namespace {} patch secret {} --type merge --patch "{{\"data\":{{\"{entry}\":\"$(base64 < {file} | tr -d '\n')\"}}}}""#,
        word(namespace),
        word(secret)
    );
    with_certificates(file, &patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_word_whatever_is_in_it() {
        for plain in ["istio-system", "istiod-1-30", "https://a.example:443", "docker.io/istio/pilot:1.30.3"] {
            assert_eq!(word(plain), plain);
        }
        for (odd, quoted) in [("", "''"), ("a b", "'a b'"), ("$(reboot)", "'$(reboot)'"), ("a'b", r"'a'\''b'"), ("a\nreboot\x1b[2J", "'areboot[2J'")]
        {
            assert_eq!(word(odd), quoted);
        }
        let copy = copy_secret(("istio-system", "a;b"), ("ours", "new"), &[("ca-cert.pem", "tls.crt")]);
        assert!(copy.contains("get secret 'a;b' ") && copy.contains(r#""ca-cert.pem":"{{index .data "tls.crt"}}""#), "{copy}");
    }
}
