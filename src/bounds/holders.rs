//! Who holds how many places, group by group, and who is the first to go: in the group that holds most the group that holds most, and there who
//! has been waited for longest. Among groups that hold as much the oldest decides too.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// A group of holders, or the holders themselves where it is the narrowest.
#[derive(Debug, Default)]
pub(super) struct Holders {
    count: usize,
    /// The groups in this one, and the same in the order in which they have to go, the last one first.
    inner: HashMap<u64, Holders>,
    ranks: BTreeSet<(Rank, u64)>,
    /// Since when each is waited for, and who he is; only in the narrowest group.
    oldest: BTreeSet<(Duration, u64)>,
}

/// How many somebody holds, and since when the first of them who has to go is waited for.
type Rank = (usize, Reverse<Duration>);

impl Holders {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Puts somebody in.
    pub(super) fn insert(&mut self, path: &[u64], since: Duration, id: u64) {
        self.count += 1;
        let Some((key, rest)) = path.split_first() else {
            self.oldest.insert((since, id));
            return;
        };
        let inner = self.inner.entry(*key).or_default();
        self.ranks.remove(&(inner.rank(), *key));
        inner.insert(rest, since, id);
        self.ranks.insert((inner.rank(), *key));
    }

    /// Takes somebody out, who was put in exactly so.
    pub(super) fn remove(&mut self, path: &[u64], since: Duration, id: u64) {
        self.count = self.count.saturating_sub(1);
        let Some((key, rest)) = path.split_first() else {
            self.oldest.remove(&(since, id));
            return;
        };
        let Some(inner) = self.inner.get_mut(key) else { return };
        self.ranks.remove(&(inner.rank(), *key));
        inner.remove(rest, since, id);
        if inner.count == 0 {
            self.inner.remove(key);
        } else {
            self.ranks.insert((inner.rank(), *key));
        }
    }

    fn rank(&self) -> Rank {
        let first = match self.ranks.last() {
            Some(((_, first), _)) => *first,
            None => Reverse(self.oldest.first().map_or(Duration::ZERO, |(since, _)| *since)),
        };
        (self.count, first)
    }

    /// Who goes first.
    pub(super) fn first_to_go(&self) -> Option<u64> {
        match self.ranks.last() {
            Some((_, key)) => self.inner.get(key)?.first_to_go(),
            None => self.oldest.first().map(|(_, id)| *id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn second(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn the_greediests_oldest_goes_first() {
        let mut holders = Holders::default();
        assert_eq!(holders.first_to_go(), None);
        holders.insert(&[1, 1], second(0), 10);
        for (id, account) in [(20, 1), (21, 2), (22, 2)] {
            holders.insert(&[2, account], second(id), id);
        }
        assert_eq!(holders.first_to_go(), Some(21), "the group with most, in it the account with most, of it the oldest");
        holders.remove(&[2, 2], second(21), 21);
        holders.remove(&[2, 2], second(22), 22);
        assert_eq!((holders.count(), holders.first_to_go()), (2, Some(10)), "as much as the other, and older");
        for id in [10, 20] {
            let path = if id == 10 { [1, 1] } else { [2, 1] };
            holders.remove(&path, second(if id == 10 { 0 } else { id }), id);
        }
        assert!(holders.inner.is_empty() && holders.ranks.is_empty() && holders.count() == 0, "nothing is kept of those who left");
    }

    #[test]
    fn many_groups_in_one_are_one_group() {
        let mut holders = Holders::default();
        for account in 0..100 {
            holders.insert(&[7, account], second(100 + account), account);
        }
        for pod in 0..50 {
            holders.insert(&[8, 0], second(pod), 1_000 + pod);
        }
        assert_eq!(
            holders.first_to_go(),
            Some(0),
            "a hundred accounts of one namespace are greedier than fifty pods of another, and the oldest of them goes"
        );
    }
}
