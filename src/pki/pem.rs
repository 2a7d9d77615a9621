//! PEM text (RFC 7468), as operators' files, agents' requests and Istio's answers hold it: one reader for all of it.
//!
//! It takes what can't be mistaken: a byte order mark, indentation, blank lines, lines of any length, several blocks on one line. Whatever else looks
//! like a boundary is an error, so that no block is lost without a word. No error shows what a text holds: it may be a private key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;

/// Why a text holds no certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// Something that can't be read.
    #[error("line {line}: {fault}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        fault: PemFault,
    },
    /// No CERTIFICATE block.
    #[error("there is no CERTIFICATE block in it")]
    None,
    /// No CERTIFICATE block, but a private key.
    #[error("there is no CERTIFICATE block in it, but a private key: are two files mixed up?")]
    PrivateKey,
}

/// What is wrong at a line of a PEM text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PemFault {
    /// A BEGIN or END that is misspelt, or has text before it.
    #[error("something like a BEGIN or END line, but not as PEM has it (-----BEGIN CERTIFICATE-----, with nothing before it)")]
    Boundary,
    /// Line ends written as two characters.
    #[error("its line ends are written as \\n; write real ones, for example with `printf '%b'`")]
    EscapedLineEnds,
    /// A block that goes on to the end, or to the next one.
    #[error("the block that begins here has no END line")]
    NoEnd,
    /// An end of nothing.
    #[error("an END line without its BEGIN")]
    NoBegin,
    /// Another label at the end.
    #[error("BEGIN and END don't agree")]
    OtherEnd,
    /// Not base64 (RFC 4648 §4), or nothing at all.
    #[error("what is in the block that begins here is not base64")]
    Base64,
    /// Certificates in a form that other programs don't read.
    #[error("certificates in a form that only openssl reads (TRUSTED CERTIFICATE and others); write them anew with `openssl x509 -in FILE`")]
    OtherCertificate,
    /// Certificates within signed data.
    #[error("PKCS #7; take the certificates out of it with `openssl pkcs7 -print_certs -in FILE`")]
    Pkcs7,
    /// Base64 of something else.
    #[error("what is in the block that begins here is not an X.509 certificate")]
    NotACertificate,
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----\n";
const END: &str = "-----END CERTIFICATE-----\n";
/// So many bytes make a line of 64 characters.
const LINE: usize = 48;

const DASHES: &[u8] = b"-----";
/// UTF-8's, which editors put at the start of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The longest label.
const MAX_LABEL: usize = 64;

/// One certificate as one PEM block, wrapped at 64 characters, ending in a newline.
///
/// It is written by the plain base64 encoder: certificates are public, so the constant time of pem-rfc7468 would only cost.
pub fn certificate_to_pem(der: &[u8]) -> String {
    let mut pem = String::with_capacity(BEGIN.len() + der.len().div_ceil(LINE) * 65 + END.len());
    pem.push_str(BEGIN);
    for line in der.chunks(LINE) {
        STANDARD.encode_string(line, &mut pem);
        pem.push('\n');
    }
    pem.push_str(END);
    pem
}

/// Every certificate of a text, in order. Keys, requests, CRLs and text between blocks are passed over, as openssl does.
///
/// # Errors
/// [`PemError`], for the first thing that can't be read.
pub fn certificates_from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let (mut certificates, mut has_key) = (Vec::new(), false);
    for block in Blocks::of(text.as_bytes()).found {
        let block = block?;
        match block.kind() {
            Kind::Certificate => certificates.push(CertificateDer::from(block.der()?)),
            Kind::PrivateKey => has_key = true,
            Kind::Unread(fault) => return Err(PemError::Line { line: block.line, fault }),
            Kind::Request | Kind::Other => {}
        }
    }
    match certificates.is_empty() {
        false => Ok(certificates),
        true if has_key => Err(PemError::PrivateKey),
        true => Err(PemError::None),
    }
}

/// The blocks of a text, as they stand there.
#[derive(Debug, Default)]
pub(super) struct Blocks<'t> {
    pub(super) found: Vec<Result<Block<'t>, PemError>>,
    /// Whether there is something else beside them than blanks.
    pub(super) has_text: bool,
}

/// One block, not decoded yet.
#[derive(Debug)]
pub(super) struct Block<'t> {
    /// Of its BEGIN, counted from 1.
    pub(super) line: usize,
    pub(super) label: &'t str,
    body: Vec<u8>,
}

/// What a label says.
pub(super) enum Kind {
    Certificate,
    Request,
    PrivateKey,
    /// Certificates that aren't read here; they must not be lost silently.
    Unread(PemFault),
    Other,
}

impl Block<'_> {
    pub(super) fn kind(&self) -> Kind {
        match self.label {
            "CERTIFICATE" | "X509 CERTIFICATE" => Kind::Certificate,
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Kind::Request,
            "PKCS7" | "PKCS #7 SIGNED DATA" | "CMS" => Kind::Unread(PemFault::Pkcs7),
            label if label.ends_with("PRIVATE KEY") => Kind::PrivateKey,
            label if label.contains("CERTIFICATE") && !label.contains("REQUEST") => Kind::Unread(PemFault::OtherCertificate),
            _ => Kind::Other,
        }
    }

    /// What the block holds.
    ///
    /// # Errors
    /// [`PemFault::Base64`], [`PemFault::EscapedLineEnds`].
    pub(super) fn der(&self) -> Result<Vec<u8>, PemError> {
        let fault = if has_escapes(&self.body) { PemFault::EscapedLineEnds } else { PemFault::Base64 };
        let text: Vec<u8> = self.body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        STANDARD.decode(text).ok().filter(|der| !der.is_empty()).ok_or(PemError::Line { line: self.line, fault })
    }
}

impl<'t> Blocks<'t> {
    /// Reads a text, in time that grows with its length alone.
    pub(super) fn of(text: &'t [u8]) -> Self {
        let mut blocks = Self::default();
        let mut open = None;
        // CR alone ends lines too (RFC 7468 §3).
        let lines = text.split(|byte| *byte == b'\n').zip(1..);
        for (text, line) in lines.flat_map(|(text, line)| text.split(|byte| *byte == b'\r').map(move |text| (text, line))) {
            let mut rest = trimmed(text);
            while !rest.is_empty() {
                rest = trimmed(blocks.step(&mut open, rest, line));
            }
        }
        if let Some(Block { line, .. }) = open {
            blocks.fault(line, PemFault::NoEnd);
        }
        blocks
    }

    /// Takes the next thing of a line; returns what is left of it.
    fn step(&mut self, open: &mut Option<Block<'t>>, rest: &'t [u8], line: usize) -> &'t [u8] {
        let Some(mut block) = open.take() else { return self.step_outside(open, rest, line) };
        let Some((body, boundary)) = split_before(rest, DASHES) else {
            block.body.extend_from_slice(rest);
            // A line end separates nothing in base64, but it does in what isn't.
            block.body.push(b'\n');
            *open = Some(block);
            return &[];
        };
        block.body.extend_from_slice(body);
        let Some((label, after)) = boundary_of(boundary, b"-----END ") else {
            self.fault(block.line, PemFault::NoEnd);
            return boundary;
        };
        if label == block.label {
            self.found.push(Ok(block));
        } else {
            self.fault(line, PemFault::OtherEnd);
        }
        after
    }

    fn step_outside(&mut self, open: &mut Option<Block<'t>>, rest: &'t [u8], line: usize) -> &'t [u8] {
        if let Some((label, after)) = boundary_of(rest, b"-----BEGIN ") {
            *open = Some(Block { line, label, body: Vec::new() });
            return after;
        }
        if let Some((_, after)) = boundary_of(rest, b"-----END ") {
            self.fault(line, PemFault::NoBegin);
            return after;
        }
        self.has_text = true;
        if is_like_a_boundary(rest) {
            self.fault(line, if has_escapes(rest) { PemFault::EscapedLineEnds } else { PemFault::Boundary });
        }
        &[]
    }

    fn fault(&mut self, line: usize, fault: PemFault) {
        self.found.push(Err(PemError::Line { line, fault }));
    }
}

/// Without blanks and byte order marks around; files that were put together have marks in the middle.
fn trimmed(mut text: &[u8]) -> &[u8] {
    loop {
        text = text.trim_ascii();
        match text.strip_prefix(BYTE_ORDER_MARK) {
            Some(rest) => text = rest,
            None => return text,
        }
    }
}

/// The label of the boundary that a text begins with, and what follows.
fn boundary_of<'t>(text: &'t [u8], opening: &[u8]) -> Option<(&'t str, &'t [u8])> {
    let (label, dashes) = split_before(text.strip_prefix(opening)?, DASHES)?;
    let label = std::str::from_utf8(label).ok()?.trim_matches(' ');
    let usual = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b" .#/_".contains(&byte);
    (!label.is_empty() && label.len() <= MAX_LABEL && label.bytes().all(usual)).then_some((label, dashes.strip_prefix(DASHES)?))
}

/// Whether somebody may have meant a boundary here. A comment (`#`) is meant as one.
fn is_like_a_boundary(text: &[u8]) -> bool {
    const SIGNS: [&[u8]; 6] = [b"--BEGIN ", b"-- BEGIN ", b"--END ", b"-- END ", b"BEGIN CERTIFICATE", b"END CERTIFICATE"];
    if text.starts_with(b"#") {
        return false;
    }
    let upper = text.to_ascii_uppercase();
    SIGNS.iter().any(|sign| split_before(&upper, sign).is_some())
}

fn has_escapes(text: &[u8]) -> bool {
    split_before(text, b"\\n").is_some()
}

fn split_before<'t>(text: &'t [u8], sign: &[u8]) -> Option<(&'t [u8], &'t [u8])> {
    text.split_at_checked(text.windows(sign.len()).position(|window| window == sign)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that no encoder of another kind writes.
    fn der(number: u8) -> Vec<u8> {
        (0..=u8::MAX).cycle().skip(usize::from(number)).take(300).collect()
    }

    fn read(text: &str) -> Result<Vec<Vec<u8>>, PemError> {
        Ok(certificates_from_pem(text)?.iter().map(|der| der.to_vec()).collect())
    }

    fn refused(text: &str) -> (usize, PemFault) {
        match certificates_from_pem(text) {
            Err(PemError::Line { line, fault }) => (line, fault),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn writes_what_another_encoder_writes() {
        for length in (1..200).chain([1000, 5000]) {
            let der: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            let expected = pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, &der).unwrap();
            let pem = certificate_to_pem(&der);
            assert_eq!(pem, expected);
            assert_eq!(pem.capacity(), BEGIN.len() + der.len().div_ceil(LINE) * 65 + END.len(), "it never grows");
            assert_eq!(certificates_from_pem(&pem).unwrap(), [CertificateDer::from(der)]);
        }
    }

    #[test]
    fn no_certificate_is_lost_whatever_stands_around_it() {
        let (one, two) = (certificate_to_pem(&der(1)), certificate_to_pem(&der(2)));
        let both = vec![der(1), der(2)];
        let indented = |pem: &str, by: &str| pem.lines().map(|line| format!("{by}{line}\n")).collect::<String>();
        let body: String = STANDARD.encode(der(1));
        let wide: String = body.as_bytes().chunks(76).map(|line| format!("{}\n", str::from_utf8(line).unwrap())).collect();
        for (name, text) in [
            ("plain", format!("{one}{two}")),
            ("joined END and BEGIN", format!("{}{two}", one.trim_end())),
            ("a byte order mark first", format!("\u{feff}{one}{two}")),
            ("a byte order mark where files were joined", format!("{one}\u{feff}{two}")),
            ("the same without a line end", format!("{}\u{feff}{two}", one.trim_end())),
            ("indented", format!("{}{}", indented(&one, "    "), indented(&two, "\t"))),
            ("the second indented", format!("{one}{}", indented(&two, "  "))),
            ("CRLF", format!("{one}{two}").replace('\n', "\r\n")),
            ("CR", format!("{one}{two}").replace('\n', "\r")),
            ("blank lines", format!("{one}{two}").replace('\n', "\n\n")),
            ("blanks at ends", format!("{one}{two}").replace('\n', " \t\n")),
            ("one line", format!("{one}{two}").replace('\n', "")),
            ("one line with blanks", format!("{one}{two}").replace('\n', " ")),
            ("76 columns", format!("-----BEGIN CERTIFICATE-----\n{wide}-----END CERTIFICATE-----\n{two}")),
            ("one long line", format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n{two}")),
            ("an older label", format!("{}{two}", one.replace("CERTIFICATE", "X509 CERTIFICATE"))),
            ("openssl's words", format!("subject=CN=front-end, O=the END\n{one}Bag Attributes: <No Attributes>\n{two}")),
            ("a key beside them", format!("{one}-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n{two}")),
            ("one commented out", format!("{one}{}{two}", indented(&certificate_to_pem(&der(3)), "# "))),
        ] {
            assert_eq!(read(&text), Ok(both.clone()), "{name}");
        }
    }

    #[test]
    fn what_could_be_a_certificate_and_cant_be_read_is_named_by_its_line() {
        let (one, two) = (certificate_to_pem(&der(1)), certificate_to_pem(&der(2)));
        let lines = one.lines().count();
        let spoilt = |from: &str, to: &str| format!("{one}{}", two.replacen(from, to, 1));
        for (text, expected) in [
            (spoilt("-----BEGIN", "----BEGIN"), (lines + 1, PemFault::Boundary)),
            (spoilt("-----BEGIN", "----- BEGIN"), (lines + 1, PemFault::Boundary)),
            (spoilt("-----BEGIN CERTIFICATE", "-----begin certificate"), (lines + 1, PemFault::Boundary)),
            (spoilt("-----BEGIN", "root: -----BEGIN"), (lines + 1, PemFault::Boundary)),
            (spoilt("-----BEGIN", "\"-----BEGIN"), (lines + 1, PemFault::Boundary)),
            (spoilt("-----END CERTIFICATE-----", ""), (lines + 1, PemFault::NoEnd)),
            (spoilt("-----END CERTIFICATE-----", "-----END CERTIFICATE----"), (lines + 1, PemFault::NoEnd)),
            (format!("{}{two}", one.replace("-----END CERTIFICATE-----", "")), (1, PemFault::NoEnd)),
            (spoilt("-----END CERTIFICATE", "-----END X509 CRL"), (2 * lines, PemFault::OtherEnd)),
            (format!("-----END CERTIFICATE-----\n{one}"), (1, PemFault::NoBegin)),
            (spoilt("CERTIFICATE-----\n", "CERTIFICATE-----\n*"), (lines + 1, PemFault::Base64)),
            (format!("{one}-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), (lines + 1, PemFault::Base64)),
            (format!("{one}{two}").replace('\n', "\\n"), (1, PemFault::EscapedLineEnds)),
            (format!("{one}{}", two.replace("CERTIFICATE", "TRUSTED CERTIFICATE")), (lines + 1, PemFault::OtherCertificate)),
            (format!("{one}{}", two.replace("CERTIFICATE", "PKCS7")), (lines + 1, PemFault::Pkcs7)),
        ] {
            assert_eq!(refused(&text), expected, "{text}");
        }
        assert_eq!(read(""), Err(PemError::None));
        assert_eq!(read("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"), Err(PemError::None));
    }

    #[test]
    fn no_error_shows_what_a_text_holds() {
        let secret = STANDARD.encode(b"the octets of a private key");
        for text in [
            format!("-----BEGIN PRIVATE KEY-----{secret}-----END PRIVATE KEY-----"),
            format!("-----BEGIN PRIVATE KEY-----\\n{secret}\\n-----END PRIVATE KEY-----\\n"),
            format!("-----BEGIN {secret}-----"),
            format!("-----BEGIN PRIVATE KEY-----\n{secret}"),
            format!("-----BEGIN CERTIFICATE-----\n{secret}*\n-----END CERTIFICATE-----"),
            format!("{secret}-----BEGIN CERTIFICATE-----"),
            format!("-----END {}-----", secret.to_uppercase()),
        ] {
            let error = certificates_from_pem(&text).unwrap_err();
            let said = format!("{error} {error:?}");
            let octets = format!("{:?}", secret.as_bytes());
            let octets = octets.trim_matches(['[', ']']);
            assert!(!said.to_uppercase().contains(&secret.to_uppercase()) && !said.contains(octets), "{said}");
        }
        let key = format!("-----BEGIN PRIVATE KEY-----{secret}-----END PRIVATE KEY-----");
        assert_eq!(certificates_from_pem(&key), Err(PemError::PrivateKey));
    }

    proptest::proptest! {
        /// Text that is put between two blocks never hides one of them: both are read, or there is an error.
        #[test]
        fn nothing_between_two_blocks_hides_one(between in "[-A-Za-z#\\\\ \n\r\t\u{feff}]{0,40}") {
            let text = format!("{}{between}{}", certificate_to_pem(&der(1)), certificate_to_pem(&der(2)));
            let commented = between.rsplit(['\n', '\r']).next().is_some_and(|last| last.trim_matches(['\u{feff}', ' ', '\t']).starts_with('#'));
            if let Ok(found) = read(&text) {
                proptest::prop_assert!(found == [der(1), der(2)] || commented, "{}", text);
            }
        }
    }
}
