//! Messages of the admin API as proto3 JSON: lowerCamelCase names, RFC 3339 times, 64-bit numbers as strings.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};

use crate::server::proto::DESCRIPTORS;

/// `message`, which is of the type `meshmint.admin.v1.NAME`, as indented JSON.
///
/// # Errors
/// In words, where the build's descriptors don't fit its types: a bug.
pub(super) fn to_json<M: Message>(name: &str, message: &M) -> Result<String, String> {
    let pool = DescriptorPool::decode(DESCRIPTORS).map_err(|error| error.to_string())?;
    let descriptor = pool.get_message_by_name(&format!("meshmint.admin.v1.{name}")).ok_or_else(|| format!("no message {name}"))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).map_err(|error| error.to_string())?;
    serde_json::to_string_pretty(&dynamic).map_err(|error| error.to_string())
}
