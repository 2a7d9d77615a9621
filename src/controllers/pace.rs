//! A limit on writes to one API server, evenly spread: in any second no more than [`PER_SECOND`].

use std::time::Duration;

use crate::bounds::rate::Rate;

/// What an API server is asked to bear.
#[cfg(test)]
const PER_SECOND: usize = 200;
/// The time between two writes of an even stream, 140 a second. With those that a stalled API server finds waiting (32 under way at once, see
/// `root_config_maps`) no second of its own holds more than the limit either.
const STEP: Duration = Duration::from_nanos(1_000_000_000 / 140);
/// How far ahead of the even stream writes may be: what a pause leaves over is caught up in one go.
const AHEAD: u32 = 25;

/// Says when the next write may go.
pub(super) fn pace() -> Rate {
    Rate::every(STEP, AHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_holds_more_than_the_limit_and_hardly_less() {
        for pause in [1, 7, 25, 130] {
            let (mut pace, mut now, mut turns) = (pace(), Duration::from_secs(5), Vec::new());
            while now < Duration::from_secs(15) {
                while pace.take(now).is_ok() {
                    turns.push(now);
                }
                now += Duration::from_millis(pause);
            }
            let most = turns.iter().map(|from| turns.iter().filter(|at| **at >= *from && **at < *from + Duration::from_secs(1)).count()).max();
            assert!(most.unwrap() + 32 <= PER_SECOND, "{most:?} with looks every {pause} ms");
            assert!(turns.len() >= 1380, "{} in 10 s with looks every {pause} ms", turns.len());
        }
    }

    #[test]
    fn it_says_when_to_come_again() {
        let mut pace = pace();
        let now = Duration::from_secs(1);
        let again = std::iter::repeat_with(|| pace.take(now)).find_map(Result::err).unwrap();
        assert!(again > now && again <= now + STEP, "{again:?}");
        assert_eq!(pace.take(again), Ok(()));
    }
}
