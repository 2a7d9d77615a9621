//! What is to be certified, under which number, by whom: the decisions that [`super::prepare`] writes down.

use std::net::IpAddr;

use super::public_key::CheckedKey;
use super::{IssuerKey, Signer};
use crate::clock::{Entropy, NoEntropy};
use crate::spiffe::{SpiffeId, TrustDomain};

/// A serial number: four octets of time for locality in the ledger, then 128 random bits. Positive, 20 octets (RFC 5280 §4.1.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serial([u8; 20]);

impl Serial {
    /// Draws a serial.
    ///
    /// # Errors
    /// [`NoEntropy`].
    pub fn draw(entropy: &dyn Entropy, now: time::OffsetDateTime) -> Result<Self, NoEntropy> {
        let mut chance = [0; 16];
        entropy.fill(&mut chance)?;
        Ok(Self::of(now, chance))
    }

    pub(super) fn of(now: time::OffsetDateTime, chance: [u8; 16]) -> Self {
        // In steps of four seconds the first bit stays 0, and the number positive, until the year 2242.
        let steps = u32::try_from(now.unix_timestamp() >> 2).unwrap_or(0) & 0x7fff_ffff;
        let mut bytes = [0; 20];
        let (prefix, rest) = bytes.split_at_mut(4);
        prefix.copy_from_slice(&steps.max(1 << 24).to_be_bytes());
        rest.copy_from_slice(&chance);
        Self(bytes)
    }

    /// The octets, big-endian.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What is to be certified. Everything that a certificate of each kind holds is decided here.
#[derive(Debug, Clone)]
pub enum Subject<'a> {
    /// A workload's X509-SVID: empty subject, one critical URI SAN.
    Leaf {
        /// Its identity.
        id: &'a SpiffeId,
        /// Its key.
        key: &'a CheckedKey,
    },
    /// A TLS server's certificate for clients that check a host name.
    Serving {
        /// DNS names; the host of Istio's `caAddress` among them.
        dns_names: &'a [String],
        /// IP addresses.
        ip_addresses: &'a [IpAddr],
        /// The server's key.
        key: &'a CheckedKey,
    },
    /// An authority that signs leaves only (`pathlen:0`): ours, or one that is given to istiod.
    Issuing {
        /// Its trust domain (X509-SVID §4.1: a URI SAN without a path).
        trust_domain: &'a TrustDomain,
        /// Its common name, never used before: Go's verifier gives up on many issuers of one name.
        name: &'a str,
        /// Its key.
        key: &'a CheckedKey,
    },
    /// A self-signed root.
    Root {
        /// Its trust domain.
        trust_domain: &'a TrustDomain,
        /// Its common name, never used before.
        name: &'a str,
        /// Its key.
        key: &'a CheckedKey,
    },
}

impl Subject<'_> {
    pub(super) fn key(&self) -> &CheckedKey {
        match self {
            Self::Leaf { key, .. } | Self::Serving { key, .. } | Self::Issuing { key, .. } | Self::Root { key, .. } => key,
        }
    }
}

/// Who signs.
#[derive(Debug, Clone, Copy)]
pub enum IssuedBy<'a> {
    /// An authority.
    Signer(&'a Signer),
    /// The certified key itself.
    Itself(&'a IssuerKey),
}

impl IssuedBy<'_> {
    pub(super) fn key(&self) -> &IssuerKey {
        match self {
            Self::Signer(signer) => signer.key(),
            Self::Itself(key) => key,
        }
    }
}
