//! Verdicts about what is kept up in the clusters.

use std::time::Duration;

use time::OffsetDateTime;

use super::facts::{Fact, text};
use super::table::Check;
use crate::cluster::{Resource, WatchStatus};
use crate::controllers::{CacertsStatus, IstiodTlsStatus, RootMapStatus};
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

/// istiod's certificate and whether istiod shows the trust bundle; `None`: neither is ours.
pub(super) fn istiod(status: Option<&IstiodTlsStatus>, now: OffsetDateTime) -> [Fact; 2] {
    const CERTIFICATE: Check = Check::IstiodCertificate;
    const BUNDLE: Check = Check::IstiodBundle;
    let Some(status) = status else {
        return [Fact::ok(CERTIFICATE, "istiod's certificate is made by others"), Fact::ok(BUNDLE, "istiod's webhooks are not looked at")];
    };
    if !status.leading {
        return [
            Fact::ok(CERTIFICATE, "another replica sees to istiod's certificate"),
            Fact::ok(BUNDLE, "another replica looks at istiod's webhooks"),
        ];
    }
    let of_webhooks = |watch: &&WatchStatus| matches!(watch.resource, Resource::MutatingWebhooks | Resource::ValidatingWebhooks);
    let trouble = |watch: &WatchStatus| Some(format!("{}: {}", watch.resource.name(), watch.trouble.as_ref()?));
    let unheard = status.watches.iter().filter(|watch| !of_webhooks(watch)).find_map(trouble);
    let webhooks_unheard = status.watches.iter().filter(of_webhooks).find_map(trouble);
    let end = status.not_after.map(|not_after| lifetime(OffsetDateTime::UNIX_EPOCH, not_after, now));
    let has_failed = status.trouble.is_some() || unheard.is_some();
    let certificate = match end {
        _ if status.foreign => Fact::warning(CERTIFICATE, "the Secret istiod-tls is somebody else's and left alone"),
        _ if status.left_alone => Fact::failed(CERTIFICATE, "the Secret istiod-tls is of a newer trust bundle or generation and left alone"),
        Some(end) if has_failed => Fact::warning(CERTIFICATE, format!("istiod's certificate {end} and can't be kept up")),
        Some(end) => Fact::ok(CERTIFICATE, format!("istiod's certificate {end}")),
        None if unheard.is_some() => Fact::failed(CERTIFICATE, "istiod's certificate isn't known"),
        None if has_failed => Fact::failed(CERTIFICATE, "istiod has no certificate"),
        None if !status.namespace => Fact::ok(CERTIFICATE, "istiod's namespace isn't there yet"),
        None => Fact::ok(CERTIFICATE, "istiod's certificate is being issued"),
    };
    let bundle = match (status.webhooks, status.webhooks_behind) {
        _ if webhooks_unheard.is_some() => Fact::warning(BUNDLE, "istiod's webhooks aren't heard"),
        (0, _) => Fact::ok(BUNDLE, "istiod has no webhooks yet"),
        (all, 0) => Fact::ok(BUNDLE, format!("all {all} webhook configurations of istiod show the trust bundle")),
        (all, behind) => Fact::warning(BUNDLE, format!("{behind} of {all} webhook configurations of istiod don't show the trust bundle")),
    };
    let detail = [status.trouble.clone(), unheard].into_iter().flatten().collect::<Vec<_>>().join("; ");
    [certificate.with_detail(detail), bundle.with_detail(webhooks_unheard.unwrap_or_default())]
}

/// A line for each istiod that signs below our root; `None`: there is none.
pub(super) fn cacerts(status: Option<&[CacertsStatus]>, now: OffsetDateTime) -> Vec<Fact> {
    match status {
        None => vec![Fact::ok(Check::Cacerts, "no istiod signs below our root")],
        Some([]) => vec![Fact::ok(Check::Cacerts, "another replica sees to the intermediates of istiods")],
        Some(all) => all.iter().map(|status| cacerts_of(status, now)).collect(),
    }
}

fn cacerts_of(status: &CacertsStatus, now: OffsetDateTime) -> Fact {
    const CHECK: Check = Check::Cacerts;
    let unheard = status.watch.as_ref().and_then(|watch| Some(format!("{}: {}", watch.resource.name(), watch.trouble.as_ref()?)));
    let end = status.not_after.map(|not_after| lifetime(OffsetDateTime::UNIX_EPOCH, not_after, now));
    let has_failed = status.trouble.is_some() || unheard.is_some();
    let fact = match end {
        _ if !status.joined => Fact::failed(CHECK, "an istiod has no intermediate: its cluster is not joined"),
        _ if status.foreign => Fact::warning(CHECK, "a Secret cacerts is somebody else's and left alone"),
        _ if status.left_alone => Fact::failed(CHECK, "a Secret cacerts is of a newer trust bundle or generation and left alone"),
        Some(end) if has_failed => Fact::warning(CHECK, format!("the intermediate of istiod {end} and can't be kept up")),
        Some(end) if status.last => Fact::warning(CHECK, format!("the intermediate of istiod {end}, with what stands above it")),
        Some(end) => Fact::ok(CHECK, format!("the intermediate of istiod {end}")),
        None if unheard.is_some() => Fact::failed(CHECK, "the intermediate of istiod isn't known"),
        None if has_failed => Fact::failed(CHECK, "istiod has no intermediate"),
        None => Fact::ok(CHECK, "an intermediate for istiod is being made"),
    };
    let details = [Some(format!("cluster {}", status.cluster)), status.trouble.clone(), unheard];
    fact.with_detail(details.into_iter().flatten().collect::<Vec<_>>().join("; "))
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

    #[test]
    fn istiod_has_a_certificate_and_carries_the_bundle_or_not() {
        let now = datetime!(2026-11-25 12:00 UTC);
        let good = IstiodTlsStatus { leading: true, namespace: true, not_after: Some(now + Duration::from_secs(7200)), ..IstiodTlsStatus::default() };
        let verdict = |status: &IstiodTlsStatus| istiod(Some(status), now).map(|fact| fact.severity);
        assert_eq!(verdict(&good), [Ok, Ok]);
        assert_eq!(verdict(&IstiodTlsStatus { webhooks: 2, ..good.clone() }), [Ok, Ok]);
        assert_eq!(verdict(&IstiodTlsStatus { webhooks: 2, webhooks_behind: 1, ..good.clone() }), [Ok, Warning]);
        assert_eq!(verdict(&IstiodTlsStatus { foreign: true, ..good.clone() }), [Warning, Ok]);
        for not_after in [good.not_after, None] {
            assert_eq!(verdict(&IstiodTlsStatus { left_alone: true, not_after, ..good.clone() }), [Failed, Ok]);
        }
        let refused = Some("not written: 403".to_owned());
        assert_eq!(verdict(&IstiodTlsStatus { trouble: refused.clone(), ..good.clone() }), [Warning, Ok]);
        let none = IstiodTlsStatus { not_after: None, ..good };
        let without = IstiodTlsStatus { trouble: refused, ..none.clone() };
        assert_eq!(verdict(&without), [Failed, Ok]);
        assert!(istiod(Some(&without), now)[0].detail.contains("403"));
        for (resource, expected) in [(Resource::Secrets, [Failed, Ok]), (Resource::ValidatingWebhooks, [Ok, Warning])] {
            let refused = Some(ApiError::Status { code: 403, message: "no".to_owned() });
            let watches = vec![WatchStatus { trouble: refused, ..watch(resource) }];
            assert_eq!(verdict(&IstiodTlsStatus { watches, ..none.clone() }), expected, "{resource:?}");
        }
        assert_eq!(verdict(&IstiodTlsStatus { namespace: false, ..none }), [Ok, Ok]);
        assert_eq!((verdict(&IstiodTlsStatus::default()), istiod(None, now).map(|fact| fact.severity)), ([Ok, Ok], [Ok, Ok]));
    }

    #[test]
    fn an_istiod_that_signs_has_an_intermediate_or_not() {
        let now = datetime!(2026-11-25 12:00 UTC);
        let end = Some(now + Duration::from_secs(7200));
        let good = CacertsStatus {
            cluster: "east".to_owned(),
            joined: true,
            not_after: end,
            renew_at: end,
            watch: Some(watch(Resource::Secrets)),
            ..CacertsStatus::default()
        };
        let verdict = |status: &CacertsStatus| cacerts(Some(std::slice::from_ref(status)), now).remove(0);
        let well = verdict(&good);
        assert_eq!(
            (well.severity, well.message.as_str(), well.detail.as_str()),
            (Ok, "the intermediate of istiod expires in 2h (2026-11-25 14:00:00Z)", "cluster east")
        );
        let none = CacertsStatus { not_after: None, renew_at: None, ..good.clone() };
        let refused = Some("not written: 403".to_owned());
        let unheard = WatchStatus { trouble: Some(ApiError::Status { code: 403, message: "no".to_owned() }), ..watch(Resource::Secrets) };
        for (severity, status) in [
            (Ok, none.clone()),
            (Failed, CacertsStatus { joined: false, ..none.clone() }),
            (Warning, CacertsStatus { foreign: true, ..good.clone() }),
            (Failed, CacertsStatus { left_alone: true, ..good.clone() }),
            (Warning, CacertsStatus { last: true, renew_at: None, ..good.clone() }),
            (Warning, CacertsStatus { trouble: refused.clone(), ..good.clone() }),
            (Failed, CacertsStatus { trouble: refused, ..none.clone() }),
            (Warning, CacertsStatus { watch: Some(unheard.clone()), ..good }),
            (Failed, CacertsStatus { watch: Some(unheard), ..none }),
        ] {
            let fact = verdict(&status);
            assert_eq!(fact.severity, severity, "{fact:?}");
            assert!(!fact.message.contains("east") && fact.detail.contains("east"), "{fact:?}");
        }
        assert_eq!([cacerts(None, now)[0].severity, cacerts(Some(&[]), now)[0].severity], [Ok, Ok]);
    }
}
