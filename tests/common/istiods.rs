//! A CA in process and what keeps a Secret of an istiod beside it, both by one clock that tests move.
#![allow(unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use meshmint::cluster::{Access, ApiServer as Api};
use meshmint::controllers::IstiodsParts;
use time::OffsetDateTime;

use super::common::clock::ManualClock;
use super::common::issuer::{Choices, SeededEntropy, World};
use super::common::{Shared, goes_on};

/// The CA, the clock, and the parts of a keeper for the istiod of our own cluster, "east", which does this work.
pub async fn beside<W>(shared: &Shared, work: impl FnOnce(&World) -> W) -> (World, ManualClock, IstiodsParts<W>) {
    let clock = ManualClock::at(OffsetDateTime::now_utc());
    goes_on(&clock);
    let world = World::found(Choices::default(), Arc::new(clock.clone()), SeededEntropy::new(7)).await;
    let api = Api::connect(&Access::Kubeconfig(shared.kubeconfig(shared.server.port())), Arc::new(clock.clone())).await.unwrap();
    let work = work(&world);
    let parts = IstiodsParts {
        cluster: "east".to_owned(),
        api,
        others: None,
        namespace: "istio-system".to_owned(),
        clusters: BTreeSet::from(["east".to_owned()]),
        writer: "one".to_owned(),
        clock: Arc::new(clock.clone()),
        entropy: SeededEntropy::new(8),
        work,
    };
    (world, clock, parts)
}
