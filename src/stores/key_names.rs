//! What keys are called. A reference may come from a document that somebody edited, so nothing that could name another place is taken.

use super::StoreError;
use crate::authority::KeyRef;

/// The longest name of a key, in bytes.
const MAX_BYTES: usize = 128;

/// The name behind a reference of a store whose references begin with `scheme`.
///
/// # Errors
/// [`StoreError::KeyUnusable`] where the reference is of another store, or no name.
pub(super) fn name_of<'a>(reference: &'a KeyRef, scheme: &str) -> Result<&'a str, StoreError> {
    let name = reference.0.strip_prefix(scheme).unwrap_or_default();
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if name.is_empty() || name.len() > MAX_BYTES || !name.bytes().all(allowed) {
        return Err(StoreError::KeyUnusable {
            name: reference.0.chars().take(MAX_BYTES).collect::<String>().escape_debug().to_string(),
            reason: format!("a key of this store is called {scheme}NAME, with 1 to {MAX_BYTES} of a-z, 0-9 and '-'"),
        });
    }
    Ok(name)
}
