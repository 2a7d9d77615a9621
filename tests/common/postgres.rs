//! Real PostgreSQL servers for tests: each in a folder of its own, on a port that the system chose, with TLS, and ended by its process id
//! when its value is dropped, or when the test's process is gone. `tests/setup` brings the programs.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

/// The password of every role in these tests.
pub const PASSWORD: &str = "not-so-secret";

/// Who owns the server's files and processes where the tests run as root: PostgreSQL refuses root.
const NOBODY: &str = "nobody";

/// How long anything may take on a machine that builds something else at the same time.
const PATIENCE: Duration = Duration::from_secs(60);

static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A server, or a standby of one.
pub struct Postgres {
    folder: TempDir,
    port: u16,
    process: Mutex<Option<Child>>,
    /// Ends the server and removes the folder once its input is closed: however this process ends.
    watchdog: Mutex<Child>,
}

impl Postgres {
    /// One for all tests of a program; each takes a database of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A new one, with fsync and TLS.
    pub fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    /// A new one in this folder.
    pub fn start_in(folder: TempDir) -> Self {
        give_to_nobody(folder.path());
        let password_file = folder.path().join("password");
        fs::write(&password_file, PASSWORD).unwrap();
        fs::set_permissions(&password_file, fs::Permissions::from_mode(0o644)).unwrap();
        succeed(
            program("initdb")
                .arg("-D")
                .arg(folder.path().join("data"))
                .args(["--username=postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"])
                .arg(format!("--pwfile={}", password_file.display())),
        );
        certificates(folder.path());
        let server = Self::on(folder);
        server.configure(&[]);
        server.begin();
        server
    }

    fn on(folder: TempDir) -> Self {
        let watch = "read -r gone; pid=$(head -n 1 \"$1/data/postmaster.pid\") && kill -9 $(cat /proc/$pid/task/$pid/children) $pid; rm -rf \"$1\"";
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", watch, "watchdog"]).arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let watchdog = Mutex::new(watchdog.spawn().unwrap());
        Self { folder, port: free_port(), process: Mutex::new(None), watchdog }
    }

    /// Writes its configuration; it counts from the next start.
    fn configure(&self, more: &[&str]) {
        let folder = self.folder.path().display();
        let mut lines = vec![
            format!("port = {}", self.port),
            "listen_addresses = '127.0.0.1'".to_owned(),
            format!("unix_socket_directories = '{folder}'"),
            "max_connections = 60".to_owned(),
            "shared_buffers = 32MB".to_owned(),
            "ssl = on".to_owned(),
            format!("ssl_cert_file = '{folder}/server.pem'"),
            format!("ssl_key_file = '{folder}/server.key'"),
            "log_min_messages = warning".to_owned(),
            "wal_keep_size = 256MB".to_owned(),
            "max_wal_size = 256MB".to_owned(),
            "min_wal_size = 32MB".to_owned(),
        ];
        lines.extend(more.iter().map(|line| (*line).to_owned()));
        fs::write(self.data().join("postgresql.conf"), lines.join("\n") + "\n").unwrap();
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts it on the data that are there.
    pub fn begin(&self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap();
        let began = Instant::now();
        loop {
            let mut command = program("postgres");
            command.arg("-D").arg(self.data()).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log.try_clone().unwrap());
            let mut child = command.spawn().unwrap();
            while child.try_wait().unwrap().is_none() {
                if self.try_sql("postgres", "SELECT 1").is_ok() {
                    *self.process.lock().unwrap() = Some(child);
                    return;
                }
                assert!(began.elapsed() < PATIENCE, "PostgreSQL doesn't get ready: {}", self.log());
                std::thread::sleep(Duration::from_millis(20));
            }
            // After kill -9 the last of its processes may still hold the shared memory.
            assert!(began.elapsed() < Duration::from_secs(10), "PostgreSQL ends by itself: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Its processes, the first one first.
    fn processes(&self) -> Vec<Pid> {
        let Some(first) = self.process.lock().unwrap().as_ref().map(Child::id) else { return Vec::new() };
        let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap_or_default();
        let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        std::iter::once(first.cast_signed()).chain(pids).filter_map(Pid::from_raw).collect()
    }

    /// The ids of its processes.
    pub fn pids(&self) -> Vec<u32> {
        self.processes().iter().map(|pid| pid.as_raw_nonzero().get().cast_unsigned()).collect()
    }

    fn signal(&self, signal: Signal) {
        for pid in self.processes() {
            // One may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether its process is there.
    pub fn runs(&self) -> bool {
        self.process.lock().unwrap().as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// kill -9 of all its processes, as when the machine fails.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        if let Some(mut child) = self.process.lock().unwrap().take() {
            child.wait().unwrap();
        }
    }

    /// A clean end: whoever is connected is told.
    pub fn stop(&self) {
        let Some(mut child) = self.process.lock().unwrap().take() else { return };
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        child.wait().unwrap();
    }

    /// Freezes all its processes.
    pub fn freeze(&self) {
        // The first one first: it would start new ones.
        self.signal(Signal::STOP);
        self.signal(Signal::STOP);
    }

    /// The end of [`Postgres::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Runs SQL as superuser, and returns what `psql` prints.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The same, where it may fail.
    pub fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = Command::new(binaries().join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", sql]);
        psql.arg("-h").arg(self.folder.path()).args(["-p", &self.port.to_string()]);
        let output = psql.stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// A new, empty database, owned by a role of its own that may do nothing else.
    pub fn database(&self) -> Database {
        let name = format!("ledger_{}", DATABASES.fetch_add(1, Ordering::SeqCst));
        self.sql("postgres", &format!("CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'"));
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER {name}"));
        Database { name, port: self.port, ca_file: self.ca_file(), password_file: self.folder.path().join("password") }
    }

    /// The roots that its certificate chains to.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A standby of this one that streams, once it has caught up. Commits don't wait for it unless [`Postgres::wait_for_standby`] says so.
    pub fn standby(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        give_to_nobody(folder.path());
        let mut copy = program("pg_basebackup");
        copy.arg("-h").arg(self.folder.path()).args(["-p", &self.port.to_string(), "-U", "postgres", "--checkpoint=fast", "-R", "-X", "stream"]);
        copy.arg("-D").arg(folder.path().join("data")).arg("--no-sync");
        succeed(&mut copy);
        for file in ["server.pem", "server.key", "ca.pem", "password"] {
            succeed(Command::new("cp").arg("-p").arg(self.folder.path().join(file)).arg(folder.path()));
        }
        let standby = Self::on(folder);
        standby.configure(&[]);
        standby.begin();
        self.until("a standby streams", "SELECT count(*) > 0 FROM pg_stat_replication WHERE state = 'streaming'");
        standby
    }

    /// From now on each commit waits for a standby.
    pub fn wait_for_standby(&self) {
        self.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'");
        self.sql("postgres", "SELECT pg_reload_conf()");
        self.until("commits wait for the standby", "SELECT count(*) > 0 FROM pg_stat_replication WHERE sync_state = 'sync'");
    }

    /// A standby hears nothing of its primary any more.
    pub fn cut_off(&self) {
        self.sql("postgres", "ALTER SYSTEM SET primary_conninfo = 'host=/nowhere'");
        self.sql("postgres", "SELECT pg_reload_conf()");
        self.until("it is cut off", "SELECT count(*) = 0 FROM pg_stat_wal_receiver");
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        self.sql("postgres", "ALTER SYSTEM RESET synchronous_standby_names");
        self.sql("postgres", "SELECT pg_reload_conf()");
        assert_eq!(self.sql("postgres", "SELECT pg_promote()"), "t");
    }

    /// Asks until the answer is yes.
    pub fn until(&self, what: &str, sql: &str) {
        let began = Instant::now();
        while self.sql("postgres", sql) != "t" {
            assert!(began.elapsed() < PATIENCE, "timed out: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
        let watchdog = self.watchdog.get_mut().unwrap();
        drop(watchdog.stdin.take());
        let _ = watchdog.wait();
    }
}

/// A database of a server, and what it takes to connect.
#[derive(Debug, Clone)]
pub struct Database {
    pub name: String,
    pub port: u16,
    pub ca_file: PathBuf,
    pub password_file: PathBuf,
}

impl Database {
    /// Its URL, over TLS.
    pub fn url(&self) -> String {
        format!("postgresql://{}@localhost:{}/{}", self.name, self.port, self.name)
    }

    /// The URL of this database on either of two servers, whichever may be written.
    pub fn url_with(&self, other: &Postgres) -> String {
        format!("postgresql://{}@localhost:{},localhost:{}/{}", self.name, self.port, other.port, self.name)
    }
}

/// Where the programs are: the newest version that Debian has installed.
fn binaries() -> PathBuf {
    let version = |path: &PathBuf| path.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    let folders = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let newest = folders.filter(|folder| folder.join("initdb").exists()).max_by_key(version);
    newest.expect("PostgreSQL is missing: run tests/setup, which brings everything that the tests need")
}

/// One of them, run by somebody who isn't root.
fn program(name: &str) -> Command {
    let path = binaries().join(name);
    let mut command = if geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", "nogroup", "--clear-groups"]).arg(path);
        command
    } else {
        Command::new(path)
    };
    // A folder that it may be in.
    command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
    command
}

fn give_to_nobody(folder: &Path) {
    if geteuid().is_root() {
        succeed(Command::new("chown").arg(format!("{NOBODY}:nogroup")).arg(folder));
    }
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} can't be run: {error}"));
    assert!(output.status.success(), "{command:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

/// A root, and a certificate of `localhost` below it.
fn certificates(folder: &Path) {
    let openssl = |args: &str| {
        succeed(Command::new("openssl").args(args.split(' ')).current_dir(folder));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 30 -subj /CN=database-root"));
    openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"));
    fs::write(folder.join("names"), "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n").unwrap();
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 30 -extfile names");
    if geteuid().is_root() {
        succeed(Command::new("chown").args([NOBODY, "server.key", "server.pem"]).current_dir(folder));
    }
    fs::set_permissions(folder.join("server.key"), fs::Permissions::from_mode(0o600)).unwrap();
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
