//! What an operator can ask and change. Every door that lets one in calls these: the admin API over its socket and its port, and whatever comes to stand
//! beside it. So nothing in here knows a protocol (`tests/architecture.rs` holds it to that); each operation is told who asks, takes values and gives
//! values, and what it refuses is an [`OperationError`].
//!
//! Whether he may is decided before, at the door, by the one table in `permissions`; who he is, by a [`Directory`].

mod authorities;
mod changes;
mod directory;
mod error;
mod kubernetes;
mod operator;
mod permissions;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tokio::sync::{Semaphore, watch as signal};

pub use self::authorities::{Authorities, ShownAuthority, Standing};
pub use self::changes::NewRoot;
pub use self::directory::Directory;
pub use self::error::OperationError;
pub use self::operator::{Credential, Operator, Who};
pub use self::permissions::Operation;
use self::watch::Watch;
pub use self::watch::WatchedPages;
use super::checkup::{Checkup, Fact};
use crate::authority::Generation;
use crate::clock::Clock;
use crate::issuance::ServingNames;
use crate::ledger::{AuditPage, CertificateFilter, Cursor, Ledger, Page, Stats, StoredCertificate};
use crate::pki::certificates_from_pem;
use crate::rotation::{Keeper, Trusted};
use crate::spiffe::TrustDomain;
use crate::spiffe::bundle::bundle_json;

/// Entries on a page where nothing is said, and at most.
const DEFAULT_PAGE: u32 = 100;
const LARGEST_PAGE: u32 = 1000;
/// How often a consumer of the bundle document should look again (SPIFFE Trust Domain and Bundle §4.1.2).
const REFRESH_HINT: Duration = Duration::from_secs(300);
/// Who may watch at once: each of them asks the ledger four times a second.
pub(super) const MAX_WATCHERS: usize = 16;
/// The longest serial number, octets (RFC 5280 §4.1.2.2).
const MAX_SERIAL_BYTES: usize = 20;

/// The operations of one replica, and what they work on.
#[derive(Debug)]
pub struct Operations {
    pub(super) trust_domain: TrustDomain,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) generation: Arc<ArcSwap<Generation>>,
    pub(super) keeper: Arc<Keeper>,
    pub(super) checkup: Arc<Checkup>,
    /// None: there is no CSR port here.
    pub(super) csr_address: Option<SocketAddr>,
    pub(super) serving: ServingNames,
    /// Places for [`MAX_WATCHERS`].
    pub(super) watchers: Arc<Semaphore>,
    /// Turns true when the server goes down.
    pub(super) stopped: signal::Receiver<bool>,
    pub(super) clock: Arc<dyn Clock>,
}

/// Which page of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Paging<C> {
    /// Where the page before ended; `None` for the first.
    pub after: Option<C>,
    /// Entries on it; 0 where nothing is said. More than 1,000 are never given.
    pub size: u32,
}

impl<C> Paging<C> {
    fn limit(&self) -> u32 {
        if self.size == 0 { DEFAULT_PAGE } else { self.size.min(LARGEST_PAGE) }
    }
}

/// What was found, and the time that it is to be judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<T> {
    /// What was found.
    pub found: T,
    /// When it was looked for, wall time.
    pub at: OffsetDateTime,
}

/// The trust bundle that is in every answer now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    /// Whose it is.
    pub trust_domain: TrustDomain,
    /// Its number.
    pub number: u64,
    /// Its roots, PEM.
    pub pem: Arc<str>,
    /// The same as a SPIFFE bundle document.
    pub spiffe_json: String,
}

/// What this server found out about itself.
#[derive(Debug, Clone)]
pub struct Health {
    /// After looking: whoever asks compares it with his own clock.
    pub now: OffsetDateTime,
    /// Since it started.
    pub uptime: Duration,
    /// What it found.
    pub facts: Vec<Fact>,
    /// Where workloads ask; `None` where they don't.
    pub csr_address: Option<SocketAddr>,
    /// The names on the serving certificate.
    pub serving: ServingNames,
}

impl Operations {
    /// One page of certificates, in the order of [`Ledger::list`].
    ///
    /// # Errors
    /// [`OperationError::Ledger`], also for a cursor of a list in another order.
    pub async fn list_certificates(
        &self,
        operator: &Operator,
        filter: &CertificateFilter,
        page: Paging<Cursor>,
    ) -> Result<Found<Page>, OperationError> {
        asked(operator, Operation::ListCertificates);
        let at = self.clock.now();
        Ok(Found { found: self.ledger.list(filter, page.after, page.limit(), at).await?, at })
    }

    /// Certificates as they are recorded from now on, in the order of recording. Whoever reads slowly gets the next page later.
    ///
    /// # Errors
    /// [`OperationError::Watchers`], [`OperationError::Ledger`]; later, in what is read, why it ended.
    pub async fn watch_certificates(&self, operator: &Operator, filter: CertificateFilter) -> Result<WatchedPages, OperationError> {
        asked(operator, Operation::WatchCertificates);
        let place = self.watchers.clone().try_acquire_owned().map_err(|_| OperationError::Watchers)?;
        let watch = Watch { ledger: self.ledger.clone(), filter, clock: self.clock.clone(), stopped: self.stopped.clone(), place };
        watch.begin().await
    }

    /// Everything on record about one serial number, as people copy it: hex digits, with or without colons, in either case, any number of leading zeros.
    ///
    /// # Errors
    /// [`OperationError::Serial`], [`OperationError::NoCertificate`], [`OperationError::Ledger`].
    pub async fn certificates_of_serial(&self, operator: &Operator, serial: &str) -> Result<Found<Vec<StoredCertificate>>, OperationError> {
        asked(operator, Operation::GetCertificate);
        let serial = serial_number(serial).ok_or(OperationError::Serial)?;
        let found = self.ledger.find_serial(&serial).await?;
        if found.is_empty() {
            return Err(OperationError::NoCertificate(hex::encode(serial)));
        }
        Ok(Found { found, at: self.clock.now() })
    }

    /// Counts over the ledger.
    ///
    /// # Errors
    /// [`OperationError::Ledger`].
    pub async fn stats(&self, operator: &Operator) -> Result<Stats, OperationError> {
        asked(operator, Operation::GetStats);
        Ok(self.ledger.stats(self.clock.now()).await?)
    }

    /// The trust bundle that is in every answer now.
    ///
    /// # Errors
    /// [`OperationError::Bundle`], [`OperationError::BundleDocument`]: bugs.
    pub fn bundle(&self, operator: &Operator) -> Result<TrustBundle, OperationError> {
        asked(operator, Operation::GetBundle);
        let generation = self.generation.load_full();
        let roots = certificates_from_pem(&generation.bundle)?;
        let roots: Vec<&[u8]> = roots.iter().map(AsRef::as_ref).collect();
        Ok(TrustBundle {
            trust_domain: self.trust_domain.clone(),
            number: generation.bundle_number,
            pem: generation.bundle.clone(),
            spiffe_json: bundle_json(&roots, generation.bundle_number, REFRESH_HINT)?,
        })
    }

    /// Every authority of ours and every root of the trust bundle.
    ///
    /// # Errors
    /// [`OperationError::Unreadable`]: a bug.
    pub fn authorities(&self, operator: &Operator) -> Result<Authorities, OperationError> {
        asked(operator, Operation::ListAuthorities);
        let state = self.keeper.state();
        Ok(Authorities {
            trust_domain: self.trust_domain.clone(),
            bundle_number: state.bundle_number,
            authorities: authorities::all(&state, self.clock.now())?,
        })
    }

    /// The authority whose id is, or begins with, `id`.
    ///
    /// # Errors
    /// [`OperationError::AuthorityId`], [`OperationError::NoAuthority`], [`OperationError::SeveralAuthorities`].
    pub fn authority(&self, operator: &Operator, id: &str) -> Result<ShownAuthority, OperationError> {
        asked(operator, Operation::GetAuthority);
        authorities::one(&self.keeper.state(), id, self.clock.now())
    }

    /// Lets a root join the trust bundle. It goes on to its end also where whoever asked for it has left.
    ///
    /// # Errors
    /// [`OperationError::NoReason`], [`OperationError::Reason`], [`OperationError::Verifier`], [`OperationError::Trust`].
    pub async fn add_trust(&self, operator: &Operator, root: NewRoot) -> Result<Trusted, OperationError> {
        asked(operator, Operation::AddTrust);
        changes::add_trust(self.keeper.clone(), operator, root).await
    }

    /// One page of who changed what and why, the newest first; `after` is the number of the last entry that was seen.
    ///
    /// # Errors
    /// [`OperationError::Ledger`].
    pub async fn audit(&self, operator: &Operator, page: Paging<u64>) -> Result<AuditPage, OperationError> {
        asked(operator, Operation::ListAudit);
        Ok(self.ledger.audits(page.after, page.limit()).await?)
    }

    /// Whether this server is well.
    pub async fn check(&self, operator: &Operator) -> Health {
        asked(operator, Operation::Check);
        let facts = self.checkup.look().await;
        let (now, uptime) = (self.clock.now(), self.checkup.uptime());
        Health { now, uptime, facts, csr_address: self.csr_address, serving: self.serving.clone() }
    }
}

/// Changes are in the audit; whoever wants to know who reads what can have it in the log.
fn asked(operator: &Operator, operation: Operation) {
    tracing::debug!(%operator, operation = operation.name(), "an operator asks");
}

fn serial_number(text: &str) -> Option<Vec<u8>> {
    let digits: String = text.trim().trim_start_matches("0x").chars().filter(|each| *each != ':').collect();
    let significant = digits.trim_start_matches('0');
    let padded = if significant.len() % 2 == 1 { format!("0{significant}") } else { significant.to_owned() };
    hex::decode(&padded).ok().filter(|serial| !digits.is_empty() && serial.len() <= MAX_SERIAL_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_is_a_number_however_it_is_written() {
        for text in ["1a2b3c", "1A:2B:3C", "0x1a2b3c", "00:00:1a:2b:3c", " 01a2b3c "] {
            assert_eq!(serial_number(text).unwrap(), [0x1a, 0x2b, 0x3c], "{text}");
        }
        assert_eq!(serial_number("abc").unwrap(), [0x0a, 0xbc]);
        assert_eq!(serial_number("0").unwrap(), [0_u8; 0]);
        for text in ["", "xyz", "1a 2b", &"f".repeat(41)] {
            assert_eq!(serial_number(text), None, "{text}");
        }
    }

    #[test]
    fn a_page_has_a_size_that_somebody_can_read() {
        let limit = |size| Paging::<u64> { after: None, size }.limit();
        assert_eq!([limit(0), limit(1), limit(1_000), limit(u32::MAX)], [100, 1, 1_000, 1_000]);
    }
}
