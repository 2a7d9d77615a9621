//! What is asked: requests made once, before the load, and sent again and again. Each is a key with its CSR, encoded and framed, and one token.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, Uri};
use prost::Message;
use prost::bytes::{BufMut, Bytes, BytesMut};

use super::super::csr_client::{KeyType, identity_of_token, make_csr, make_key};
use crate::pki::IssuerKey;
use crate::server::proto::istio::IstioCertificateRequest;
use crate::spiffe::TrustDomain;

const METHOD: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// A request that is ready to be sent.
#[derive(Debug)]
pub(super) struct Question {
    /// The key that its CSR is for.
    pub(super) key: IssuerKey,
    /// The head of the HTTP/2 request.
    head: Request<()>,
    /// The body: one gRPC frame.
    body: Bytes,
}

/// All of them, asked in turn.
#[derive(Debug)]
pub(super) struct Questions {
    all: Vec<Question>,
    next: AtomicUsize,
}

/// What to make them of.
#[derive(Debug)]
pub(super) struct Ingredients<'a> {
    /// `:authority`.
    pub(super) authority: &'a str,
    /// None: the client certificate decides.
    pub(super) tokens: &'a [String],
    /// The kind of key.
    pub(super) key_type: KeyType,
    /// How many keys.
    pub(super) keys: usize,
    /// The lifetime to ask for.
    pub(super) lifetime: Option<Duration>,
    /// What is written into a CSR's SAN, beside the token's identity.
    pub(super) trust_domain: &'a TrustDomain,
}

impl Question {
    /// Head and body to send. Both are cheap to copy.
    pub(super) fn to_send(&self) -> (Request<()>, Bytes) {
        (self.head.clone(), self.body.clone())
    }
}

impl Questions {
    /// Makes as many as there are keys or tokens, whichever are more: every key and every token comes up.
    ///
    /// # Errors
    /// In words.
    pub(super) fn make(from: &Ingredients<'_>) -> Result<Self, String> {
        let keys = (0..from.keys.max(1)).map(|_| make_key(from.key_type).map_err(|error| error.to_string())).collect::<Result<Vec<_>, _>>()?;
        let count = keys.len().max(from.tokens.len());
        let tokens = from.tokens.iter().map(Some).chain(from.tokens.is_empty().then_some(None));
        let pairs = keys.iter().cycle().zip(tokens.cycle()).take(count);
        let all = pairs.map(|(key, token)| question(from, key, token)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { all, next: AtomicUsize::new(0) })
    }

    /// The next one. There is always one: at least one key was made.
    pub(super) fn next(&self) -> Option<&Question> {
        self.of(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The one of a client that always asks the same.
    pub(super) fn of(&self, client: usize) -> Option<&Question> {
        self.all.get(client.checked_rem(self.all.len())?)
    }
}

fn question(from: &Ingredients<'_>, key: &IssuerKey, token: Option<&String>) -> Result<Question, String> {
    let identity = token.and_then(|token| identity_of_token(token, from.trust_domain));
    let message = IstioCertificateRequest {
        csr: make_csr(key, from.key_type, identity).map_err(|error| error.to_string())?,
        validity_duration: from.lifetime.map_or(0, |lifetime| i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)),
        metadata: Some(prost_types::Struct::default()),
    };
    let uri = Uri::builder().scheme("https").authority(from.authority).path_and_query(METHOD).build().map_err(|error| error.to_string())?;
    let mut head = Request::builder().method(Method::POST).uri(uri).body(()).map_err(|error| error.to_string())?;
    let headers = head.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("meshmint-bench/", env!("CARGO_PKG_VERSION"))));
    if let Some(token) = token {
        let bearer = format!("Bearer {token}").parse::<HeaderValue>();
        let mut bearer = bearer.map_err(|_| "a token has characters that no header may carry; is it the right file?".to_owned())?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
    }
    Ok(Question { key: key.clone(), head, body: framed(&message)? })
}

/// A gRPC frame: 0 for "not compressed", four bytes of length, the message.
fn framed(message: &impl Message) -> Result<Bytes, String> {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).map_err(|_| "the request is too long".to_owned())?);
    message.encode(&mut frame).map_err(|error| error.to_string())?;
    Ok(frame.freeze())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::pki::check_csr;

    fn make(tokens: &[&str], keys: usize) -> Result<Questions, String> {
        let tokens: Vec<_> = tokens.iter().map(|token| (*token).to_owned()).collect();
        let trust_domain = "cluster.local".parse().unwrap();
        let lifetime = Some(Duration::from_secs(3600));
        let from = Ingredients { authority: "127.0.0.1:1", tokens: &tokens, key_type: KeyType::P256, keys, lifetime, trust_domain: &trust_domain };
        Questions::make(&from)
    }

    #[test]
    fn every_key_and_every_token_comes_up() {
        for (tokens, keys) in [(["a", "b", "c"].as_slice(), 2), (&["a", "b"], 5), (&["a"], 1)] {
            let questions = make(tokens, keys).unwrap();
            assert_eq!(questions.all.len(), keys.max(tokens.len()));
            let (mut seen_tokens, mut seen_keys) = (BTreeSet::new(), BTreeSet::new());
            for _ in 0..questions.all.len() {
                let question = questions.next().unwrap();
                seen_tokens.insert(question.head.headers()[AUTHORIZATION].to_str().unwrap().to_owned());
                seen_keys.insert(question.key.public_key_info());
            }
            assert_eq!((seen_tokens.len(), seen_keys.len()), (tokens.len(), keys));
        }
        assert!(!make(&[], 1).unwrap().next().unwrap().head.headers().contains_key(AUTHORIZATION));
        assert!(make(&["a\nb"], 1).unwrap_err().contains("right file"));
    }

    #[test]
    fn the_frame_holds_a_request_for_its_key() {
        let questions = make(&["a"], 1).unwrap();
        let question = questions.next().unwrap();
        let (head, body) = question.to_send();
        assert_eq!(head.uri().to_string(), format!("https://127.0.0.1:1{METHOD}"));
        let (prefix, message) = body.split_at(5);
        assert_eq!(prefix, [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes()].concat());
        let message = IstioCertificateRequest::decode(message).unwrap();
        assert_eq!(message.validity_duration, 3600);
        check_csr(&message.csr).unwrap();
    }
}
