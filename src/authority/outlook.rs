//! When what we hold ends, for whoever watches over it. Roles and times only: no name of an authority leaves through here.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::rotation::{Facts, chain_end, renewal_due, validity};
use super::{AuthorityPolicy, AuthorityState, Phase, Role};

/// What lies ahead of a state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outlook {
    /// The earliest notAfter of each kind of certificate that the state holds.
    pub ends: BTreeMap<Held, OffsetDateTime>,
    /// When the issuing key is to be renewed; `None` where nobody could give it a later end.
    pub renewal_due: Option<OffsetDateTime>,
}

/// What a certificate of a state is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// An authority of ours that signs issuing certificates and is trusted.
    Root,
    /// The same below somebody else's root.
    Intermediate,
    /// What signs leaves now.
    Issuing,
    /// What signed leaves before.
    Retiring,
    /// What somebody else signed between an authority of ours and its root.
    ImportedChain,
    /// A root of the trust bundle, ours or not.
    Trusted,
    /// The earliest end from what signs now to its root.
    SigningChain,
}

impl Held {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Root, Self::Intermediate, Self::Issuing, Self::Retiring, Self::ImportedChain, Self::Trusted, Self::SigningChain];

    /// For labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
            Self::Issuing => "issuing",
            Self::Retiring => "retiring",
            Self::ImportedChain => "imported_chain",
            Self::Trusted => "trusted",
            Self::SigningChain => "signing_chain",
        }
    }
}

impl Outlook {
    /// The outlook of `state`. Authorities that retired and whose key is gone still count as retiring until the state forgets them.
    pub fn of_state(state: &AuthorityState, facts: Facts, policy: &AuthorityPolicy, now: OffsetDateTime) -> Self {
        let mut ends = BTreeMap::new();
        let mut note = |held: Held, end: Option<OffsetDateTime>| {
            if let Some(end) = end {
                ends.entry(held).and_modify(|earliest: &mut OffsetDateTime| *earliest = end.min(*earliest)).or_insert(end);
            }
        };
        let end_of = |pem: &str| validity(pem).map(|(_, not_after)| not_after);
        for authority in &state.authorities {
            let held = match (authority.role, authority.phase) {
                (Role::Root, _) => Held::Root,
                (Role::Intermediate, _) => Held::Intermediate,
                (Role::Issuing(_), Phase::Published | Phase::Active) => Held::Issuing,
                (Role::Issuing(_), Phase::Retiring | Phase::Distrusted) => Held::Retiring,
            };
            note(held, end_of(&authority.certificate));
            for pem in &authority.upstream_chain {
                note(Held::ImportedChain, end_of(pem));
            }
        }
        for entry in &state.trust {
            note(Held::Trusted, end_of(&entry.certificate));
        }
        note(Held::SigningChain, chain_end(state));
        Self { ends, renewal_due: renewal_due(state, facts, policy, now) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use time::macros::datetime;

    use super::*;
    use crate::authority::testing::{founded, policy, with_first_issuing};

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn each_role_has_its_earliest_end_and_the_renewal_lies_before() {
        let facts = Facts { upstream: false, longest_request: Duration::from_secs(10) };
        let first = with_first_issuing(founded(NOW), NOW);
        let outlook = Outlook::of_state(&first, facts, &policy(), NOW);
        let left = |outlook: &Outlook, held| (outlook.ends[&held] - NOW).whole_days();
        assert_eq!(outlook.ends.keys().copied().collect::<Vec<_>>(), [Held::Root, Held::Issuing, Held::Trusted, Held::SigningChain]);
        assert_eq!((left(&outlook, Held::Root), left(&outlook, Held::Issuing), left(&outlook, Held::Trusted)), (365, 30, 365));
        assert_eq!(left(&outlook, Held::SigningChain), 30);
        let due = outlook.renewal_due.unwrap();
        assert!(due > NOW + 19 * DAY && due < NOW + 21 * DAY, "{due}");

        let later = NOW + 20 * DAY;
        let second = Outlook::of_state(&with_first_issuing(first, later), facts, &policy(), later);
        assert_eq!((left(&second, Held::Retiring), left(&second, Held::Issuing)), (30, 50));
        assert!(second.renewal_due.unwrap() > due);

        let mut orphan = with_first_issuing(founded(NOW), NOW);
        orphan.authorities[0].key = None;
        assert_eq!(Outlook::of_state(&orphan, facts, &policy(), NOW).renewal_due, None, "nobody could sign the next one");
    }
}
