//! An https server on loopback that answers with what a test puts there, and counts how often it was asked.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// The running server.
pub(crate) struct KeyServer {
    /// `https://localhost:PORT`.
    pub(crate) url: String,
    /// The root that verifies it, PEM.
    pub(crate) root: String,
    shared: Arc<Shared>,
}

struct Shared {
    pages: Mutex<BTreeMap<String, Page>>,
    asked: watch::Sender<u64>,
}

#[derive(Clone)]
enum Page {
    Answer(u16, Vec<u8>),
    /// Never answers.
    Silence,
    /// Answers once somebody says so.
    Held(watch::Receiver<bool>, Vec<u8>),
}

impl KeyServer {
    /// Starts a server with a root of its own.
    pub(crate) async fn start() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = parameters.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(parameters, key);
        let leaf_key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&leaf_key, &issuer).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], private)
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let shared = Arc::new(Shared { pages: Mutex::default(), asked: watch::Sender::new(0) });
        let server = Self { url, root: pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, root.der()).unwrap(), shared };
        let shared = Arc::clone(&server.shared);
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(tls));
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                    // A client that goes away is what some tests are about.
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        server
    }

    /// Answers `path` with this from now on.
    pub(crate) fn put(&self, path: &str, status: u16, body: impl Into<Vec<u8>>) {
        self.set(path, Page::Answer(status, body.into()));
    }

    /// Never answers `path` from now on.
    pub(crate) fn silence(&self, path: &str) {
        self.set(path, Page::Silence);
    }

    /// Answers `path` once `true` was sent.
    pub(crate) fn hold(&self, path: &str, body: impl Into<Vec<u8>>) -> watch::Sender<bool> {
        let (release, held) = watch::channel(false);
        self.set(path, Page::Held(held, body.into()));
        release
    }

    /// How many requests came.
    pub(crate) fn asked(&self) -> u64 {
        *self.shared.asked.borrow()
    }

    /// Ends once `count` requests came.
    pub(crate) async fn was_asked(&self, count: u64) {
        let came = self.shared.asked.subscribe().wait_for(|asked| *asked >= count).await.map(|_| ());
        came.unwrap();
    }

    fn set(&self, path: &str, page: Page) {
        self.shared.pages.lock().unwrap().insert(path.to_owned(), page);
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let page = shared.pages.lock().unwrap().get(request.uri().path()).cloned();
    shared.asked.send_modify(|asked| *asked += 1);
    let (status, body) = match page {
        None => (404, Vec::new()),
        Some(Page::Answer(status, body)) => (status, body),
        Some(Page::Silence) => std::future::pending().await,
        Some(Page::Held(mut held, body)) => {
            held.wait_for(|released| *released).await.unwrap();
            (200, body)
        }
    };
    // Were redirects followed, this would lead to keys.
    Ok(Response::builder().status(status).header("location", "/jwks").body(Full::from(body)).unwrap())
}

/// How long tests let a fetch take, on the manual clock.
pub(crate) const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
