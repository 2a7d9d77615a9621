//! Who holds how much, group by group, and who is the first to go: in the group that holds most the group that holds most, and there who has
//! been waited for longest. Among groups that hold as much the oldest decides too.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// A group of holders, or the holders themselves where it is the narrowest.
#[derive(Debug, Default)]
pub(super) struct Holders {
    weight: usize,
    /// The groups in this one, and the same in the order in which they have to go, the last one first.
    inner: HashMap<u64, Holders>,
    ranks: BTreeSet<(Rank, u64)>,
    /// Since when each is waited for, who he is, and what he holds; only in the narrowest group.
    oldest: BTreeMap<(Duration, u64), usize>,
}

/// One who holds something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder {
    /// Since when he is waited for.
    pub(super) since: Duration,
    pub(super) id: u64,
    /// What he holds: a place, or so many bytes.
    pub(super) weight: usize,
}

/// How much somebody holds, and since when the first of them who has to go is waited for.
type Rank = (usize, Reverse<Duration>);

impl Holders {
    /// How much they hold together.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    fn is_empty(&self) -> bool {
        self.inner.is_empty() && self.oldest.is_empty()
    }

    /// Puts somebody in.
    pub(super) fn insert(&mut self, path: &[u64], holder: Holder) {
        self.weight += holder.weight;
        let Some((key, rest)) = path.split_first() else {
            self.oldest.insert((holder.since, holder.id), holder.weight);
            return;
        };
        let inner = self.inner.entry(*key).or_default();
        self.ranks.remove(&(inner.rank(), *key));
        inner.insert(rest, holder);
        self.ranks.insert((inner.rank(), *key));
    }

    /// Takes somebody out, who was put in exactly so.
    pub(super) fn remove(&mut self, path: &[u64], holder: Holder) {
        self.weight = self.weight.saturating_sub(holder.weight);
        let Some((key, rest)) = path.split_first() else {
            self.oldest.remove(&(holder.since, holder.id));
            return;
        };
        self.change(*key, |inner| inner.remove(rest, holder));
    }

    /// Takes out who goes first, and says how much he held.
    pub(super) fn take_first_to_go(&mut self) -> Option<(u64, usize)> {
        let key = self.ranks.last().map(|(_, key)| *key);
        let (id, weight) = match key {
            Some(key) => {
                let mut taken = None;
                self.change(key, |inner| taken = inner.take_first_to_go());
                taken?
            }
            None => self.oldest.pop_first().map(|((_, id), weight)| (id, weight))?,
        };
        self.weight = self.weight.saturating_sub(weight);
        Some((id, weight))
    }

    fn change(&mut self, key: u64, change: impl FnOnce(&mut Self)) {
        let Some(inner) = self.inner.get_mut(&key) else { return };
        self.ranks.remove(&(inner.rank(), key));
        change(inner);
        if inner.is_empty() {
            self.inner.remove(&key);
        } else {
            self.ranks.insert((inner.rank(), key));
        }
    }

    fn rank(&self) -> Rank {
        let first = match self.ranks.last() {
            Some(((_, first), _)) => *first,
            None => Reverse(self.oldest.first_key_value().map_or(Duration::ZERO, |((since, _), _)| *since)),
        };
        (self.weight, first)
    }

    /// Who goes first.
    pub(super) fn first_to_go(&self) -> Option<u64> {
        match self.ranks.last() {
            Some((_, key)) => self.inner.get(key)?.first_to_go(),
            None => self.oldest.first_key_value().map(|((_, id), _)| *id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn second(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    const fn holder(since: Duration, id: u64) -> Holder {
        Holder { since, id, weight: 1 }
    }

    #[test]
    fn the_greediests_oldest_goes_first() {
        let mut holders = Holders::default();
        assert_eq!(holders.first_to_go(), None);
        holders.insert(&[1, 1], holder(second(0), 10));
        for (id, account) in [(20, 1), (21, 2), (22, 2)] {
            holders.insert(&[2, account], holder(second(id), id));
        }
        assert_eq!(holders.first_to_go(), Some(21), "the group with most, in it the account with most, of it the oldest");
        holders.remove(&[2, 2], holder(second(21), 21));
        holders.remove(&[2, 2], holder(second(22), 22));
        assert_eq!((holders.weight(), holders.first_to_go()), (2, Some(10)), "as much as the other, and older");
        for id in [10, 20] {
            let path = if id == 10 { [1, 1] } else { [2, 1] };
            holders.remove(&path, holder(second(if id == 10 { 0 } else { id }), id));
        }
        assert!(holders.inner.is_empty() && holders.ranks.is_empty() && holders.weight() == 0, "nothing is kept of those who left");
    }

    #[test]
    fn many_groups_in_one_are_one_group() {
        let mut holders = Holders::default();
        for account in 0..100 {
            holders.insert(&[7, account], holder(second(100 + account), account));
        }
        for pod in 0..50 {
            holders.insert(&[8, 0], holder(second(pod), 1_000 + pod));
        }
        assert_eq!(
            holders.first_to_go(),
            Some(0),
            "a hundred accounts of one namespace are greedier than fifty pods of another, and the oldest of them goes"
        );
    }

    #[test]
    fn who_holds_most_is_taken_out_first_until_others_hold_more() {
        let mut holders = Holders::default();
        for (path, id, weight) in [([1, 1], 10, 50), ([2, 1], 20, 30), ([2, 2], 21, 40), ([3, 1], 30, 60)] {
            holders.insert(&path, Holder { since: second(id), id, weight });
        }
        let taken: Vec<_> = std::iter::from_fn(|| holders.take_first_to_go()).collect();
        assert_eq!(taken, [(21, 40), (30, 60), (10, 50), (20, 30)], "70 of one group, then 60, 50, and what was left of the first");
        assert!(holders.is_empty() && holders.ranks.is_empty() && holders.weight() == 0);
    }
}
