//! Finding the admin API of a running server, on its socket or over the network, and asking it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tower::service_fn;

use super::csr_client::{client_config, code_name, connect};
use crate::clock::SystemClock;
use crate::server::proto::admin::admin_client::AdminClient;

/// Which server to ask.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(super) struct Target {
    #[command(flatten)]
    place: Place,
    /// The roots that the server's certificate at --address must chain to (PEM)
    #[arg(long, value_name = "FILE", requires = "address")]
    roots: Option<PathBuf>,
    /// A Kubernetes token for --address: `kubectl create token ACCOUNT --audience meshmint-admin`
    #[arg(long, value_name = "FILE", requires = "address")]
    token_file: Option<PathBuf>,
    /// The name in the server's certificate [default: the host of --address]
    #[arg(long, value_name = "NAME", requires = "address")]
    server_name: Option<String>,
}

/// Where it is.
#[derive(Debug, Clone, clap::Args)]
#[group(multiple = false)]
struct Place {
    /// The folder of a running `meshmint dev`
    #[arg(long, value_name = "DIR", default_value = ".meshmint")]
    dir: PathBuf,
    /// The admin socket of a running `meshmint serve` (`admin.socket` in its configuration)
    #[arg(long, value_name = "SOCKET")]
    admin: Option<PathBuf>,
    /// The admin port of a running `meshmint serve` (`admin.listen`); needs --roots and --token-file
    #[arg(long, value_name = "HOST:PORT", requires_all = ["roots", "token_file"])]
    address: Option<String>,
}

#[derive(Deserialize)]
struct Endpoints {
    admin: PathBuf,
}

/// A client of the admin API.
pub(super) type Client = AdminClient<InterceptedService<Channel, Credentials>>;

/// What is sent with each question: nothing over the socket, a token over the network.
#[derive(Clone)]
pub(super) struct Credentials(Option<MetadataValue<Ascii>>);

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(bearer) = &self.0 {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}

impl Target {
    /// A client of the admin API.
    ///
    /// # Errors
    /// In words that say how to start a server, or what is wrong with what was given.
    pub(super) async fn connect(&self) -> Result<Client, String> {
        let (channel, credentials) = match &self.place.address {
            None => (self.over_the_socket().await?, Credentials(None)),
            Some(address) => self.over_the_network(address).await?,
        };
        Ok(AdminClient::with_interceptor(channel, credentials).max_decoding_message_size(MAX_ANSWER))
    }

    async fn over_the_socket(&self) -> Result<Channel, String> {
        let socket = self.socket()?;
        let connector = {
            let socket = socket.clone();
            service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            })
        };
        Endpoint::from_static("http://admin").connect_with_connector(connector).await.map_err(|_| {
            format!(
                "no server answers on {}. Start one with `meshmint dev` or `meshmint serve --config FILE`, as the user who runs this command",
                socket.display()
            )
        })
    }

    async fn over_the_network(&self, address: &str) -> Result<(Channel, Credentials), String> {
        let (Some(roots), Some(token)) = (&self.roots, &self.token_file) else { return Err("--address needs --roots and --token-file".to_owned()) };
        let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| format!("can't read {}: {error}", path.display()));
        let config = client_config(&read(roots)?, None).map_err(|error| format!("{}: {error}", roots.display()))?;
        // The value's own error would not say which file, and must not say what is in it.
        let mut bearer = MetadataValue::try_from(format!("Bearer {}", read(token)?.trim()))
            .map_err(|_| format!("{} is no token: it has characters that no header may carry", token.display()))?;
        bearer.set_sensitive(true);
        let channel =
            connect(address, self.server_name.as_deref(), config, SystemClock::shared().as_ref()).await.map_err(|error| error.to_string())?;
        Ok((channel, Credentials(Some(bearer))))
    }

    /// The server at this socket, unless another one was named with --admin or --address.
    pub(super) fn or_socket(mut self, socket: &Path) -> Self {
        if self.place.address.is_none() {
            self.place.admin.get_or_insert_with(|| socket.to_owned());
        }
        self
    }

    /// The server in words: its socket or its address.
    pub(super) fn name(&self) -> String {
        match &self.place.address {
            Some(address) => address.clone(),
            None => self.socket().map(|socket| socket.display().to_string()).unwrap_or_default(),
        }
    }

    /// The address of the machine that it is on, where it is not this one.
    pub(super) async fn host(&self) -> Option<IpAddr> {
        let mut found = tokio::net::lookup_host(self.place.address.as_ref()?).await.ok()?;
        found.next().map(|address| address.ip())
    }

    /// The socket's path.
    ///
    /// # Errors
    /// In words that say how to start a server.
    fn socket(&self) -> Result<PathBuf, String> {
        let Place { dir, admin, .. } = &self.place;
        if let Some(socket) = admin {
            return Ok(socket.clone());
        }
        let file = dir.join("endpoints.json");
        let text = std::fs::read(&file).map_err(|_| {
            format!(
                "no server is running in {} (there is no {}). Start one with `meshmint dev --dir {}`, or name the socket of `meshmint serve` with --admin",
                dir.display(),
                file.display(),
                dir.display()
            )
        })?;
        let endpoints: Endpoints = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(endpoints.admin)
    }
}

/// A page of 1,000 certificates with all their names.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// An answer of the server that is no answer, in words.
pub(super) fn words(status: &Status) -> String {
    match status.code() {
        // Only over the network: the code says whose move it is.
        code @ (Code::Unauthenticated | Code::PermissionDenied) => format!("{}: {}", code_name(code), status.message()),
        _ => status.message().to_owned(),
    }
}
