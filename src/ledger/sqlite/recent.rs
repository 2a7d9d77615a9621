//! The serial numbers of rows that are on record but not in the index of serials yet. The writer keeps it, and asks it before it appends;
//! readers ask it for rows to look at. It only ever names candidates: what a row holds is read from the ledger.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Serial (without leading zeros) and row, in this order.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<BTreeSet<(Vec<u8>, i64)>>);

impl Recent {
    /// Rows that may have this serial.
    pub(super) fn rows(&self, serial: &[u8]) -> Vec<i64> {
        self.lock().range((serial.to_vec(), 0)..=(serial.to_vec(), i64::MAX)).map(|(_, id)| *id).collect()
    }

    pub(super) fn insert(&self, serial: &[u8], id: i64) {
        self.lock().insert((serial.to_vec(), id));
    }

    /// Forgets rows that the index has now, once that is committed: a reader that no longer finds one here finds it there.
    pub(super) fn forget(&self, gone: impl Iterator<Item = (Vec<u8>, i64)>) {
        let mut rows = self.lock();
        for row in gone {
            rows.remove(&row);
        }
    }

    pub(super) fn replace(&self, rows: BTreeSet<(Vec<u8>, i64)>) {
        *self.lock() = rows;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(Vec<u8>, i64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
