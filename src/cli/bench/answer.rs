//! What a CA answered: the gRPC frame taken apart, every answer looked at, and a share of them verified as a mesh peer would.

use prost::Message;
use prost::bytes::Bytes;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::tally::Ended;
use crate::clock::Clock;
use crate::pki::IssuerKey;
use crate::pki::certificates_from_pem;
use crate::pki::inspect::verify_as_peer;
use crate::server::proto::istio::IstioCertificateResponse;

/// An answer as it came over HTTP/2.
#[derive(Debug)]
pub(super) struct Answer {
    /// `grpc-status`.
    pub(super) code: tonic::Code,
    /// `grpc-message`.
    pub(super) message: String,
    /// The body: one gRPC frame where the code is OK.
    pub(super) body: Bytes,
}

impl Answer {
    /// How the request ended, and the elements of the answer where there is a certificate.
    pub(super) fn judge(self) -> (Ended, Vec<String>) {
        if self.code != tonic::Code::Ok {
            return (Ended::Refused { code: self.code, message: self.message }, Vec::new());
        }
        match elements(&self.body) {
            Ok(elements) => (Ended::Served, elements),
            Err(wrong) => (Ended::Wrong(wrong), Vec::new()),
        }
    }
}

/// The elements of the one message in `body` (a gRPC frame: 0, four bytes of length, the message).
fn elements(body: &[u8]) -> Result<Vec<String>, String> {
    let message = match body.split_at_checked(5) {
        Some(([0, length @ ..], message))
            if usize::try_from(length.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte))) == Ok(message.len()) =>
        {
            message
        }
        _ => return Err(format!("the {} bytes of the body are not one plain gRPC message", body.len())),
    };
    let elements = IstioCertificateResponse::decode(message).map_err(|error| format!("the message can't be decoded: {error}"))?.cert_chain;
    match elements.len() {
        2.. => Ok(elements),
        few => Err(format!("the answer has {few} elements; at least a leaf and a bundle are expected")),
    }
}

/// Whether the leaf is for this key and its chain verifies against the bundle of the same answer, now, as a mesh peer would verify it.
///
/// # Errors
/// In words.
pub(super) fn verify(elements: &[String], key: &IssuerKey, clock: &dyn Clock) -> Result<(), String> {
    let (bundle, chain) = elements.split_last().ok_or("no elements")?;
    let chain = certificates_from_pem(&chain.concat()).map_err(|error| format!("the chain can't be read: {error}"))?;
    let bundle = certificates_from_pem(bundle).map_err(|error| format!("the bundle can't be read: {error}"))?;
    verify_as_peer(&chain, &bundle, clock.now()).map_err(|error| format!("the chain doesn't verify: {error}"))?;
    let leaf = chain.first().ok_or("no leaf")?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| format!("the leaf can't be read: {error}"))?;
    if leaf.public_key().raw != key.public_key_info() {
        return Err("the leaf is for another key than was asked for".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::pki::KeyAlgorithm;

    fn framed(cert_chain: &[&str]) -> Vec<u8> {
        let message = IstioCertificateResponse { cert_chain: cert_chain.iter().map(|text| (*text).to_owned()).collect() }.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], length.as_slice(), &message].concat()
    }

    #[test]
    fn a_body_is_one_plain_message_with_two_elements_at_least() {
        assert_eq!(elements(&framed(&["leaf", "bundle"])).unwrap(), ["leaf", "bundle"]);
        assert!(elements(&framed(&["leaf"])).unwrap_err().contains("1 elements"));
        let mut compressed = framed(&["leaf", "bundle"]);
        compressed[0] = 1;
        for bad in [&[][..], &[0, 0, 0, 0, 1], &compressed, &framed(&["leaf", "bundle"])[..12]] {
            assert!(elements(bad).unwrap_err().contains("not one plain gRPC message"), "{bad:?}");
        }
        assert!(elements(&[0, 0, 0, 0, 1, 0xff]).unwrap_err().contains("can't be decoded"));
    }

    #[test]
    fn a_code_decides_before_a_body_is_looked_at() {
        let answer = Answer { code: tonic::Code::Unavailable, message: "later".to_owned(), body: Bytes::new() };
        assert_eq!(answer.judge().0, Ended::Refused { code: tonic::Code::Unavailable, message: "later".to_owned() });
        let answer = Answer { code: tonic::Code::Ok, message: String::new(), body: Bytes::new() };
        assert!(matches!(answer.judge().0, Ended::Wrong(_)));
    }

    #[test]
    fn what_does_not_verify_is_found() {
        let key = IssuerKey::generate(KeyAlgorithm::P256).unwrap();
        let clock = SystemClock::shared();
        let made = crate::pki::certificate_to_pem(rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap().cert.der());
        let cases: [(Vec<String>, &str); 4] = [
            (vec!["no PEM".to_owned(), made.clone()], "can't be read"),
            (vec![made.clone(), "no PEM".to_owned()], "can't be read"),
            (vec![made.clone(), made.clone()], "doesn't verify"),
            (vec![], "no elements"),
        ];
        for (elements, words) in cases {
            let error = verify(&elements, &key, clock.as_ref()).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
