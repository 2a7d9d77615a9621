//! Verdicts about the other clusters: whether they are joined, how well each is known, and how long we may still ask it.

use std::time::Duration;

use time::OffsetDateTime;

use super::facts::{Fact, ago, text, token_keys, watched};
use super::table::Check;
use crate::cluster::{RemoteStatus, Validity, WatchStatus};
use crate::pki::inspect::Severity;

const CHECK: Check = Check::RemoteClusters;

/// Somebody must make a Secret anew: time enough for that, where the credentials live so long.
const NOTICE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The watch of the Secrets that name other clusters, and a line for everything that is unwell with one of those.
pub(super) fn remotes(known: Option<(WatchStatus, Vec<RemoteStatus>)>, now: OffsetDateTime) -> Vec<Fact> {
    let Some((watch, remotes)) = known else { return vec![Fact::ok(CHECK, "other clusters are not looked for")] };
    [secrets(&watch, &remotes)].into_iter().chain(remotes.iter().flat_map(|remote| remote_lines(remote, now))).collect()
}

fn secrets(watch: &WatchStatus, remotes: &[RemoteStatus]) -> Fact {
    let trouble = watch.trouble.as_ref().map(ToString::to_string);
    match (watch.age, trouble) {
        (None, trouble) => Fact::failed(CHECK, "the Secrets that name other clusters were never listed").with_detail(trouble.unwrap_or_default()),
        (Some(age), Some(trouble)) => {
            Fact::warning(CHECK, format!("nothing was heard of the Secrets that name other clusters for {}", text(age))).with_detail(trouble)
        }
        (Some(_), None) => {
            let joined = remotes.iter().filter(|remote| remote.joined).count();
            Fact::ok(CHECK, format!("{joined} of {} other clusters are joined", remotes.len()))
        }
    }
}

fn remote_lines(remote: &RemoteStatus, now: OffsetDateTime) -> impl Iterator<Item = Fact> {
    let trouble = remote.trouble.as_ref().map(|trouble| {
        let fact = match remote.joined {
            true => Fact::warning(CHECK, "another cluster's Secret has changed and can't be used: the old one goes on"),
            false => Fact::failed(CHECK, "another cluster could not be joined: nothing is written there, and its callers are told to try again"),
        };
        fact.with_detail(trouble.to_string())
    });
    let watches = remote.known.iter().flat_map(|known| known.watches.iter().map(|watch| watched(CHECK, watch, known.max_staleness)));
    let keys = remote.keys.iter().enumerate().map(|(index, keys)| Fact { check: CHECK, ..token_keys(index, remote.keys.len(), keys) });
    let credentials = remote.credentials.map(|validity| credentials(validity, now));
    let all = trouble.into_iter().chain(watches).chain(keys).chain(credentials);
    all.filter(|fact| fact.severity != Severity::Ok).map(|fact| {
        let detail = [remote.cluster.as_str(), &fact.detail].join(": ");
        fact.with_detail(detail.trim_end_matches(": "))
    })
}

/// What the Secret holds: a token, or a client certificate.
fn credentials(Validity { from, until }: Validity, now: OffsetDateTime) -> Fact {
    let left = until - now;
    match left {
        left if !left.is_positive() => Fact::failed(CHECK, format!("the credentials for another cluster ended {} ago", ago(-left))),
        left if left < (until - from) / 4 && left < NOTICE => {
            Fact::warning(CHECK, format!("the credentials for another cluster end in {}: make its Secret anew", ago(left)))
        }
        left => Fact::ok(CHECK, format!("the credentials end in {}", ago(left))),
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::cluster::{ApiError, ClusterStatus, FetchError, IssuerStatus, LookupCounts, Resource, Timing};

    const NOW: OffsetDateTime = datetime!(2026-11-24 12:00 UTC);
    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: time::Duration = time::Duration::days(1);

    fn watch(resource: Resource, age: Option<Duration>, trouble: Option<ApiError>) -> WatchStatus {
        WatchStatus { resource, objects: 3, age, lists: 1, failures: 0, trouble }
    }

    /// Joined, and well.
    fn west() -> RemoteStatus {
        let timing = Timing { refresh_interval: MINUTE * 5, refetch_interval: MINUTE, max_age: MINUTE * 60, fetch_timeout: MINUTE };
        let keys = IssuerStatus {
            issuer: "https://west.example".to_owned(),
            last_success: Some(NOW),
            age: Some(MINUTE),
            timing,
            keys: 1,
            skipped: 0,
            faulty: vec![],
            failures: 0,
            last_error: None,
            named_by_cluster: None,
        };
        let known = ClusterStatus {
            cluster: "west".to_owned(),
            watches: vec![watch(Resource::Pods, Some(MINUTE), None)],
            max_staleness: MINUTE * 60,
            objects: LookupCounts::default(),
            placements: LookupCounts::default(),
        };
        let credentials = Validity { from: NOW - DAY, until: NOW + DAY * 364 };
        RemoteStatus { cluster: "west".to_owned(), joined: true, trouble: None, known: Some(known), keys: vec![keys], credentials: Some(credentials) }
    }

    /// The lines about it: severity, message and detail.
    fn lines(remote: RemoteStatus) -> Vec<(Severity, String, String)> {
        let facts = remotes(Some((watch(Resource::Secrets, Some(MINUTE), None), vec![remote])), NOW);
        assert!(facts.iter().all(|fact| fact.check == CHECK) && facts[0].severity == Severity::Ok, "{facts:?}");
        facts.into_iter().skip(1).map(|fact| (fact.severity, fact.message, fact.detail)).collect()
    }

    fn one(remote: RemoteStatus) -> (Severity, String, String) {
        let mut lines = lines(remote);
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }

    #[test]
    fn one_that_is_well_has_no_line_of_its_own() {
        assert_eq!(lines(west()), []);
        assert_eq!(remotes(None, NOW)[0].severity, Severity::Ok);
        let unlisted = remotes(Some((watch(Resource::Secrets, None, None), vec![])), NOW);
        assert_eq!(unlisted[0].severity, Severity::Failed);
        let unheard = remotes(Some((watch(Resource::Secrets, Some(MINUTE), Some(ApiError::TimedOut(MINUTE))), vec![west()])), NOW);
        assert_eq!(unheard[0].severity, Severity::Warning);
    }

    #[test]
    fn facts_and_keys_that_are_too_old_are_seen() {
        for (age, severity) in [(MINUTE * 3, Severity::Warning), (MINUTE * 61, Severity::Failed)] {
            let mut old = west();
            old.known.as_mut().unwrap().watches = vec![watch(Resource::Pods, Some(age), Some(ApiError::TimedOut(MINUTE)))];
            let (found, message, detail) = one(old);
            assert!(found == severity && message.contains("pods") && detail.starts_with("west: the API server"), "{message} {detail}");
            let mut old = west();
            old.keys[0].age = Some(age * 4);
            old.keys[0].last_error = Some(FetchError::NotHttps("a".to_owned()));
            let (found, message, detail) = one(old);
            assert!(found == severity && message.contains("keys") && detail.starts_with("west: https://west.example"), "{message} {detail}");
        }
    }

    #[test]
    fn credentials_are_warned_of_in_time() {
        for (lives, left, severity) in [
            (365, 31, None),
            (365, 29, Some(Severity::Warning)),
            (365, 0, Some(Severity::Failed)),
            (365, -1, Some(Severity::Failed)),
            (8, 3, None),
            (8, 1, Some(Severity::Warning)),
        ] {
            let credentials = Validity { from: NOW + DAY * (left - lives), until: NOW + DAY * left };
            let found = lines(RemoteStatus { credentials: Some(credentials), ..west() });
            assert_eq!(found.first().map(|line| line.0), severity, "{left} of {lives} days: {found:?}");
        }
        assert_eq!(lines(RemoteStatus { credentials: None, ..west() }), [], "who knows");
    }

    #[test]
    fn one_that_could_not_be_joined_and_one_whose_secret_changed() {
        let trouble = Some(ApiError::Access("not a kubeconfig".to_owned()));
        let changed = one(RemoteStatus { trouble: trouble.clone(), ..west() });
        assert!(changed.0 == Severity::Warning && changed.2.starts_with("west: ") && changed.2.ends_with("not a kubeconfig"), "{changed:?}");
        let away = RemoteStatus { joined: false, trouble, known: None, keys: vec![], credentials: None, ..west() };
        assert_eq!(one(away).0, Severity::Failed);
    }
}
