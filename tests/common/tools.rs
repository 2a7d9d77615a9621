//! The tools that `tests/setup` installs, and running one of them. A missing tool is a failure that names `tests/setup`; nothing is
//! skipped for want of one.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The tool folder, found as `tests/setup` finds it.
pub fn tools() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("MESHMINT_TEST_TOOLS").unwrap_or_else(|| {
        let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache"))).expect("MESHMINT_TEST_TOOLS, XDG_CACHE_HOME or HOME");
        cache.join("meshmint-tests")
    })
}

/// A file of the tool folder, for example `bin/envoy`.
pub fn tool(name: &str) -> PathBuf {
    let path = tools().join(name);
    assert!(path.exists(), "{} is missing: run tests/setup, which brings everything that the tests need", path.display());
    path
}

/// The Python that has the tests' packages.
pub fn python() -> Command {
    Command::new(tool("python/bin/python"))
}

/// A file of the repository, for example `tests/python/wire_contract.py`.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares with a file in the repository, or writes it where that is asked for.
pub fn same_as_file(path: &Path, text: &str) {
    if std::env::var_os("MESHMINT_TEST_WRITE").is_some() {
        std::fs::write(path, text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), text, "{}", path.display());
}

/// openssl, with these arguments and nothing on its standard input.
pub fn openssl<S: AsRef<OsStr>>(args: &[S]) -> Output {
    let ran = Command::new("openssl").args(args).stdin(Stdio::null()).output();
    ran.unwrap_or_else(|error| panic!("openssl can't be run ({error}): run tests/setup, which brings everything that the tests need"))
}

/// Runs it to its end and wants it to succeed; the panic carries all that it said. Returns its standard output.
pub fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?} can't be run: {error}"));
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} ended with {}\n{said}{complained}", output.status);
    said.into_owned()
}

/// The lints of everybody (openssl, pkilint, Go) over every sample folder below `samples`; a sample has `cert-chain.pem`,
/// `root-cert.pem` and, for a workload's certificate, a file `id`.
pub fn lint(samples: &Path) -> String {
    let python = tool("python/bin/python");
    tool("bin/meshmint-verify");
    succeed(Command::new(python).arg(repository("tests/tools/lint_samples")).arg(samples).env("MESHMINT_TEST_TOOLS", tools()))
}

/// Go's verdict on a chain file, against the roots in another one; `kind` is `leaf`, `serving` or `ca`.
pub fn go_verify(chain: &Path, roots: &Path, kind: &str) -> String {
    succeed(Command::new(tool("bin/meshmint-verify")).arg("--chain").arg(chain).arg("--roots").arg(roots).args(["--kind", kind]))
}

/// The PEM blocks of a text, each with its line end.
pub fn pem_blocks(text: &str) -> Vec<String> {
    let end = "-----END CERTIFICATE-----\n";
    let begin = "-----BEGIN CERTIFICATE-----";
    text.split_inclusive(end).filter_map(|part| Some(part[part.find(begin)?..].to_owned()).filter(|block| block.ends_with(end))).collect()
}
