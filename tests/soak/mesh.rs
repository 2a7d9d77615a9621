//! What the clients of a soak share: where the server is, keys made beforehand, tokens, and pilot-agent's rules for trying again. An answer
//! goes through [`Mesh::certificate`], which looks at everything in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData};
use rustls::ClientConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use tonic::Code;

use crate::common::csrs::{der, key_pem, pem, read, request_for, spiffe_id};
use crate::common::grpc::{Answer, Identity, Wire, bearer, connect_from, soon, tls};
use crate::common::tokens::{HOUR, RS256, TokenIssuer, claims, now, with};
use crate::load;

/// pilot-agent's inner loop: so many tries, the second one after this pause, which doubles.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// A workload's key with a CSR for it.
pub(crate) struct Key {
    pub(crate) csr: String,
    pem: String,
    public: Vec<u8>,
}

impl Key {
    fn new(pair: &KeyPair) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        let csr = pem("CERTIFICATE REQUEST", parameters.serialize_request(pair).unwrap().der());
        Self { csr, pem: key_pem(pair), public: pair.subject_public_key_info() }
    }

    /// Some of each kind that agents have.
    fn of_every_kind() -> Vec<Self> {
        let rsa = PrivatePkcs8KeyDer::from_pem_slice(include_bytes!("../corpus/tokens/rsa-2048.pem")).unwrap();
        let rsa = KeyPair::from_pkcs8_der_and_sign_algo(&rsa, &rcgen::PKCS_RSA_SHA256).unwrap();
        let elliptic = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384].map(|algorithm| KeyPair::generate_for(algorithm).unwrap());
        elliptic.iter().chain([&rsa]).map(Self::new).collect()
    }
}

/// Who asks.
#[derive(Clone)]
pub(crate) struct Workload {
    pub(crate) namespace: String,
    pub(crate) account: String,
    /// The address of its node.
    pub(crate) node: IpAddr,
}

/// How it proves that.
pub(crate) enum Proof<'a> {
    /// The value of `authorization`.
    Token(&'a [u8]),
    /// With the certificate of its connection.
    Certificate(&'a Identity),
}

/// The mesh around one server.
pub(crate) struct Mesh {
    pub(crate) csr: SocketAddr,
    pub(crate) keys: Vec<Key>,
    pub(crate) issuer: TokenIssuer,
    pub(crate) roots: String,
    /// TLS without a client certificate.
    pub(crate) tls: Arc<ClientConfig>,
    issued: AtomicU64,
    stop: AtomicBool,
    /// Every serial that came, and the latest.
    serials: Mutex<(BTreeSet<String>, String)>,
    /// What tries failed of, with how often; the next ones went well.
    tried_again: Mutex<BTreeMap<String, u64>>,
    /// How other clients' requests and connections ended.
    ends: Mutex<BTreeMap<String, u64>>,
}

impl Mesh {
    pub(crate) fn around(csr: SocketAddr, issuer: TokenIssuer, roots: String) -> Self {
        Self {
            csr,
            keys: Key::of_every_kind(),
            issuer,
            tls: tls(&roots, None, &[b"h2"]),
            roots,
            issued: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            serials: Mutex::default(),
            tried_again: Mutex::default(),
            ends: Mutex::default(),
        }
    }

    /// Tells every client to end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// `authorization` of a workload's pod; without a pod it is the token of a virtual machine. Half of the clusters sign with RSA.
    pub(crate) fn token(&self, workload: &Workload, pod: Option<u64>) -> Vec<u8> {
        let claims = with(claims(&workload.namespace, &workload.account), "exp", json!(now() + 3 * HOUR));
        let claims = match pod {
            Some(pod) => {
                with(claims, "kubernetes.io/pod", json!({"name": format!("pod-{pod}"), "uid": format!("b1e9c9e4-0000-4000-8000-{pod:012x}")}))
            }
            None => with(with(claims, "kubernetes.io/pod", Value::Null), "kubernetes.io/node", Value::Null),
        };
        bearer(&match pod.unwrap_or(0) % 2 {
            0 => self.issuer.token(&claims),
            _ => self.issuer.sign(&json!({"alg": "RS256", "kid": "rsa"}), &claims, RS256),
        })
    }

    /// One certificate, by the rules of pilot-agent: five tries, and after each failure a new connection. Whoever would see an error by these
    /// rules ends the test. `kept` is the connection that is there already, and the one that is there afterwards.
    pub(crate) async fn certificate(&self, workload: &Workload, proof: &Proof<'_>, key: &Key, kept: &mut Option<Wire>) -> Identity {
        let mut failures = Vec::new();
        for number in 0..TRIES {
            if let Some(before) = number.checked_sub(1) {
                tokio::time::sleep(FIRST_PAUSE * (1 << before)).await;
            }
            match self.attempt(workload, proof, key, kept).await {
                Ok(answer) if answer.status.code() == Code::Ok => {
                    failures.into_iter().for_each(|failure| count(&self.tried_again, failure));
                    return self.accept(workload, key, answer);
                }
                Ok(Answer { status, .. }) => {
                    let again = [Code::Cancelled, Code::DeadlineExceeded, Code::ResourceExhausted, Code::Aborted, Code::Internal, Code::Unavailable];
                    assert!(again.contains(&status.code()), "{}: {status:?}, after {failures:?}", workload.account);
                    failures.push(format!("{:?}: {}", status.code(), status.message()));
                }
                Err(failure) => failures.push(failure),
            }
            *kept = None;
        }
        panic!("{}: no certificate after {TRIES} tries: {failures:?}", workload.account);
    }

    async fn attempt(&self, workload: &Workload, proof: &Proof<'_>, key: &Key, kept: &mut Option<Wire>) -> Result<Answer, String> {
        let wire = match kept.take() {
            // Between two requests a server may end a connection: no request has failed.
            Some(wire) if wire.takes_more().await => kept.insert(wire),
            _ => kept.insert(self.connect(workload.node, proof).await?),
        };
        let headers: &[(&str, &[u8])] = match proof {
            Proof::Token(token) => &[("authorization", token)],
            Proof::Certificate(_) => &[],
        };
        wire.try_ask(headers, &request_for(&key.csr)).await.map_err(|error| format!("request: {error}"))
    }

    async fn connect(&self, node: IpAddr, proof: &Proof<'_>) -> Result<Wire, String> {
        let config = match proof {
            Proof::Token(_) => self.tls.clone(),
            Proof::Certificate(identity) => tls(&self.roots, Some(identity), &[b"h2"]),
        };
        let stream = soon("handshake", connect_from(node, self.csr, config)).await.map_err(|error| format!("connect: {error}"))?;
        Wire::over(stream).await.map_err(|error| format!("hello: {error}"))
    }

    /// Looks at an answer as its client would, and more closely.
    fn accept(&self, workload: &Workload, key: &Key, answer: Answer) -> Identity {
        let answer = load::Answer(answer.chain());
        answer.verify().expect("it verifies against its own bundle");
        assert_eq!(answer.bundle(), self.roots, "the bundle's bytes stay");
        let leaf = &answer.0[0];
        assert_eq!(spiffe_id(leaf), format!("spiffe://cluster.local/ns/{}/sa/{}", workload.namespace, workload.account));
        assert!(read(leaf, |leaf| leaf.public_key().raw == key.public), "it certifies the key that was asked for");
        let serial = load::serial(&der(leaf));
        let mut serials = self.serials.lock().unwrap();
        assert!(serials.0.insert(serial.clone()), "serial {serial} came twice");
        serials.1 = serial;
        self.issued.fetch_add(1, Ordering::Relaxed);
        Identity { chain: answer.chain_pem(), key: key.pem.clone() }
    }

    /// A serial that came a moment ago.
    pub(crate) fn latest_serial(&self) -> String {
        self.serials.lock().unwrap().1.clone()
    }

    /// Counts how something ended that isn't held to be good.
    pub(crate) fn ended(&self, how: String) {
        count(&self.ends, how);
    }

    /// Certificates that good clients got.
    pub(crate) fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    pub(crate) fn tried_again(&self) -> BTreeMap<String, u64> {
        self.tried_again.lock().unwrap().clone()
    }

    pub(crate) fn ends(&self) -> BTreeMap<String, u64> {
        self.ends.lock().unwrap().clone()
    }
}

fn count(counts: &Mutex<BTreeMap<String, u64>>, what: String) {
    *counts.lock().unwrap().entry(what).or_default() += 1;
}

/// A node of the mesh: an address of this machine that no other test uses.
pub(crate) fn node(number: u8) -> IpAddr {
    IpAddr::from([127, 0, 7, number])
}
