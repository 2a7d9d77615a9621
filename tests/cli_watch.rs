//! `certs watch` against real servers: nothing missed, nothing twice, and how it ends.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/load.rs"]
mod load;
#[path = "common/process.rs"]
mod process;

use std::io::{BufRead, BufReader, Lines, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::load::{Answer, Client, Key};
use crate::process::{Dev, meshmint, terminate, wait_for};

/// A running `certs watch`.
struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    /// Starts one.
    fn start(dev: &Dev, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_meshmint"))
            .args(["certs", "watch", "--dir", dev.dir().to_str().unwrap()])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Starts one for people, and waits until it follows.
    fn follow(dev: &Dev, more: &[&str]) -> Self {
        let mut watch = Self::start(dev, more);
        let heading = watch.line();
        assert!(heading.starts_with("SERIAL ") && heading.ends_with("FOR"), "{heading}");
        watch
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("a line").unwrap()
    }

    /// SIGINT, as Ctrl-C.
    fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Its exit code, the rest of its output, and what it said.
    fn end(mut self) -> (Option<i32>, Vec<String>, String) {
        let rest = self.lines.by_ref().map(Result::unwrap).collect();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), rest, said)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may be dead already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Asks for certificates of one account.
struct Workload {
    runtime: Runtime,
    client: Client,
    token: String,
}

impl Workload {
    fn of(dev: &Dev, namespace: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let roots = std::fs::read_to_string(dev.roots()).unwrap();
        let client = runtime.block_on(Client::connect(dev.csr().parse().unwrap(), &roots, None)).unwrap();
        Self { runtime, client, token: dev.token(namespace, "cart", &[]) }
    }

    fn ask(&mut self) -> Answer {
        self.runtime.block_on(self.client.ask(Key::any(), Some(&self.token))).unwrap()
    }
}

fn serial(line: &str) -> String {
    line.split(' ').next().unwrap().to_owned()
}

#[test]
fn every_certificate_is_one_line_as_in_the_list() {
    let dev = Dev::start();
    let (mut shop, mut bank) = (Workload::of(&dev, "shop"), Workload::of(&dev, "bank"));
    // Not the certificate of dev's demonstration, which may come before or after.
    let mut all = Watch::follow(&dev, &["--service-account", "cart"]);
    let few = Watch::follow(&dev, &["--namespace", "bank", "--limit", "2"]);
    let mut json = Watch::start(&dev, &["-o", "json", "--kind", "leaf", "--service-account", "cart"]);
    for _ in 0..3 {
        shop.ask();
        bank.ask();
    }
    let mut seen: Vec<String> = (0..6).map(|_| all.line()).collect();
    let listed = meshmint(&["certs", "list", "--kind", "leaf", "--service-account", "cart", "--dir", dev.dir().to_str().unwrap()]);
    let listed: Vec<String> = String::from_utf8(listed.stdout).unwrap().lines().skip(1).map(str::to_owned).collect();
    seen.reverse();
    assert_eq!(seen, listed, "the same lines, oldest first");

    let (code, rest, said) = few.end();
    assert_eq!((code, rest.len(), said.as_str()), (Some(0), 2, ""), "--limit ends it");
    assert!(rest.iter().all(|line| line.ends_with("spiffe://cluster.local/ns/bank/sa/cart")), "{rest:?}");

    // It may have begun before or after those; from its first line on it has each.
    let first = wait_for("a first object", || {
        let asked = shop.ask();
        drop(asked);
        Some(json.line())
    });
    let object: Value = serde_json::from_str(&first).unwrap();
    assert!(object["spiffeId"].as_str().unwrap().ends_with("/sa/cart") && object["kind"] == "KIND_LEAF", "{first}");
    json.interrupt();
    let (code, rest, said) = json.end();
    assert_eq!((code, said.as_str()), (Some(0), ""), "Ctrl-C is no failure");
    assert!(rest.iter().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    all.interrupt();
    assert_eq!(all.end().0, Some(0));
}

#[test]
fn a_reader_that_is_slow_misses_nothing() {
    let dev = Dev::start();
    let watch = Watch::follow(&dev, &["--namespace", "shop", "--limit", "1500"]);
    // Far more than a pipe, a connection's window and a page hold together; nobody reads meanwhile.
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| {
                let mut workload = Workload::of(&dev, "shop");
                for _ in 0..50 {
                    workload.ask();
                }
            });
        }
    });
    let (code, lines, said) = watch.end();
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let seen: Vec<_> = lines.iter().map(|line| serial(line)).collect();
    let (mut listed, mut token) = (Vec::new(), String::new());
    loop {
        let dir = dev.dir().to_str().unwrap();
        let page = meshmint(&["certs", "list", "-o", "json", "--namespace", "shop", "--page-size", "1000", "--page-token", &token, "--dir", dir]);
        let page: Value = serde_json::from_slice(&page.stdout).unwrap();
        listed.extend(page["certificates"].as_array().unwrap().iter().map(|each| each["serial"].as_str().unwrap().to_owned()));
        match page["nextPageToken"].as_str().filter(|next| !next.is_empty()) {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    listed.reverse();
    assert_eq!(seen, listed);
}

#[test]
fn a_server_that_goes_down_ends_its_watches() {
    let mut dev = Dev::start();
    let watch = Watch::follow(&dev, &[]);
    terminate(dev.child());
    assert_eq!(dev.child().wait().unwrap().code(), Some(0), "a watch doesn't keep it");
    let (code, rest, said) = watch.end();
    assert_eq!((code, rest.len()), (Some(1), 0));
    assert!(said.contains("shutting down") && said.contains("meshmint check") && said.contains("certs list"), "{said}");

    let dev = Dev::start_in(dev.kill());
    let watch = Watch::follow(&dev, &[]);
    drop(dev.kill());
    let (code, _, said) = watch.end();
    assert!(code == Some(1) && said.contains("the watch ended: "), "killed: {said}");
    let nobody = tempfile::tempdir().unwrap();
    let output = meshmint(&["certs", "watch", "--dir", nobody.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("meshmint dev"));
}

#[test]
fn sixteen_may_watch() {
    let dev = Dev::start();
    let mut watches: Vec<_> = (0..16).map(|_| Watch::follow(&dev, &[])).collect();
    let refused = meshmint(&["certs", "watch", "--dir", dev.dir().to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("16 watch already"));
    assert!(meshmint(&["certs", "stats", "--dir", dev.dir().to_str().unwrap()]).status.success(), "other questions are answered");
    let last = watches.pop().unwrap();
    last.interrupt();
    assert_eq!(last.end().0, Some(0));
    // The server notices in its own time that he left; then there is a place, whose holder ends with the server.
    let mut next = wait_for("a place", || {
        let mut next = Watch::start(&dev, &[]);
        match next.lines.next() {
            Some(heading) => {
                assert!(heading.unwrap().starts_with("SERIAL "));
                Some(next)
            }
            None => None,
        }
    });
    Workload::of(&dev, "shop").ask();
    assert!(next.line().ends_with("/ns/shop/sa/cart"));
}
