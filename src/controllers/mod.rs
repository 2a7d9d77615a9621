//! What istiod does while it is the CA, and what nobody does once its CA is off: the root ConfigMap in every namespace of every cluster
//! (`distribution`, `root_config_maps`).
//!
//! Only the leader works here. Everything is decided from what watches know, by comparing all of it again whenever something changes, so no
//! change is missed and no order of events matters. Every write names what it replaces, so a leader that was frozen through the election of another
//! can't undo that one's work.

mod attempts;
mod distribution;
mod leading;
mod namespaces;
mod pace;
mod root_config_maps;
mod root_map;
mod writes;

pub use distribution::{Distribution, DistributionParts};
pub use root_config_maps::{RootMapStatus, RootMaps};
