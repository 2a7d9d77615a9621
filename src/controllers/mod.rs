//! What istiod does while it is the CA, and what nobody does once its CA is off: the root ConfigMap in every namespace of every cluster
//! (`distribution`, `root_config_maps`), and istiod's own certificate (`istiod_tls`). Where a mesh keeps istiod as its CA, an intermediate for it
//! (`plugged_ca`).
//!
//! Only the leader works here. Everything is decided from what watches know, by comparing all of it again whenever something changes, so no
//! change is missed and no order of events matters. Every write names what it replaces, so a leader that was frozen through the election of another
//! can't undo that one's work.

mod attempts;
mod distribution;
mod istiod_secret;
mod istiod_tls;
mod istiods;
mod kept_secret;
mod leading;
mod namespaces;
mod own_secret;
mod pace;
mod per_cluster;
mod plugged_ca;
mod plugged_secret;
mod root_config_maps;
mod root_map;
mod roots;
mod webhooks;
mod writes;

pub use distribution::{Distribution, DistributionParts};
pub use istiod_tls::{IstiodTls, IstiodTlsStatus, IstiodTlsWork};
pub use istiods::IstiodsParts;
pub use kept_secret::SecretStatus;
pub use plugged_ca::{Cacerts, CacertsWork};
pub use root_config_maps::{RootMapStatus, RootMaps};
