//! Clients of the CSR API for tests of real processes: one connection with what it saw of TLS, answers taken apart and verified by
//! rustls-webpki (the verifier of ztunnel) instead of by code of ours, and the questions that a ledger file answers.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use meshmint::pki::certificates_from_pem;
use meshmint::server::proto::istio::IstioCertificateRequest;
use meshmint::server::proto::istio::istio_certificate_service_client::IstioCertificateServiceClient;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// How long connecting or answering may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A workload's key with its CSR, made once and asked with often.
#[derive(Debug)]
pub struct Key {
    pub pair: KeyPair,
    pub csr: String,
}

impl Key {
    /// A P-256 key and a CSR with an empty subject, as ztunnel makes them.
    pub fn make() -> Self {
        let pair = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&pair).expect("a CSR");
        let csr = pem_rfc7468::encode_string("CERTIFICATE REQUEST", pem_rfc7468::LineEnding::LF, csr.der()).expect("PEM");
        Self { pair, csr }
    }

    /// The one that is good enough where nobody looks at the key.
    pub fn any() -> &'static Self {
        static ANY: OnceLock<Key> = OnceLock::new();
        ANY.get_or_init(Self::make)
    }
}

/// What came back: the elements of the answer.
#[derive(Debug, Clone)]
pub struct Answer(pub Vec<String>);

impl Answer {
    /// The leaf, DER.
    pub fn leaf(&self) -> CertificateDer<'static> {
        one(&self.0[0])
    }

    /// The serial number, lower-hex, of whole octets.
    pub fn serial(&self) -> String {
        serial(&self.leaf())
    }

    /// SHA-256 of the leaf.
    pub fn sha256(&self) -> Vec<u8> {
        ring::digest::digest(&ring::digest::SHA256, &self.leaf()).as_ref().to_vec()
    }

    /// The trust bundle: the last element.
    pub fn bundle(&self) -> &str {
        self.0.last().expect("a bundle")
    }

    /// The certificates between leaf and root.
    pub fn intermediates(&self) -> &[String] {
        &self.0[1..self.0.len() - 1]
    }

    /// All that is not the bundle.
    pub fn chain_pem(&self) -> String {
        self.0[..self.0.len() - 1].concat()
    }

    /// Verifies leaf and chain against the bundle of this answer, now, as a mesh peer would.
    pub fn verify(&self) -> Result<(), rustls::Error> {
        self.verify_against(self.bundle())
    }

    /// The same against other roots.
    pub fn verify_against(&self, roots: &str) -> Result<(), rustls::Error> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(root_store(roots)), Arc::new(rustls::crypto::ring::default_provider()));
        let verifier = verifier.build().expect("roots");
        let between: Vec<_> = self.intermediates().iter().map(|pem| one(pem)).collect();
        verifier.verify_client_cert(&self.leaf(), &between, UnixTime::now()).map(drop)
    }
}

/// One certificate of a PEM text that must hold exactly one.
pub fn one(pem: &str) -> CertificateDer<'static> {
    let mut all = certificates_from_pem(pem).expect("PEM");
    assert_eq!(all.len(), 1, "one certificate: {pem}");
    all.remove(0).into_owned()
}

/// The serial number of a certificate, lower-hex, without the zero octet that DER needs before a high bit.
pub fn serial(der: &[u8]) -> String {
    let (_, parsed) = X509Certificate::from_der(der).expect("DER");
    let bytes = parsed.raw_serial();
    bytes.strip_prefix(&[0]).unwrap_or(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// notAfter, Unix seconds.
pub fn not_after(der: &[u8]) -> i64 {
    X509Certificate::from_der(der).expect("DER").1.validity().not_after.timestamp()
}

fn root_store(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for root in certificates_from_pem(pem).expect("PEM") {
        roots.add(root).expect("a root");
    }
    roots
}

/// One connection to the CSR port.
#[derive(Debug)]
pub struct Client {
    inner: IstioCertificateServiceClient<Channel>,
    served: Arc<Mutex<Option<CertificateDer<'static>>>>,
}

impl Client {
    /// Connects and verifies the server against `roots`; `identity` is a client certificate with its key.
    pub async fn connect(address: SocketAddr, roots: &str, identity: Option<(&Answer, &Key)>) -> Result<Self, String> {
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(root_store(roots));
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((answer, key)) => {
                let chain = certificates_from_pem(&answer.chain_pem()).expect("PEM").into_iter().map(CertificateDer::into_owned).collect();
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pair.serialize_der()));
                builder.with_client_auth_cert(chain, key).expect("a client certificate")
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tls = TlsConnector::from(Arc::new(config));
        let served = Arc::new(Mutex::new(None));
        let seen = served.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let (tls, seen) = (tls.clone(), seen.clone());
            async move {
                let stream = TcpStream::connect(address).await?;
                // As Go's and tonic's clients have it: no second write waits for the first one's acknowledgement.
                stream.set_nodelay(true)?;
                let stream = tls.connect(ServerName::try_from("localhost").expect("a name"), stream).await?;
                *seen.lock().unwrap() = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("a URI");
        match tokio::time::timeout(PATIENCE, endpoint.connect_with_connector(connector)).await {
            Ok(Ok(channel)) => Ok(Self { inner: IstioCertificateServiceClient::new(channel), served }),
            Ok(Err(error)) => Err(format!("{error:?}")),
            Err(_) => Err("connecting took too long".to_owned()),
        }
    }

    /// Asks for one certificate.
    pub async fn ask(&mut self, key: &Key, token: Option<&str>) -> Result<Answer, Status> {
        let mut request = Request::new(IstioCertificateRequest { csr: key.csr.clone(), validity_duration: 0, metadata: None });
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        }
        match tokio::time::timeout(PATIENCE, self.inner.create_certificate(request)).await {
            Ok(answer) => answer.map(|answer| Answer(answer.into_inner().cert_chain)),
            Err(_) => panic!("no answer in {PATIENCE:?}"),
        }
    }

    /// The serial of the certificate that the server showed.
    pub fn server_serial(&self) -> String {
        serial(self.served.lock().unwrap().as_ref().expect("a server certificate"))
    }
}

/// One certificate over a connection of its own.
pub async fn ask_once(address: SocketAddr, roots: &str, token: Option<&str>) -> Result<Answer, Status> {
    let mut client = Client::connect(address, roots, None).await.expect("connect");
    client.ask(Key::any(), token).await
}

/// The ledger file, read only, beside the process that writes it.
pub fn open_ledger(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the ledger opens");
    connection.busy_timeout(PATIENCE).expect("timeout");
    connection
}

/// Whether this very certificate is on record.
pub fn on_record(ledger: &rusqlite::Connection, answer: &Answer) -> bool {
    let serial = hex::decode(answer.serial()).expect("hex");
    let sql = "SELECT count(*) FROM certificates WHERE serial = ?1 AND sha256 = ?2 AND \
         (id IN (SELECT id FROM serials WHERE serial = ?1) OR id > (SELECT indexed_to FROM meta))";
    let mut found = ledger.prepare_cached(sql).expect("SQL");
    found.query_row((serial, answer.sha256()), |row| row.get::<_, i64>(0)).expect("a count") == 1
}

/// The file is sound and no serial is there twice.
pub fn check_ledger(ledger: &rusqlite::Connection) {
    let verdict: String = ledger.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a verdict");
    assert_eq!(verdict, "ok");
    let twice: i64 = ledger
        .query_row("SELECT count(*) FROM (SELECT serial FROM certificates GROUP BY serial HAVING count(*) > 1)", [], |row| row.get(0))
        .expect("a count");
    assert_eq!(twice, 0, "serials that are there twice");
}
