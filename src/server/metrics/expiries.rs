//! When everything that we hold ends, and when it is renewed. As times, not as rests: a rest would be wrong between two scrapes.

use prometheus::{Error, Gauge, GaugeVec, IntGauge, IntGaugeVec, Opts, Registry};
use time::OffsetDateTime;

use super::{register, whole};
use crate::authority::{Generation, Held, Outlook};

#[derive(Debug)]
pub(super) struct Expiries {
    root: IntGauge,
    chain: IntGauge,
    serving: IntGauge,
    generation: IntGauge,
    bundle_number: IntGauge,
    authorities: IntGaugeVec,
    issuing_renewal: Gauge,
    serving_renewal: Gauge,
}

impl Expiries {
    pub(super) fn new(registry: &Registry) -> Result<Self, Error> {
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help)?);
        let authorities = Opts::new(
            "meshmint_authority_expiry_timestamp",
            "The earliest notAfter of what the authority holds, by role, Unix seconds; a role that nothing has isn't there.",
        );
        let renewal = Opts::new(
            "meshmint_renewal_due_timestamp",
            "When each is to be renewed, Unix seconds; +Inf where it can't be renewed here, or isn't there yet.",
        );
        let renewal = register(registry, GaugeVec::new(renewal, &["of"])?)?;
        let due = |of: &str| {
            let gauge = renewal.with_label_values(&[of]);
            gauge.set(f64::INFINITY);
            gauge
        };
        Ok(Self {
            root: gauge("citadel_server_root_cert_expiry_timestamp", "notAfter of the root that signs, Unix seconds.")?,
            chain: gauge("citadel_server_cert_chain_expiry_timestamp", "The earliest notAfter of the signing chain, Unix seconds.")?,
            serving: gauge("meshmint_serving_cert_expiry_timestamp", "notAfter of our own serving certificate, Unix seconds.")?,
            generation: gauge("meshmint_generation", "The generation that signs.")?,
            bundle_number: gauge("meshmint_bundle_number", "Number of the trust bundle.")?,
            authorities: register(registry, IntGaugeVec::new(authorities, &["role"])?)?,
            issuing_renewal: due("issuing_key"),
            serving_renewal: due("serving_certificate"),
        })
    }

    pub(super) fn serving(&self, not_after: OffsetDateTime, renewal_due: OffsetDateTime) {
        self.serving.set(not_after.unix_timestamp());
        self.serving_renewal.set(seconds(renewal_due));
    }

    pub(super) fn authority(&self, generation: &Generation, outlook: &Outlook) {
        self.root.set(generation.root_not_after.unix_timestamp());
        self.chain.set(generation.chain_end.unix_timestamp());
        self.generation.set(whole(generation.number.0));
        self.bundle_number.set(whole(generation.bundle_number));
        for held in Held::ALL {
            match outlook.ends.get(&held) {
                Some(end) => self.authorities.with_label_values(&[held.name()]).set(end.unix_timestamp()),
                // An error says that it wasn't there.
                None => drop(self.authorities.remove_label_values(&[held.name()])),
            }
        }
        self.issuing_renewal.set(outlook.renewal_due.map_or(f64::INFINITY, seconds));
    }
}

fn seconds(at: OffsetDateTime) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "whole seconds are exact for millions of years")]
    let seconds = at.unix_timestamp() as f64;
    seconds
}
