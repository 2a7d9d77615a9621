//! TLS records that no client's library would send: whatever is in them, under the keys of a handshake that went well.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::sync::Arc;

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::cipher::{Iv, Nonce as RecordNonce};
use rustls::{ClientConfig, ConnectionTrafficSecrets};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// RFC 8446 section 5.1.
pub const HANDSHAKE: u8 = 22;

/// Seals records where a client's library stopped.
pub struct Records {
    key: LessSafeKey,
    iv: Iv,
    sequence: u64,
}

/// The same client, whose keys can be taken out.
pub fn with_keys(tls: &ClientConfig) -> Arc<ClientConfig> {
    let mut tls = tls.clone();
    tls.enable_secret_extraction = true;
    Arc::new(tls)
}

impl Records {
    /// Takes a TLS 1.3 connection apart: its socket, and what seals the client's next records.
    pub fn of(stream: TlsStream<TcpStream>) -> (TcpStream, Self) {
        let (socket, connection) = stream.into_inner();
        let (sequence, secrets) = connection.dangerous_extract_secrets().unwrap().tx;
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => panic!("a cipher of which this knows nothing"),
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).unwrap());
        (socket, Self { key, iv, sequence })
    }

    /// One record (RFC 8446 section 5.2).
    pub fn seal(&mut self, content: u8, fragment: &[u8]) -> Vec<u8> {
        let mut sealed = [fragment, &[content]].concat();
        let length = u16::try_from(sealed.len() + 16).unwrap();
        let head = [&[23, 3, 3], length.to_be_bytes().as_slice()].concat();
        let nonce = Nonce::assume_unique_for_key(RecordNonce::new(&self.iv, self.sequence).0);
        self.key.seal_in_place_append_tag(nonce, Aad::from(&head), &mut sealed).unwrap();
        self.sequence += 1;
        [head, sealed].concat()
    }
}
