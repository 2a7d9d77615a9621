//! Counts: what is on record from a table that keeps count, what is valid from an index that holds all that is asked of it. All from one
//! state of the database.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::pool::{Lease, Parameter};
use super::rows::{self, Classes, MINUTE, SELECT_CLASSES, at, counter, get};
use crate::authority::GenerationNumber;
use crate::ledger::class::Class;
use crate::ledger::query::LIFETIME_CLASSES;
use crate::ledger::{Kind, LedgerError, Stats, StatsRow};

/// Minutes before the running one.
const MINUTES: i64 = 60;
const HOURS: i64 = 24;
const HOUR: i64 = 60 * MINUTE;

const TOTALS: &str = "SELECT class, sum(total)::bigint AS count FROM meshmint.leaf_counts GROUP BY class \
     UNION ALL SELECT class, count(*) FROM meshmint.others GROUP BY class";

const VALID: &str = "SELECT class, count(*) AS count FROM meshmint.certificates \
     WHERE minute >= $2 AND not_after >= $1 AND revoked_at IS NULL GROUP BY class";

const REVOKED: &str = "SELECT count(*) AS count FROM meshmint.certificates WHERE revoked_at IS NOT NULL";

/// A holder counts by its latest certificate, also where an earlier one lives longer.
const HOLDERS: &str = "
WITH valid AS MATERIALIZED (
    SELECT id, issued_at, not_after, revoked_at, holder_key FROM meshmint.certificates
    WHERE minute >= $2 AND not_after >= $1 AND holder_key IS NOT NULL
), latest AS (
    SELECT DISTINCT ON (holder_key) * FROM valid ORDER BY holder_key, issued_at DESC, id DESC
), expired AS (
    SELECT id, issued_at, holder_key FROM meshmint.certificates
    WHERE issued_at >= (SELECT min(issued_at) FROM valid) AND not_after < $1 AND holder_key IS NOT NULL
)
SELECT count(*) AS count, min(not_after) AS next FROM latest WHERE revoked_at IS NULL AND NOT EXISTS (
    SELECT 1 FROM expired WHERE expired.holder_key = latest.holder_key AND (expired.issued_at, expired.id) > (latest.issued_at, latest.id))";

/// `width_bucket` counts the bounds that are not above; a lifetime belongs to the first bound that it doesn't exceed.
const ISSUED: &str = "SELECT issued_at / 60000000 AS minute, width_bucket(not_after - issued_at - 1, $3) AS lifetime, count(*) AS count \
     FROM meshmint.leaves WHERE issued_at >= $1 AND issued_at < $2 GROUP BY 1, 2";

const EXPIRING: &str = "SELECT (not_after - $1) / 3600000000 AS hour, count(*) AS count FROM meshmint.leaves \
     WHERE minute >= $2 AND minute <= $4 AND not_after >= $1 AND not_after < $3 AND revoked_at IS NULL GROUP BY 1";

/// Counts, as of `now` (microseconds).
///
/// # Errors
/// [`LedgerError::Unavailable`].
pub(super) async fn stats(lease: &mut Lease<'_>, now: i64) -> Result<Stats, LedgerError> {
    let running = now / MINUTE;
    let (minute, day_end) = (rows::minute(now), now.saturating_add(HOURS * HOUR));
    let last_minute = rows::minute(day_end);
    let (first_issue, issue_end) = ((running - MINUTES) * MINUTE, (running + 1) * MINUTE);
    let bounds: Vec<i64> = LIFETIME_CLASSES.iter().map(|seconds| i64::try_from(seconds * 1_000_000).unwrap_or(i64::MAX)).collect();
    let of_now: [Parameter<'_>; 2] = [(&now, Type::INT8), (&minute, Type::INT4)];
    let issued: [Parameter<'_>; 3] = [(&first_issue, Type::INT8), (&issue_end, Type::INT8), (&bounds, Type::INT8_ARRAY)];
    let expiring: [Parameter<'_>; 4] = [(&now, Type::INT8), (&minute, Type::INT4), (&day_end, Type::INT8), (&last_minute, Type::INT4)];
    let answers = lease
        .ask_together(&[
            (SELECT_CLASSES, &[]),
            (TOTALS, &[]),
            (VALID, &of_now),
            (REVOKED, &[]),
            (HOLDERS, &of_now),
            (ISSUED, &issued),
            (EXPIRING, &expiring),
        ])
        .await?;
    let answer = |index: usize| answers.get(index).map(Vec::as_slice).unwrap_or_default();

    let mut stats = Stats { issued_per_minute: vec![0; 61], expiring_per_hour: vec![0; 24], ..Stats::default() };
    let classes: Classes = answer(0).iter().map(rows::class).collect::<Result<_, _>>()?;
    count_classes(&mut stats, &classes, answer(1), answer(2))?;
    stats.revoked = answer(3).first().map_or(Ok(0), |row| counter(row, "count"))?;
    stats.total = stats.rows.iter().map(|row| row.total).sum();
    stats.valid = stats.rows.iter().map(|row| row.valid).sum();
    stats.expired = stats.total.saturating_sub(stats.valid).saturating_sub(stats.revoked);
    if let Some(row) = answer(4).first() {
        stats.live_holders = counter(row, "count")?;
        stats.next_expiry = get::<Option<i64>>(row, "next")?.map(at).transpose()?;
    }
    let mut lifetimes = BTreeMap::new();
    for row in answer(5) {
        let (place, count) = (get::<i64>(row, "minute")? - (running - MINUTES), counter(row, "count")?);
        add(&mut stats.issued_per_minute, place, count);
        let class = usize::try_from(get::<i32>(row, "lifetime")?).unwrap_or(0);
        let most = LIFETIME_CLASSES.get(class).map_or(Duration::MAX, |most| Duration::from_secs(*most));
        *lifetimes.entry(most).or_insert(0) += count;
    }
    stats.lifetimes = lifetimes.into_iter().collect();
    for row in answer(6) {
        add(&mut stats.expiring_per_hour, get(row, "hour")?, counter(row, "count")?);
    }
    Ok(stats)
}

fn add(counts: &mut [u64], place: i64, count: u64) {
    if let Some(counted) = usize::try_from(place).ok().and_then(|place| counts.get_mut(place)) {
        *counted += count;
    }
}

fn count_classes(stats: &mut Stats, classes: &Classes, totals: &[Row], valid: &[Row]) -> Result<(), LedgerError> {
    let valid: HashMap<i32, u64> = valid.iter().map(|row| Ok((get(row, "class")?, counter(row, "count")?))).collect::<Result<_, LedgerError>>()?;
    // Kind by name, issuer, generation: the order of the rows.
    let mut found: BTreeMap<(String, String, GenerationNumber), StatsRow> = BTreeMap::new();
    let mut keys: HashMap<String, u64> = HashMap::new();
    for row in totals {
        let number: i32 = get(row, "class")?;
        let Some(class) = classes.get(&number) else { continue };
        let Class { kind, issuer, generation, key_algorithm, .. } = class.as_ref();
        let valid = valid.get(&number).copied().unwrap_or(0);
        let empty = || StatsRow { kind: *kind, issuer: issuer.clone(), generation: *generation, total: 0, valid: 0 };
        let counted = found.entry((kind.to_string(), issuer.as_str().to_owned(), *generation)).or_insert_with(empty);
        counted.total += counter(row, "count")?;
        counted.valid += valid;
        if *kind == Kind::Leaf && valid > 0 {
            let name = key_algorithm.map_or_else(|| "unknown".to_owned(), |algorithm| algorithm.to_string());
            *keys.entry(name).or_insert(0) += valid;
        }
    }
    stats.rows = found.into_values().filter(|row| row.total > 0).collect();
    stats.keys = keys.into_iter().collect();
    stats.keys.sort_by(|one, other| (Reverse(one.1), &one.0).cmp(&(Reverse(other.1), &other.0)));
    Ok(())
}
