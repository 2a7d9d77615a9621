//! Verdicts about what is kept up in the clusters.

use std::time::Duration;

use time::OffsetDateTime;

use super::facts::{Fact, text};
use super::table::Check;
use crate::cluster::{Resource, WatchStatus};
use crate::controllers::{IstiodTlsStatus, RootMapStatus, SecretStatus};
use crate::pki::inspect::lifetime;

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
    let RootMapStatus { selected, current, left_alone, fought_over, failing, .. } = status;
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
        (None, _) if *fought_over > 0 => {
            Fact::failed(CHECK, format!("in {fought_over} of {selected} namespaces somebody else writes another trust bundle again and again"))
        }
        (None, _) if *left_alone > 0 => {
            Fact::warning(CHECK, format!("{left_alone} of {selected} namespaces have a bundle of a higher number, which is left alone for a moment"))
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
    let rival = status.rival.as_ref().map(|(namespace, authority)| match authority {
        Some(authority) => format!("namespace {namespace} has a bundle of another authority, {authority}"),
        None => format!("namespace {namespace} has another bundle"),
    });
    let details = [Some(format!("cluster {}", status.cluster)), of_namespace, rival, trouble];
    fact.with_detail(details.into_iter().flatten().collect::<Vec<_>>().join("; "))
}

/// Two lines for each istiod whose certificate is ours: that, and whether istiod shows the trust bundle; `None`: there is none.
pub(super) fn istiod(status: Option<&[IstiodTlsStatus]>, now: OffsetDateTime) -> Vec<Fact> {
    const CERTIFICATE: Check = Check::IstiodCertificate;
    const BUNDLE: Check = Check::IstiodBundle;
    match status {
        None => vec![Fact::ok(CERTIFICATE, "istiod's certificate is made by others"), Fact::ok(BUNDLE, "istiod's webhooks are not looked at")],
        Some([]) => vec![
            Fact::ok(CERTIFICATE, "another replica sees to istiod's certificate"),
            Fact::ok(BUNDLE, "another replica looks at istiod's webhooks"),
        ],
        Some(all) => all.iter().flat_map(|status| [istiod_certificate(status, now), istiod_bundle(status)]).collect(),
    }
}

/// Why a watch isn't heard.
fn unheard(watch: &WatchStatus) -> Option<String> {
    Some(format!("{}: {}", watch.resource.name(), watch.trouble.as_ref()?))
}

fn is_of_webhooks(watch: &WatchStatus) -> bool {
    matches!(watch.resource, Resource::MutatingWebhooks | Resource::ValidatingWebhooks)
}

/// The line, with the cluster and what is known besides.
fn in_cluster(fact: Fact, cluster: &str, details: [Option<String>; 2]) -> Fact {
    let details = details.into_iter().flatten();
    fact.with_detail(std::iter::once(format!("cluster {cluster}")).chain(details).collect::<Vec<_>>().join("; "))
}

fn istiod_certificate(status: &IstiodTlsStatus, now: OffsetDateTime) -> Fact {
    const CHECK: Check = Check::IstiodCertificate;
    let IstiodTlsStatus { secret, namespace, .. } = status;
    let unheard = secret.watches.iter().filter(|watch| !is_of_webhooks(watch)).find_map(unheard);
    let end = secret.not_after.map(|not_after| lifetime(OffsetDateTime::UNIX_EPOCH, not_after, now));
    let has_failed = secret.trouble.is_some() || unheard.is_some();
    let fact = match end {
        _ if !secret.joined => Fact::failed(CHECK, "an istiod has no certificate of ours: its cluster is not joined"),
        _ if secret.foreign => Fact::warning(CHECK, "the Secret istiod-tls is somebody else's and left alone"),
        _ if secret.left_alone => Fact::failed(CHECK, "the Secret istiod-tls is of a newer trust bundle or generation and left alone"),
        Some(end) if has_failed => Fact::warning(CHECK, format!("istiod's certificate {end} and can't be kept up")),
        Some(end) => Fact::ok(CHECK, format!("istiod's certificate {end}")),
        None if unheard.is_some() => Fact::failed(CHECK, "istiod's certificate isn't known"),
        None if has_failed => Fact::failed(CHECK, "istiod has no certificate"),
        None if !namespace => Fact::ok(CHECK, "istiod's namespace isn't there yet"),
        None => Fact::ok(CHECK, "istiod's certificate is being issued"),
    };
    in_cluster(fact, &secret.cluster, [secret.trouble.clone(), unheard])
}

fn istiod_bundle(status: &IstiodTlsStatus) -> Fact {
    const CHECK: Check = Check::IstiodBundle;
    let IstiodTlsStatus { secret, webhooks, webhooks_behind, .. } = status;
    let unheard = secret.watches.iter().filter(|watch| is_of_webhooks(watch)).find_map(unheard);
    let fact = match (webhooks, webhooks_behind) {
        _ if !secret.joined => Fact::ok(CHECK, "the webhooks of an istiod are not looked at: its cluster is not joined"),
        _ if unheard.is_some() => Fact::warning(CHECK, "istiod's webhooks aren't heard"),
        (0, _) => Fact::ok(CHECK, "istiod has no webhooks yet"),
        (all, 0) => Fact::ok(CHECK, format!("all {all} webhook configurations of istiod show the trust bundle")),
        (all, behind) => Fact::warning(CHECK, format!("{behind} of {all} webhook configurations of istiod don't show the trust bundle")),
    };
    in_cluster(fact, &secret.cluster, [unheard, None])
}

/// A line for each istiod that signs below our root; `None`: there is none.
pub(super) fn cacerts(status: Option<&[SecretStatus]>, now: OffsetDateTime) -> Vec<Fact> {
    match status {
        None => vec![Fact::ok(Check::Cacerts, "no istiod signs below our root")],
        Some([]) => vec![Fact::ok(Check::Cacerts, "another replica sees to the intermediates of istiods")],
        Some(all) => all.iter().map(|status| cacerts_of(status, now)).collect(),
    }
}

fn cacerts_of(status: &SecretStatus, now: OffsetDateTime) -> Fact {
    const CHECK: Check = Check::Cacerts;
    let unheard = status.watches.iter().find_map(unheard);
    let end = status.not_after.map(|not_after| lifetime(OffsetDateTime::UNIX_EPOCH, not_after, now));
    let has_failed = status.trouble.is_some() || unheard.is_some();
    let fact = match end {
        _ if !status.joined => Fact::failed(CHECK, "an istiod has no intermediate: its cluster is not joined"),
        _ if status.foreign => Fact::warning(CHECK, "a Secret cacerts is somebody else's and left alone"),
        _ if status.left_alone => Fact::failed(CHECK, "a Secret cacerts is of a newer trust bundle or generation and left alone"),
        Some(end) if has_failed => Fact::warning(CHECK, format!("the intermediate of istiod {end} and can't be kept up")),
        Some(end) if status.current && status.renew_at.is_none() => {
            Fact::warning(CHECK, format!("the intermediate of istiod {end}, with what stands above it"))
        }
        Some(end) => Fact::ok(CHECK, format!("the intermediate of istiod {end}")),
        None if unheard.is_some() => Fact::failed(CHECK, "the intermediate of istiod isn't known"),
        None if has_failed => Fact::failed(CHECK, "istiod has no intermediate"),
        None => Fact::ok(CHECK, "an intermediate for istiod is being made"),
    };
    in_cluster(fact, &status.cluster, [status.trouble.clone(), unheard])
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::cluster::ApiError;
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
        assert_eq!(verdict(RootMapStatus { current: 2, left_alone: 1, behind_since: since(99), ..status() }).0, Warning);
        let rival = Some(("shop".to_owned(), Some("bb".to_owned())));
        let (severity, said) = verdict(RootMapStatus { fought_over: 1, rival, ..status() });
        assert!(
            severity == Failed && said.contains("again and again") && said.contains("namespace shop has a bundle of another authority, bb"),
            "{said}"
        );

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

    /// A Secret of this time that is as it shall be.
    fn secret(now: OffsetDateTime) -> SecretStatus {
        let end = Some(now + Duration::from_secs(7200));
        let watches = vec![watch(Resource::Secrets)];
        SecretStatus { cluster: "east".to_owned(), joined: true, current: true, not_after: end, renew_at: end, watches, ..SecretStatus::default() }
    }

    #[test]
    fn istiod_has_a_certificate_and_carries_the_bundle_or_not() {
        let now = datetime!(2026-11-25 12:00 UTC);
        let good = IstiodTlsStatus { secret: secret(now), namespace: true, ..IstiodTlsStatus::default() };
        let facts = |status: &IstiodTlsStatus| istiod(Some(std::slice::from_ref(status)), now);
        let verdict = |status: &IstiodTlsStatus| {
            let facts = facts(status);
            assert!(facts.iter().all(|fact| fact.detail.starts_with("cluster east")), "{facts:?}");
            <[_; 2]>::try_from(facts.iter().map(|fact| fact.severity).collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(verdict(&good), [Ok, Ok]);
        assert_eq!(verdict(&IstiodTlsStatus { webhooks: 2, ..good.clone() }), [Ok, Ok]);
        assert_eq!(verdict(&IstiodTlsStatus { webhooks: 2, webhooks_behind: 1, ..good.clone() }), [Ok, Warning]);
        let with = |secret: SecretStatus| IstiodTlsStatus { secret, ..good.clone() };
        assert_eq!(verdict(&with(SecretStatus { joined: false, ..secret(now) })), [Failed, Ok]);
        assert_eq!(verdict(&with(SecretStatus { foreign: true, ..secret(now) })), [Warning, Ok]);
        for not_after in [secret(now).not_after, None] {
            assert_eq!(verdict(&with(SecretStatus { left_alone: true, not_after, ..secret(now) })), [Failed, Ok]);
        }
        let refused = Some("not written: 403".to_owned());
        assert_eq!(verdict(&with(SecretStatus { trouble: refused.clone(), ..secret(now) })), [Warning, Ok]);
        let none = SecretStatus { not_after: None, renew_at: None, current: false, ..secret(now) };
        let without = with(SecretStatus { trouble: refused, ..none.clone() });
        assert_eq!(verdict(&without), [Failed, Ok]);
        assert!(facts(&without)[0].detail.contains("403"));
        for (resource, expected) in [(Resource::Secrets, [Failed, Ok]), (Resource::ValidatingWebhooks, [Ok, Warning])] {
            let refused = Some(ApiError::Status { code: 403, message: "no".to_owned() });
            let watches = vec![WatchStatus { trouble: refused, ..watch(resource) }];
            assert_eq!(verdict(&with(SecretStatus { watches, ..none.clone() })), expected, "{resource:?}");
        }
        assert_eq!(verdict(&IstiodTlsStatus { namespace: false, ..with(none) }), [Ok, Ok]);
        for nothing in [istiod(None, now), istiod(Some(&[]), now)] {
            assert_eq!(nothing.iter().map(|fact| fact.severity).collect::<Vec<_>>(), [Ok, Ok]);
        }
    }

    #[test]
    fn an_istiod_that_signs_has_an_intermediate_or_not() {
        let now = datetime!(2026-11-25 12:00 UTC);
        let good = secret(now);
        let verdict = |status: &SecretStatus| cacerts(Some(std::slice::from_ref(status)), now).remove(0);
        let well = verdict(&good);
        assert_eq!(
            (well.severity, well.message.as_str(), well.detail.as_str()),
            (Ok, "the intermediate of istiod expires in 2h (2026-11-25 14:00:00Z)", "cluster east")
        );
        let none = SecretStatus { not_after: None, renew_at: None, current: false, ..good.clone() };
        let refused = Some("not written: 403".to_owned());
        let unheard = WatchStatus { trouble: Some(ApiError::Status { code: 403, message: "no".to_owned() }), ..watch(Resource::Secrets) };
        for (severity, status) in [
            (Ok, none.clone()),
            (Failed, SecretStatus { joined: false, ..none.clone() }),
            (Warning, SecretStatus { foreign: true, ..good.clone() }),
            (Failed, SecretStatus { left_alone: true, ..good.clone() }),
            (Warning, SecretStatus { renew_at: None, ..good.clone() }),
            (Warning, SecretStatus { trouble: refused.clone(), ..good.clone() }),
            (Failed, SecretStatus { trouble: refused, ..none.clone() }),
            (Warning, SecretStatus { watches: vec![unheard.clone()], ..good }),
            (Failed, SecretStatus { watches: vec![unheard], ..none }),
        ] {
            let fact = verdict(&status);
            assert_eq!(fact.severity, severity, "{fact:?}");
            assert!(!fact.message.contains("east") && fact.detail.contains("east"), "{fact:?}");
        }
        assert_eq!([cacerts(None, now)[0].severity, cacerts(Some(&[]), now)[0].severity], [Ok, Ok]);
    }
}
