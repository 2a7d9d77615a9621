//! Verdicts about what is kept up in the clusters.

use std::time::Duration;

use super::facts::{Fact, text};
use super::table::Check;
use crate::controllers::RootMapStatus;

/// As long as everything may take after a new bundle: 5,000 namespaces at 200 a second, and as much again.
const PATIENCE: Duration = Duration::from_secs(60);

/// A line for each cluster whose root ConfigMaps are ours to write; `None`: they aren't. `now` is monotonic.
pub(super) fn root_maps(status: Option<&[RootMapStatus]>, now: Duration) -> Vec<Fact> {
    match status {
        None => vec![Fact::ok(Check::RootConfigMaps, "root ConfigMaps are written by others")],
        Some([]) => vec![Fact::ok(Check::RootConfigMaps, "another replica sees to the root ConfigMaps")],
        Some(clusters) => clusters.iter().map(|status| root_maps_of(status, now)).collect(),
    }
}

fn root_maps_of(status: &RootMapStatus, now: Duration) -> Fact {
    const CHECK: Check = Check::RootConfigMaps;
    let RootMapStatus { selected, current, left_alone, failing, .. } = status;
    let behind = status.behind_since.map(|since| now.saturating_sub(since));
    let late = behind.is_some_and(|behind| behind > PATIENCE);
    let unlisted = status.watches.iter().find(|watch| watch.age.is_none());
    let trouble = status.watches.iter().find_map(|watch| Some(format!("{}: {}", watch.resource.name(), watch.trouble.as_ref()?)));
    let of_namespace = status.trouble.as_ref().map(|(namespace, error)| format!("namespace {namespace}: {error}"));
    let fact = match (unlisted, behind) {
        (Some(watch), _) if trouble.is_some() => {
            Fact::failed(CHECK, format!("{} were never listed: no namespace gets the trust bundle", watch.resource.name()))
        }
        (Some(_), _) => Fact::ok(CHECK, "namespaces are being listed"),
        (None, _) if *failing > 0 => Fact::failed(CHECK, format!("{failing} of {selected} namespaces can't be given the trust bundle")),
        (None, _) if *left_alone > 0 => {
            Fact::failed(CHECK, format!("{left_alone} of {selected} namespaces have a bundle of a higher number, which is left alone"))
        }
        (None, Some(behind)) => {
            let message = format!("{current} of {selected} namespaces have the trust bundle, for {} not all of them", text(behind));
            match (late, &trouble) {
                (true, _) => Fact::failed(CHECK, message),
                (false, Some(_)) => Fact::warning(CHECK, message),
                (false, None) => Fact::ok(CHECK, message),
            }
        }
        (None, None) if trouble.is_some() => {
            Fact::warning(CHECK, format!("{current} namespaces have the trust bundle; a new one may not be noticed"))
        }
        (None, None) => Fact::ok(CHECK, format!("all {selected} namespaces have the trust bundle")),
    };
    let details = [Some(format!("cluster {}", status.cluster)), of_namespace, trouble];
    fact.with_detail(details.into_iter().flatten().collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{ApiError, Resource, WatchStatus};
    use crate::pki::inspect::Severity::{Failed, Ok, Warning};

    fn watch(resource: Resource) -> WatchStatus {
        WatchStatus { resource, age: Some(Duration::ZERO), objects: 3, lists: 1, failures: 0, trouble: None }
    }

    fn status() -> RootMapStatus {
        let watches = vec![watch(Resource::Namespaces), watch(Resource::ConfigMaps)];
        RootMapStatus { cluster: "east".to_owned(), selected: 3, current: 3, watches, ..RootMapStatus::default() }
    }

    #[test]
    fn a_cluster_is_well_late_refused_or_ahead() {
        let verdict = |status: RootMapStatus| {
            let fact = root_maps(Some(&[status]), Duration::from_secs(100)).remove(0);
            (fact.severity, format!("{} ({})", fact.message, fact.detail))
        };
        let since = |seconds| Some(Duration::from_secs(seconds));
        let refused = ApiError::Status { code: 403, message: "no".to_owned() };
        assert_eq!(verdict(status()), (Ok, "all 3 namespaces have the trust bundle (cluster east)".to_owned()));
        assert_eq!(verdict(RootMapStatus { current: 1, behind_since: since(95), ..status() }).0, Ok, "it is under way");
        assert_eq!(verdict(RootMapStatus { current: 1, behind_since: since(20), ..status() }).0, Failed);
        let failing =
            RootMapStatus { current: 2, failing: 1, behind_since: since(99), trouble: Some(("shop".to_owned(), refused.clone())), ..status() };
        let (severity, said) = verdict(failing);
        assert!(severity == Failed && said.contains("1 of 3") && said.contains("namespace shop: ") && said.contains("403"), "{said}");
        assert_eq!(verdict(RootMapStatus { current: 2, left_alone: 1, behind_since: since(99), ..status() }).0, Failed);

        let mut unheard = status();
        unheard.watches[1].trouble = Some(refused);
        assert_eq!(verdict(unheard.clone()).0, Warning);
        assert_eq!(verdict(RootMapStatus { current: 1, behind_since: since(95), ..unheard.clone() }).0, Warning);
        unheard.watches[1].age = None;
        let (severity, said) = verdict(unheard.clone());
        assert!(severity == Failed && said.contains("configmaps were never listed"), "{said}");
        unheard.watches[1].trouble = None;
        assert_eq!(verdict(unheard).0, Ok, "a moment after the start");
        assert_eq!([root_maps(None, Duration::ZERO)[0].severity, root_maps(Some(&[]), Duration::ZERO)[0].severity], [Ok, Ok]);
    }
}
