//! The generated protobuf types, and their descriptors for reflection and for JSON.
#![allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]

/// The descriptors of every message and service, an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// `istio.v1.auth`: proto/istio/ca.proto.
pub mod istio {
    tonic::include_proto!("istio.v1.auth");
}

/// `meshmint.admin.v1`: proto/meshmint/admin/v1/admin.proto.
pub mod admin {
    tonic::include_proto!("meshmint.admin.v1");
}
