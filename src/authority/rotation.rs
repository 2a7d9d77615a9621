//! What is due: the pure rule by which the authority state moves on. The loop in `crate::rotation` acts on it.

use std::time::Duration;

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::{Authority, AuthorityId, AuthorityPolicy, AuthorityState, Certified, GenerationNumber, HistoryEntry, KeyRef, Phase, Role};
use crate::pki::{certificate_to_pem, certificates_from_pem};

/// The longest history that a state keeps.
const HISTORY: usize = 200;

/// One thing to do, or when to ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Reserve `until` as the latest notAfter of anything below `root`, before anything that lives that long is signed.
    Reserve {
        /// The root.
        root: AuthorityId,
        /// The new mark.
        until: OffsetDateTime,
    },
    /// Make a new issuing key, certified by `parent` (`None`: by the upstream issuer).
    RenewIssuing {
        /// The authority of ours that signs it.
        parent: Option<AuthorityId>,
    },
    /// Close this generation in the ledger: it signs no more and nothing of it is under way.
    Close(GenerationNumber),
    /// Nothing before this time.
    Wait(OffsetDateTime),
}

/// What the loop found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Whether an upstream issuer is configured.
    pub upstream: bool,
    /// How long a request that began with an older snapshot may still be under way.
    pub longest_request: Duration,
}

/// What is due `now`. The same question has the same answer until the state is changed, so a crash anywhere is a re-run.
pub fn step(state: &AuthorityState, facts: Facts, policy: &AuthorityPolicy, now: OffsetDateTime) -> Step {
    let Some((issuing, _)) = state.issuing() else {
        return Step::RenewIssuing { parent: parent(state).map(|parent| parent.id.clone()) };
    };
    let mark = state.reserved_not_after.get(&issuing.root).copied();
    let low = now + policy.longest_leaf.mul_f64(1.25) + SLACK;
    if mark.is_none_or(|mark| mark <= low) {
        return Step::Reserve { root: issuing.root.clone(), until: now + policy.longest_leaf * 2 + SLACK * 2 };
    }
    let renewal = renewal_time(state, issuing, facts, policy, now);
    if let Some((at, parent)) = &renewal
        && *at <= now
    {
        return Step::RenewIssuing { parent: parent.clone() };
    }
    let closing = state.authorities.iter().filter_map(|authority| match (authority.role, authority.phase, &authority.key) {
        (Role::Issuing(generation), Phase::Retiring, Some(_)) => Some((retired_at(state, generation) + facts.longest_request, generation)),
        _ => None,
    });
    let closing = closing.min();
    if let Some((at, generation)) = closing
        && at <= now
    {
        return Step::Close(generation);
    }
    let reserve_at = mark.map_or(now, |mark| mark - policy.longest_leaf.mul_f64(1.25) - SLACK);
    let next = [Some(reserve_at), renewal.map(|(at, _)| at), closing.map(|(at, _)| at)];
    Step::Wait(next.into_iter().flatten().min().unwrap_or(reserve_at))
}

/// The reservation that a replica which does not lead may make, because the leader is late with it: certificates would get shorter otherwise.
pub fn late_reservation(state: &AuthorityState, policy: &AuthorityPolicy, now: OffsetDateTime) -> Option<(AuthorityId, OffsetDateTime)> {
    let (issuing, _) = state.issuing()?;
    let late = state.reserved_not_after.get(&issuing.root).is_none_or(|mark| *mark <= now + policy.longest_leaf + SLACK);
    late.then(|| (issuing.root.clone(), now + policy.longest_leaf * 2 + SLACK * 2))
}

/// Rounding to whole seconds and two clocks that differ a little.
const SLACK: Duration = Duration::from_secs(2);

/// The authority of ours that signs issuing certificates.
pub fn parent(state: &AuthorityState) -> Option<&Authority> {
    state
        .authorities
        .iter()
        .find(|authority| matches!(authority.role, Role::Root | Role::Intermediate) && authority.phase == Phase::Active && authority.key.is_some())
}

/// The certificates from [`parent`] up to its root, nearest first, PEM: what stands above everything that it signs. `None` where there is no parent.
pub fn chain_above(state: &AuthorityState) -> Option<Vec<&str>> {
    let parent = parent(state)?;
    let between = std::iter::once(&parent.certificate).chain(&parent.upstream_chain).map(String::as_str);
    let root = state.trust.iter().filter(|entry| entry.id == parent.root && entry.id != parent.id).map(|entry| entry.certificate.as_str());
    Some(between.chain(root).collect())
}

/// The earliest notAfter in a chain of PEM certificates.
pub fn earliest_end(chain: &[&str]) -> Option<OffsetDateTime> {
    chain.iter().map(|pem| Some(validity(pem)?.1)).min().flatten()
}

/// When the issuing key is to be renewed; `None` where nobody could give it a later end.
pub fn renewal_due(state: &AuthorityState, facts: Facts, policy: &AuthorityPolicy, now: OffsetDateTime) -> Option<OffsetDateTime> {
    let (issuing, _) = state.issuing()?;
    renewal_time(state, issuing, facts, policy, now).map(|(at, _)| at)
}

/// When the issuing key is to be renewed, by whom; `None` where nobody could give it a later end.
fn renewal_time(
    state: &AuthorityState,
    issuing: &Authority,
    facts: Facts,
    policy: &AuthorityPolicy,
    now: OffsetDateTime,
) -> Option<(OffsetDateTime, Option<AuthorityId>)> {
    let (not_before, not_after) = validity(&issuing.certificate)?;
    if not_before > now
        && !facts.upstream
        && let Some(parent) = parent(state)
    {
        // It was made while the clock was ahead: until the clock gets there, nothing that it signs verifies.
        return Some((now, Some(parent.id.clone())));
    }
    let lifetime = (not_after - not_before).try_into().unwrap_or(Duration::ZERO);
    let at = not_after - (lifetime / 3).max(policy.longest_leaf * 2);
    if facts.upstream {
        return Some((at, None));
    }
    let parent = parent(state)?;
    let (_, parent_ends) = validity(&parent.certificate)?;
    // How long the next one shall live doesn't matter: it may be less than before.
    (parent_ends - not_after > lifetime.min(policy.issuing_lifetime) / 10).then(|| (at, Some(parent.id.clone())))
}

/// The end of the chain of what signs now: the earliest notAfter from the issuing certificate to its root.
pub fn chain_end(state: &AuthorityState) -> Option<OffsetDateTime> {
    let (issuing, _) = state.issuing()?;
    let ends = std::iter::once(&issuing.certificate).chain(&issuing.upstream_chain).map(|pem| Some(validity(pem)?.1));
    ends.chain(std::iter::once(root_end(state))).min().flatten()
}

/// The end of the root that what signs now chains to.
pub fn root_end(state: &AuthorityState) -> Option<OffsetDateTime> {
    let (issuing, _) = state.issuing()?;
    let root = state.trust.iter().find(|entry| entry.id == issuing.root)?;
    Some(validity(&root.certificate)?.1)
}

pub(super) fn validity(pem: &str) -> Option<(OffsetDateTime, OffsetDateTime)> {
    let certificates = certificates_from_pem(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(certificates.first()?).ok()?;
    Some((certificate.validity().not_before.to_datetime(), certificate.validity().not_after.to_datetime()))
}

fn retired_at(state: &AuthorityState, generation: GenerationNumber) -> OffsetDateTime {
    let successor = state.authorities.iter().filter(|authority| matches!(authority.role, Role::Issuing(number) if number > generation));
    successor.map(|authority| authority.since).min().unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

impl AuthorityState {
    /// The state in which a new issuing certificate signs; the one before it retires, and what has expired is forgotten.
    #[must_use]
    pub fn with_issuing(mut self, certified: Certified, key: KeyRef, now: OffsetDateTime) -> Self {
        let generation = self.next_generation();
        self.authorities.retain(|authority| match (authority.role, authority.phase) {
            // Its key must be destroyed first, and the ledger must have closed it: `Step::Close` does both.
            (Role::Issuing(_), Phase::Retiring) if authority.key.is_none() => {
                validity(&authority.certificate).is_none_or(|(_, end)| end > now - FORGET_AFTER)
            }
            _ => true,
        });
        for authority in &mut self.authorities {
            if matches!((authority.role, authority.phase), (Role::Issuing(_), Phase::Active)) {
                authority.phase = Phase::Retiring;
            }
        }
        self.authorities.push(Authority {
            id: AuthorityId::of_certificate(&certified.certificate),
            role: Role::Issuing(generation),
            certificate: certificate_to_pem(&certified.certificate),
            parent: certified.parent,
            upstream_chain: certified.upstream_chain,
            root: certified.root,
            key: Some(key),
            phase: Phase::Active,
            origin: certified.origin,
            since: now,
        });
        self.remember(now, format!("generation {generation} signs"))
    }

    /// The state in which `generation` is closed; its key is no longer referred to and may be destroyed.
    #[must_use]
    pub fn with_closed(mut self, generation: GenerationNumber, now: OffsetDateTime) -> Self {
        for authority in &mut self.authorities {
            if authority.role == Role::Issuing(generation) && authority.phase != Phase::Active {
                authority.key = None;
            }
        }
        self.remember(now, format!("generation {generation} is closed"))
    }

    /// The state with a later reservation; a mark never goes back.
    #[must_use]
    pub fn with_reservation(mut self, root: AuthorityId, until: OffsetDateTime) -> Self {
        let mark = self.reserved_not_after.entry(root).or_insert(until);
        *mark = until.max(*mark);
        self
    }

    /// Nothing that any root of ours vouches for ends later.
    pub fn latest_reserved(&self) -> Option<OffsetDateTime> {
        self.reserved_not_after.values().max().copied()
    }

    /// The state with one more line of history.
    #[must_use]
    pub fn remember(mut self, at: OffsetDateTime, what: String) -> Self {
        self.history.push(HistoryEntry { at, what });
        let surplus = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..surplus);
        self
    }
}

/// How long after its end an issuing certificate is still known: longer than any clock is wrong.
const FORGET_AFTER: time::Duration = time::Duration::days(1);

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::authority::testing::{founded, policy, with_first_issuing};

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00:00 UTC);
    const FACTS: Facts = Facts { upstream: false, longest_request: Duration::from_secs(10) };

    /// Does what `step` says, without keys and ledgers, until it waits.
    fn settle(mut state: AuthorityState, now: OffsetDateTime) -> (AuthorityState, OffsetDateTime) {
        for _ in 0..10 {
            state = match step(&state, FACTS, &policy(), now) {
                Step::Wait(until) => return (state, until),
                Step::Reserve { root, until } => state.with_reservation(root, until),
                Step::RenewIssuing { .. } => with_first_issuing(state, now),
                Step::Close(generation) => state.with_closed(generation, now),
            };
        }
        panic!("never settles");
    }

    fn generation(state: &AuthorityState) -> u64 {
        state.issuing().unwrap().1.0
    }

    #[test]
    fn a_new_state_gets_an_issuing_key_and_a_reservation_then_waits() {
        let state = founded(NOW);
        let root = state.trust[0].id.clone();
        assert_eq!(step(&state, FACTS, &policy(), NOW), Step::RenewIssuing { parent: Some(root.clone()) });
        let (state, until) = settle(state, NOW);
        assert_eq!(generation(&state), 1);
        assert!(state.reserved_not_after[&root] >= NOW + policy().longest_leaf);
        assert!(until > NOW);
    }

    #[test]
    fn the_issuing_key_is_renewed_long_before_it_could_clamp_a_leaf() {
        let (state, _) = settle(founded(NOW), NOW);
        let end = NOW + policy().issuing_lifetime;
        let renewal = end - policy().issuing_lifetime / 3;
        let (before, _) = settle(state.clone(), renewal - Duration::from_secs(60));
        assert_eq!(generation(&before), 1);
        let (after, _) = settle(state, renewal + Duration::from_secs(60));
        assert_eq!(generation(&after), 2);
        assert!(chain_end(&after).unwrap() > end);
        let retiring: Vec<_> = after.authorities.iter().filter(|authority| authority.phase == Phase::Retiring).collect();
        assert_eq!(retiring.len(), 1, "what the old key signed is still good");
    }

    #[test]
    fn a_retired_generation_is_closed_once_no_request_can_be_under_way() {
        let (state, _) = settle(founded(NOW), NOW);
        let later = NOW + policy().issuing_lifetime;
        let (state, next) = settle(state, later);
        let old_key = |state: &AuthorityState| {
            state.authorities.iter().find(|authority| authority.role == Role::Issuing(GenerationNumber(1))).unwrap().key.clone()
        };
        assert!(old_key(&state).is_some());
        assert_eq!(next, later + FACTS.longest_request);
        assert_eq!(step(&state, FACTS, &policy(), next), Step::Close(GenerationNumber(1)));
        let (state, _) = settle(state, next);
        assert_eq!(old_key(&state), None, "its key may be destroyed");
    }

    #[test]
    fn what_has_expired_is_forgotten_at_a_later_renewal() {
        let (mut state, mut next) = settle(founded(NOW), NOW);
        for _ in 0..2000 {
            if generation(&state) > 5 {
                break;
            }
            (state, next) = settle(state, next);
        }
        assert!(generation(&state) > 5);
        let issuing = state.authorities.iter().filter(|authority| matches!(authority.role, Role::Issuing(_))).count();
        assert!(issuing <= 3, "{issuing} issuing authorities are kept");
    }

    #[test]
    fn a_reservation_never_goes_back_and_is_made_ahead() {
        let (state, _) = settle(founded(NOW), NOW);
        let root = state.trust[0].id.clone();
        let mark = state.reserved_not_after[&root];
        assert_eq!(state.clone().with_reservation(root.clone(), NOW).reserved_not_after[&root], mark);
        let (later, _) = settle(state, NOW + policy().longest_leaf);
        assert!(later.reserved_not_after[&root] > mark);
    }

    #[test]
    fn who_does_not_lead_reserves_only_what_the_leader_is_late_with() {
        assert_eq!(late_reservation(&founded(NOW), &policy(), NOW), None, "nothing signs yet");
        let (state, _) = settle(founded(NOW), NOW);
        let root = state.trust[0].id.clone();
        let mark = state.reserved_not_after[&root];
        let leaders = mark - policy().longest_leaf.mul_f64(1.25) - SLACK;
        assert!(matches!(step(&state, FACTS, &policy(), leaders), Step::Reserve { .. }));
        assert_eq!(late_reservation(&state, &policy(), leaders), None, "the leader's turn");
        let late = mark - policy().longest_leaf - SLACK;
        let (found, until) = late_reservation(&state, &policy(), late).unwrap();
        assert!(found == root && until > mark);
    }

    #[test]
    fn an_issuing_key_is_renewed_in_time_where_the_next_one_shall_live_for_less() {
        let (state, _) = settle(founded(NOW), NOW);
        let shorter = AuthorityPolicy { issuing_lifetime: policy().issuing_lifetime / 10, ..policy() };
        let due = renewal_due(&state, FACTS, &shorter, NOW);
        assert!(due.is_some_and(|due| due < NOW + policy().issuing_lifetime), "{due:?}");
    }

    #[test]
    fn nobody_renews_an_issuing_key_that_would_end_no_later() {
        let (state, _) = settle(founded(NOW), NOW);
        let root_end = NOW + policy().root_lifetime;
        let (state, _) = settle(state, root_end - Duration::from_secs(4 * 3600));
        let last = generation(&state);
        let (state, _) = settle(state, root_end - Duration::from_secs(3600));
        assert_eq!(generation(&state), last, "the root's end can't be moved by an issuing key");
    }

    #[test]
    fn an_issuing_key_from_the_future_is_replaced_at_once() {
        let (state, _) = settle(founded(NOW), NOW);
        let ahead = NOW + policy().issuing_lifetime;
        let (state, _) = settle(state, ahead);
        assert_eq!(generation(&state), 2);
        let (state, _) = settle(state, NOW + Duration::from_secs(60));
        assert_eq!(generation(&state), 3, "the clock was a month ahead and came back");
        let issuing = validity(&state.issuing().unwrap().0.certificate).unwrap();
        assert!(issuing.0 <= NOW);
    }

    #[test]
    fn without_anybody_to_sign_the_step_says_so() {
        let mut state = founded(NOW);
        state.authorities[0].key = None;
        assert_eq!(step(&state, FACTS, &policy(), NOW), Step::RenewIssuing { parent: None });
    }
}
