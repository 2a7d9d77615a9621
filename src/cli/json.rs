//! Messages of the admin API as proto3 JSON: lowerCamelCase names, RFC 3339 times, 64-bit numbers as strings.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

use super::screen::{self, json_escaped};
use crate::server::proto::DESCRIPTORS;

/// Writes messages of one type.
#[derive(Debug, Clone)]
pub(super) struct Json(MessageDescriptor);

impl Json {
    /// For the type `meshmint.admin.v1.NAME`.
    ///
    /// # Errors
    /// In words, where the build's descriptors don't fit its types: a bug.
    pub(super) fn of(name: &str) -> Result<Self, String> {
        let pool = DescriptorPool::decode(DESCRIPTORS).map_err(|error| error.to_string())?;
        pool.get_message_by_name(&format!("meshmint.admin.v1.{name}")).map(Self).ok_or_else(|| format!("no message {name}"))
    }

    /// `message` in one line, without its end.
    ///
    /// # Errors
    /// As [`Json::of`].
    pub(super) fn line<M: Message>(&self, message: &M) -> Result<String, String> {
        serde_json::to_string(&self.dynamic(message)?).map(|json| json_escaped(&json)).map_err(|error| error.to_string())
    }

    fn dynamic<M: Message>(&self, message: &M) -> Result<DynamicMessage, String> {
        DynamicMessage::decode(self.0.clone(), message.encode_to_vec().as_slice()).map_err(|error| error.to_string())
    }
}

/// `message`, which is of the type `meshmint.admin.v1.NAME`, as indented JSON.
///
/// # Errors
/// As [`Json::of`].
pub(super) fn to_json<M: Message>(name: &str, message: &M) -> Result<String, String> {
    screen::json(&Json::of(name)?.dynamic(message)?)
}
