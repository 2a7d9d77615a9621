//! From bytes to what they hold: PEM blocks, DER, or a SPIFFE bundle document. Bounded, and linear in the input.

use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::super::pem::{Block, Blocks, Kind};
use crate::spiffe::bundle::{BundleDocument, BundleError, roots_of_bundle_json};

/// The largest input, in bytes.
pub const MAX_INPUT: usize = 1024 * 1024;
/// The most PEM blocks or certificates.
pub const MAX_BLOCKS: usize = 1000;

/// Why an input can't be looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// Nothing there.
    #[error("the input is empty: give a file with a certificate, a chain, a bundle or a CSR")]
    Empty,
    /// Over [`MAX_INPUT`].
    #[error("the input is larger than 1 MiB")]
    TooLarge,
    /// Over [`MAX_BLOCKS`].
    #[error("the input holds more than 1,000 blocks")]
    TooManyBlocks,
    /// Nothing that is known.
    #[error("neither PEM, nor a DER certificate or CSR, nor a SPIFFE bundle (JSON)")]
    Unknown,
    /// A JSON document that isn't a bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// What an input holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) certificates: Vec<Vec<u8>>,
    pub(super) requests: Vec<Vec<u8>>,
    pub(super) bundle: Option<BundleDocument>,
    /// What can't be read, each a sentence.
    pub(super) unreadable: Vec<String>,
    /// What was passed over, each a sentence.
    pub(super) notes: Vec<String>,
}

/// Takes the input apart. Certificates and requests come out as bytes that are one DER value of that kind.
pub(super) fn read(input: &[u8]) -> Result<Contents, InspectError> {
    if input.len() > MAX_INPUT {
        return Err(InspectError::TooLarge);
    }
    match input.trim_ascii() {
        [] => Err(InspectError::Empty),
        text @ [b'{', ..] => {
            let mut bundle = roots_of_bundle_json(text)?;
            let mut contents = Contents::default();
            let roots = std::mem::take(&mut bundle.roots);
            if roots.len() > MAX_BLOCKS {
                return Err(InspectError::TooManyBlocks);
            }
            for (index, root) in roots.into_iter().enumerate() {
                contents.take_certificate(root, &format!("root {} of the bundle", index + 1));
            }
            contents.bundle = Some(bundle);
            Ok(contents)
        }
        _ if input.starts_with(&[0x30]) => read_der(input),
        _ => read_pem(input),
    }
}

/// One CSR, or certificates one after the other (as the SPIFFE Workload API hands them out).
fn read_der(input: &[u8]) -> Result<Contents, InspectError> {
    let mut contents = Contents::default();
    if let Ok((rest, request)) = X509CertificationRequest::from_der(input) {
        if !rest.is_empty() {
            contents.unreadable.push(format!("{} bytes follow the CSR", rest.len()));
        }
        contents.requests.push(request.as_raw().to_vec());
        return Ok(contents);
    }
    let mut rest = input;
    while !rest.is_empty() {
        let Ok((after, certificate)) = X509Certificate::from_der(rest) else { break };
        if contents.certificates.len() == MAX_BLOCKS {
            return Err(InspectError::TooManyBlocks);
        }
        contents.certificates.push(certificate.as_raw().to_vec());
        rest = after;
    }
    match contents.certificates.len() {
        0 => return Err(InspectError::Unknown),
        count if !rest.is_empty() => contents.unreadable.push(format!("{} bytes follow certificate {count}", rest.len())),
        _ => {}
    }
    Ok(contents)
}

fn read_pem(input: &[u8]) -> Result<Contents, InspectError> {
    let blocks = Blocks::of(input).found;
    if blocks.is_empty() {
        return Err(InspectError::Unknown);
    }
    if blocks.len() > MAX_BLOCKS {
        return Err(InspectError::TooManyBlocks);
    }
    let mut contents = Contents::default();
    for block in &blocks {
        match block {
            Ok(block) => contents.take_block(block),
            Err(error) => contents.unreadable.push(error.to_string()),
        }
    }
    Ok(contents)
}

impl Contents {
    fn take_block(&mut self, block: &Block<'_>) {
        let place = format!("PEM block at line {}", block.line);
        let (kind, der) = (block.kind(), block.der());
        match (kind, der) {
            (Kind::PrivateKey, _) => {
                self.notes
                    .push(format!("{place} is a private key: it was not looked at, and it doesn't belong beside certificates that are passed on"));
            }
            (Kind::Unread(fault), _) => self.unreadable.push(format!("{place}: {fault}")),
            (Kind::Other, _) => self.notes.push(format!("{place} was passed over: {}", super::printable(block.label))),
            (_, Err(error)) => self.unreadable.push(error.to_string()),
            (Kind::Certificate, Ok(der)) => self.take_certificate(der, &place),
            (Kind::Request, Ok(der)) => match X509CertificationRequest::from_der(&der).map(|(rest, _)| rest.len()) {
                Ok(0) => self.requests.push(der),
                Ok(count) => self.unreadable.push(format!("{place}: {count} bytes follow the CSR")),
                Err(_) => self.unreadable.push(format!("{place}: not a CSR")),
            },
        }
    }

    pub(super) fn take_certificate(&mut self, der: Vec<u8>, place: &str) {
        match X509Certificate::from_der(&der).map(|(rest, _)| rest.len()) {
            Ok(0) => self.certificates.push(der),
            Ok(count) => self.unreadable.push(format!("{place}: {count} bytes follow the certificate")),
            Err(_) => self.unreadable.push(format!("{place}: not a certificate")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spiffe::x509_svid::makers::{Made, leaf_params, request_params};

    fn pem(label: &str, der: &[u8]) -> String {
        pem_rfc7468::encode_string(label, pem_rfc7468::LineEnding::LF, der).unwrap()
    }

    #[test]
    fn finds_what_is_there() {
        let root = Made::root("root");
        let leaf = root.below(leaf_params());
        let both = [leaf.der.clone(), root.der.clone()];
        let text = format!("a comment\n{}\r\n{}", pem("CERTIFICATE", &leaf.der).replace('\n', "\r\n"), pem("CERTIFICATE", &root.der));
        assert_eq!(read(text.as_bytes()).unwrap().certificates, both);
        assert_eq!(read(&both.concat()).unwrap().certificates, both);
        let key = rcgen::KeyPair::generate().unwrap();
        let request = request_params().serialize_request(&key).unwrap().der().to_vec();
        assert_eq!(read(&request).unwrap().requests, std::slice::from_ref(&request));
        for label in ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"] {
            assert_eq!(read(pem(label, &request).as_bytes()).unwrap().requests, std::slice::from_ref(&request));
        }
        let with_key =
            read(format!("{}{}{}", pem("PRIVATE KEY", key.serialized_der()), pem("CERTIFICATE", &leaf.der), pem("X509 CRL", &[0x30, 0])).as_bytes())
                .unwrap();
        assert_eq!((with_key.certificates.len(), with_key.notes.len()), (1, 2));
        assert!(with_key.notes[0].contains("private key"), "{:?}", with_key.notes);
    }

    #[test]
    fn says_what_can_not_be_read() {
        let root = Made::root("root").der;
        let good = pem("CERTIFICATE", &root);
        let cases = [
            (good.replace("END CERTIFICATE", "END OTHER"), "BEGIN and END don't agree"),
            (good.replace("-----BEGIN", "root: -----BEGIN"), "line 1: something like a BEGIN or END line"),
            (pem("TRUSTED CERTIFICATE", &root), "`openssl x509 -in FILE`"),
            (pem("PKCS7", &root), "`openssl pkcs7 -print_certs -in FILE`"),
            (good.replace("-----END CERTIFICATE-----", ""), "no END line"),
            (format!("{}{good}", good.replace("-----END CERTIFICATE-----", "")), "no END line"),
            (good.replace("-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\n*"), "not base64"),
            (pem("CERTIFICATE", &[0x30, 0]), "not a certificate"),
            (pem("CERTIFICATE REQUEST", &root), "not a CSR"),
            (pem("CERTIFICATE", &[root.as_slice(), &[0]].concat()), "1 bytes follow the certificate"),
            (format!("-----END CERTIFICATE-----\n{good}"), "without its BEGIN"),
        ];
        for (text, expected) in cases {
            let found = read(text.as_bytes()).unwrap().unreadable;
            assert!(!found.is_empty() && found[0].contains(expected), "{expected}: {found:?}");
        }
        let trailing = read(&[root.as_slice(), &[1, 2]].concat()).unwrap();
        assert_eq!((trailing.certificates.len(), trailing.unreadable), (1, vec!["2 bytes follow certificate 1".to_owned()]));
    }

    #[test]
    fn refuses_the_rest_within_bounds() {
        for (input, error) in [
            (Vec::new(), InspectError::Empty),
            (b" \n\t".to_vec(), InspectError::Empty),
            (b"hello".to_vec(), InspectError::Unknown),
            (vec![0x30, 0], InspectError::Unknown),
            (vec![b'x'; MAX_INPUT + 1], InspectError::TooLarge),
            ("-----BEGIN A-----\n-----END A-----\n".repeat(MAX_BLOCKS + 1).into_bytes(), InspectError::TooManyBlocks),
        ] {
            assert_eq!(read(&input).unwrap_err(), error);
        }
        assert!(matches!(read(b"{}"), Err(InspectError::Bundle(_))));
        let root = Made::root("root").der;
        assert!(root.len() * (MAX_BLOCKS + 1) <= MAX_INPUT, "{} bytes", root.len());
        assert_eq!(read(&root.repeat(MAX_BLOCKS + 1)).unwrap_err(), InspectError::TooManyBlocks);
    }
}
