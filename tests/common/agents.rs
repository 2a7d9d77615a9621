//! Many pilot-agents at once: `tests/go/agents`, on grpc-go as every sidecar's agent is, against a `meshmint serve` whose tokens are minted here.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::load::Key;
use crate::process::{Serve, meshmint, serve_yaml};
use crate::tokens::{RS256, TokenIssuer, claims, with};
use crate::tools::tool;

/// Service accounts, in four namespaces.
const ACCOUNTS: usize = 20;
/// Keys that are asked for: nobody looks at them.
const KEYS: usize = 16;

/// A server with default limits, and the tokens of its workloads, each of a pod of its own.
pub struct Mesh {
    pub serve: Serve,
    folder: TempDir,
    tokens: Vec<String>,
}

impl Mesh {
    /// Starts a server that so many pods may ask; tokens are signed with RS256, as most clusters sign.
    pub fn start(pods: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issuer = TokenIssuer::new();
        issuer.publish(folder.path());
        let yaml = serve_yaml(folder.path(), folder.path(), "", "").replace("level: debug", "level: info");
        let serve = Serve::start(folder.path(), &yaml);
        let tokens = (0..pods).map(|pod| {
            let (namespace, account) = (format!("mesh-{}", pod % 4), format!("account-{}", pod % ACCOUNTS));
            let claims = with(claims(&namespace, &account), "kubernetes.io/pod", json!({"name": format!("pod-{pod}"), "uid": format!("uid-{pod}")}));
            issuer.sign(&json!({"alg": "RS256", "kid": "rsa"}), &claims, RS256)
        });
        let mesh = Self { tokens: tokens.collect(), serve, folder };
        mesh.write();
        mesh
    }

    /// What is asked, for the agents, and each token in a file of its own, for `meshmint bench`.
    fn write(&self) {
        let keys: Vec<_> = (0..KEYS).map(|_| Key::make().csr).collect();
        let mut questions = std::io::BufWriter::new(std::fs::File::create(self.path("questions")).unwrap());
        std::fs::create_dir(self.path("tokens")).unwrap();
        for (number, token) in self.tokens.iter().enumerate() {
            writeln!(questions, "{}", json!({"csr": keys[number % KEYS], "token": token})).unwrap();
            std::fs::write(self.path("tokens").join(number.to_string()), token).unwrap();
        }
        questions.flush().unwrap();
        let socket = self.path("admin.sock");
        std::fs::write(self.path("roots"), meshmint(&["bundle", "--admin", socket.to_str().unwrap()]).stdout).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The agents with these flags, begun by `by` (for example `taskset`) or directly; what they report.
    pub fn agents(&self, by: &[&str], more: &[&str]) -> Value {
        let program = tool("bin/meshmint-agents");
        let (roots, questions) = (self.path("roots"), self.path("questions"));
        let flags = ["--server-name".as_ref(), "localhost".as_ref(), "--roots".as_ref(), roots.as_path(), "--questions".as_ref(), &questions];
        report(by, &program, &[&["--address", &self.serve.csr.to_string()], more].concat(), &flags)
    }

    /// `meshmint bench` with these flags, over the same tokens.
    pub fn bench(&self, by: &[&str], more: &[&str]) -> Value {
        let (roots, tokens) = (self.path("roots"), self.path("tokens"));
        let flags = ["--ca".as_ref(), roots.as_path(), "--token-file".as_ref(), &tokens];
        let words = ["bench", &self.serve.csr.to_string(), "--server-name", "localhost", "-o", "json"];
        report(by, Path::new(env!("CARGO_BIN_EXE_meshmint")), &[&words, more].concat(), &flags)
    }
}

fn report(by: &[&str], program: &Path, words: &[&str], paths: &[&Path]) -> Value {
    let mut command = match by {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    let output = command.args(words).args(paths).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{command:?}: {error}: {said}"))
}
