//! Compiles the protobuf files with protox, so that no protoc is needed, and keeps their descriptors for reflection and JSON.
//! Without the feature `service` there is nothing to compile, and none of the compilers is built.

#[cfg(feature = "service")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rustc-env=PROGRAM_VERSION={}", version());
    let descriptors = protox::compile(["istio/ca.proto", "meshmint/admin/v1/admin.proto"], ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().codec_path("crate::server::codec::StrictCodec").compile_fds(descriptors)?;
    Ok(())
}

/// What `--version` says: the commit, too, where it is known: by SOURCE_COMMIT, or for a release by git. Other builds would be made anew after each
/// commit.
#[cfg(feature = "service")]
fn version() -> String {
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    println!("cargo:rerun-if-env-changed=SOURCE_COMMIT");
    let given = std::env::var("SOURCE_COMMIT").ok().filter(|commit| !commit.is_empty());
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    match given.or_else(|| is_release.then(commit_by_git).flatten()) {
        Some(commit) => format!("{version} ({commit})"),
        None => version,
    }
}

/// None without git, or outside a repository of ours.
#[cfg(feature = "service")]
fn commit_by_git() -> Option<String> {
    let ask = |args: &[&str]| {
        let output = std::process::Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned()).filter(|answer| !answer.is_empty())
    };
    // An unpacked source archive may lie below somebody else's repository.
    ask(&["ls-files", "--error-unmatch", "build.rs"])?;
    if let Some(log) = ask(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    ask(&["rev-parse", "--short=12", "HEAD"])
}

#[cfg(not(feature = "service"))]
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
