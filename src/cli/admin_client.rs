//! Finding the admin API of a running server, on its socket, over the network or in a cluster, and asking it.

mod kube;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::ArgGroup;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tower::service_fn;

use self::kube::KubeArgs;
pub(super) use self::kube::Pod;
use super::csr_client::{client_config, code_name, connect};
use crate::clock::SystemClock;
use crate::cluster::Access;
use crate::pki::inspect::printable;
use crate::server::proto::admin::admin_client::AdminClient;

/// The folder that `meshmint dev` has by default.
const DEV: &str = ".meshmint";
/// The same variable by which `serve` takes the key `admin.socket`.
const SOCKET_VARIABLE: &str = "MESHMINT_ADMIN_SOCKET";
/// The default of that key.
const USUAL_SOCKET: &str = "/run/meshmint/admin.sock";

/// The part of a command's help that says which server is asked.
const HEADING: &str = "Which server";

/// Which server to ask.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
#[command(group(ArgGroup::new("far").multiple(true).args(["address", "kube"])))]
pub(super) struct Target {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    cluster: KubeArgs,
    /// The roots that the server's certificate must chain to (PEM) [default with --kube: those of ConfigMap istio-ca-root-cert]
    #[arg(long, help_heading = HEADING, value_name = "FILE", requires = "far")]
    roots: Option<PathBuf>,
    /// A Kubernetes token: `kubectl create token ACCOUNT --audience meshmint-admin` [default with --kube: one that is made for this]
    #[arg(long, help_heading = HEADING, value_name = "FILE", requires = "far")]
    token_file: Option<PathBuf>,
    /// The name in the server's certificate [default: the host of --address; with --kube meshmint.NAMESPACE.svc]
    #[arg(long, help_heading = HEADING, value_name = "NAME", requires = "far")]
    server_name: Option<String>,
}

/// Where it is.
#[derive(Debug, Clone, clap::Args)]
#[group(multiple = false)]
struct Place {
    /// The folder of a running `meshmint dev`
    #[arg(long, help_heading = HEADING, value_name = "DIR", default_value = DEV)]
    dir: PathBuf,
    /// The admin socket of a running `meshmint serve` (`admin.socket` in its configuration) [default: MESHMINT_ADMIN_SOCKET, then the
    /// folder of a running `meshmint dev`, then /run/meshmint/admin.sock]
    #[arg(long, help_heading = HEADING, value_name = "SOCKET")]
    admin: Option<PathBuf>,
    /// The admin port of a running `meshmint serve` (`admin.listen`); needs --roots and --token-file
    #[arg(long, help_heading = HEADING, value_name = "HOST:PORT", requires_all = ["roots", "token_file"])]
    address: Option<String>,
}

/// A server that answers, and what it is called.
pub(super) struct Reached {
    pub(super) client: Client,
    pub(super) name: String,
    pub(super) way: Way,
}

/// How other ports of it are reached.
pub(super) enum Way {
    /// On this machine.
    Here,
    /// On the machine with this address, HOST:PORT.
    Network(String),
    /// Through the API server.
    Cluster(Pod),
}

/// Why no server was reached, in words that say what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreached {
    /// Nothing of the kind is there.
    #[error("{0}")]
    Absent(String),
    /// The cluster can't be asked.
    #[error("{0}")]
    NoCluster(String),
    /// It is there, and whoever asks lacks something to ask it with.
    #[error("{0}")]
    Unasked(String),
    /// It doesn't answer.
    #[error("{0}")]
    Trouble(String),
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

impl Credentials {
    /// `None` where no header may carry the token.
    fn of(token: &str) -> Option<Self> {
        let mut bearer = MetadataValue::try_from(format!("Bearer {}", token.trim())).ok()?;
        bearer.set_sensitive(true);
        Some(Self(Some(bearer)))
    }
}

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
        self.reach().await.map(|reached| reached.client).map_err(|error| error.to_string())
    }

    /// The same, with what else can be known of the server.
    ///
    /// # Errors
    /// [`Unreached`].
    pub(super) async fn reach(&self) -> Result<Reached, Unreached> {
        let (channel, credentials, name, way) = if let Some(address) = &self.place.address {
            let (channel, credentials) = self.over_the_network(address).await.map_err(Unreached::Trouble)?;
            (channel, credentials, address.clone(), Way::Network(address.clone()))
        } else if self.is_in_cluster() {
            let pod = self.cluster.find().await?;
            let (channel, credentials) = self.through_the_cluster(&pod).await?;
            (channel, credentials, pod.to_string(), Way::Cluster(pod))
        } else {
            let socket = self.socket().map_err(Unreached::Trouble)?;
            let channel = over_the_socket(&socket).await.map_err(Unreached::Trouble)?;
            (channel, Credentials(None), socket.display().to_string(), Way::Here)
        };
        let client = AdminClient::with_interceptor(channel, credentials).max_decoding_message_size(MAX_ANSWER);
        Ok(Reached { client, name, way })
    }

    async fn over_the_network(&self, address: &str) -> Result<(Channel, Credentials), String> {
        let (Some(roots), Some(token)) = (&self.roots, &self.token_file) else { return Err("--address needs --roots and --token-file".to_owned()) };
        let config = client_config(&read(roots)?, None).map_err(|error| format!("{}: {error}", roots.display()))?;
        let credentials = Credentials::of(&read(token)?).ok_or_else(|| no_token(token))?;
        let channel =
            connect(address, self.server_name.as_deref(), config, SystemClock::shared().as_ref()).await.map_err(|error| error.to_string())?;
        Ok((channel, credentials))
    }

    async fn through_the_cluster(&self, pod: &Pod) -> Result<(Channel, Credentials), Unreached> {
        let (roots, of) = match &self.roots {
            Some(file) => (read(file).map_err(Unreached::Trouble)?, file.display().to_string()),
            None => (self.cluster.roots(pod).await?, "ConfigMap istio-ca-root-cert".to_owned()),
        };
        let config = client_config(&roots, None).map_err(|error| Unreached::Trouble(format!("{of}: {error}")))?;
        let credentials = match &self.token_file {
            Some(file) => Credentials::of(&read(file).map_err(Unreached::Trouble)?).ok_or_else(|| no_token(file)),
            None => Credentials::of(&self.cluster.token(pod).await?).ok_or_else(|| "the API server made no token".to_owned()),
        };
        let channel = self.cluster.connect(pod, self.server_name.as_deref(), config).await?;
        Ok((channel, credentials.map_err(Unreached::Trouble)?))
    }

    /// The server at this socket, unless another one was named with --admin or --address.
    pub(super) fn or_socket(mut self, socket: &Path) -> Self {
        if self.place.address.is_none() {
            self.place.admin.get_or_insert_with(|| socket.to_owned());
        }
        self
    }

    /// Whether it is to be found in a cluster: only where nobody said which one it is, as `check --kube` allows.
    pub(super) fn is_in_cluster(&self) -> bool {
        self.cluster.kube && self.place.address.is_none() && self.place.admin.is_none()
    }

    /// The cluster of --kube, where that was given.
    pub(super) fn cluster(&self) -> Option<Access> {
        self.cluster.kube.then(|| self.cluster.access())
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
        // Only where nobody said which server it is.
        if dir == Path::new(DEV) {
            if let Some(socket) = std::env::var_os(SOCKET_VARIABLE).filter(|socket| !socket.is_empty()) {
                return Ok(socket.into());
            }
            let usual = Path::new(USUAL_SOCKET);
            if !file.exists() && usual.exists() {
                return Ok(usual.to_owned());
            }
        }
        let text = std::fs::read(&file).map_err(|error| {
            if error.kind() == ErrorKind::PermissionDenied {
                return not_ours(&file);
            }
            format!(
                "no server is running in {} (there is no {}). Start one with `meshmint dev --dir {}`, or name the socket of `meshmint serve` with --admin",
                dir.display(),
                file.display(),
                dir.display()
            )
        })?;
        let place = |error: serde_json::Error| format!("{}: line {} column {}", file.display(), error.line(), error.column());
        let endpoints: Endpoints = serde_json::from_slice(&text).map_err(place)?;
        Ok(endpoints.admin)
    }
}

async fn over_the_socket(socket: &Path) -> Result<Channel, String> {
    let connector = {
        let socket = socket.to_owned();
        service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        })
    };
    Endpoint::from_static("http://admin").connect_with_connector(connector).await.map_err(|_| {
        // The error above doesn't say of which kind it is.
        let refused = std::os::unix::net::UnixStream::connect(socket).err().map(|error| error.kind());
        if refused == Some(ErrorKind::PermissionDenied) {
            return not_ours(socket);
        }
        format!(
            "no server answers on {}. Start one with `meshmint dev` or `meshmint serve --config FILE`, as the user who runs this command",
            socket.display()
        )
    })
}

fn not_ours(path: &Path) -> String {
    format!(
        "this user may not open {}: a server may be running there. Ask as the user that it runs as (`sudo -u USER meshmint …`), or over the network \
         with --address or --kube",
        path.display()
    )
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("can't read {}: {error}", path.display()))
}

/// The parser's own words would not say which file, and must not say what is in it.
fn no_token(file: &Path) -> String {
    format!("{} is no token: it has characters that no header may carry", file.display())
}

/// A page of 1,000 certificates with all their names.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// An answer of the server that is no answer, in words.
pub(super) fn words(status: &Status) -> String {
    // One line: `failed` keeps the breaks of our own sentences.
    let message = printable(status.message());
    match status.code() {
        // Only over the network: the code says whose move it is.
        code @ (Code::Unauthenticated | Code::PermissionDenied) => format!("{}: {message}", code_name(code)),
        _ => message,
    }
}
