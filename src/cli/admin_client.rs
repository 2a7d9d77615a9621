//! Finding the admin socket of a running server, and asking it.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::server::proto::admin::admin_client::AdminClient;

/// Which server to ask.
#[derive(Debug, Clone, clap::Args)]
#[group(multiple = false)]
pub(super) struct Target {
    /// The folder of a running `meshmint dev`
    #[arg(long, value_name = "DIR", default_value = ".meshmint")]
    dir: PathBuf,
    /// The admin socket of a running `meshmint serve` (`admin.socket` in its configuration)
    #[arg(long, value_name = "SOCKET")]
    admin: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Endpoints {
    admin: PathBuf,
}

impl Target {
    /// A client of the admin API.
    ///
    /// # Errors
    /// In words that say how to start a server.
    pub(super) async fn connect(&self) -> Result<AdminClient<Channel>, String> {
        let socket = self.socket()?;
        let connector = {
            let socket = socket.clone();
            service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            })
        };
        let channel = Endpoint::from_static("http://admin").connect_with_connector(connector).await.map_err(|_| {
            format!(
                "no server answers on {}. Start one with `meshmint dev` or `meshmint serve --config FILE`, as the user who runs this command",
                socket.display()
            )
        })?;
        Ok(AdminClient::new(channel).max_decoding_message_size(MAX_ANSWER))
    }

    /// The server at this socket, unless another one was named with --admin.
    pub(super) fn or_socket(mut self, socket: &Path) -> Self {
        self.admin.get_or_insert_with(|| socket.to_owned());
        self
    }

    /// The socket's path.
    ///
    /// # Errors
    /// In words that say how to start a server.
    pub(super) fn socket(&self) -> Result<PathBuf, String> {
        if let Some(socket) = &self.admin {
            return Ok(socket.clone());
        }
        let file = self.dir.join("endpoints.json");
        let text = std::fs::read(&file).map_err(|_| {
            format!(
                "no server is running in {} (there is no {}). Start one with `meshmint dev --dir {}`, or name the socket of `meshmint serve` with --admin",
                self.dir.display(),
                file.display(),
                self.dir.display()
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
    status.message().to_owned()
}
