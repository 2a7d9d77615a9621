//! Compiles the protobuf files with protox, so that no protoc is needed, and keeps their descriptors for reflection and JSON.
//! Without the feature `service` there is nothing to compile, and none of the compilers is built.

#[cfg(feature = "service")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["istio/ca.proto", "meshmint/admin/v1/admin.proto"], ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().codec_path("crate::server::codec::StrictCodec").compile_fds(descriptors)?;
    Ok(())
}

#[cfg(not(feature = "service"))]
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
