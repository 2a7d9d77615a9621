//! The queue on a clock that only the tests move.

use futures_util::FutureExt;
use time::OffsetDateTime;

use super::*;
use crate::clock::Sleep;

/// Stands still until it is moved; nobody sleeps by it.
#[derive(Debug, Default)]
struct HandClock(Mutex<Duration>);

impl HandClock {
    fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for HandClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn sleep_until(&self, _: Duration) -> Sleep {
        Box::pin(std::future::pending())
    }
}

const PATIENCE: Duration = Duration::from_secs(1);

fn queue(slots: usize, slots_per_key: usize, waiting: usize) -> (Arc<FairQueue<u8>>, Arc<HandClock>) {
    let clock = Arc::new(HandClock::default());
    (FairQueue::new(Limits { slots, slots_per_key, waiting, patience: PATIENCE }, clock.clone()), clock)
}

/// Stands in line and says where.
fn stand(queue: &Arc<FairQueue<u8>>, key: u8) -> Result<Place<u8>, Full> {
    queue.stand_in_line(key)
}

fn served(place: Result<Place<u8>, Full>) -> Slot<u8> {
    match place {
        Ok(Place::Served(slot)) => slot,
        Ok(Place::Waiting(_)) => panic!("has to wait"),
        Err(Full) => panic!("is refused"),
    }
}

fn waiting(place: Result<Place<u8>, Full>) -> oneshot::Receiver<Slot<u8>> {
    match place {
        Ok(Place::Waiting(slot)) => slot,
        Ok(Place::Served(_)) => panic!("is served"),
        Err(Full) => panic!("is refused"),
    }
}

#[test]
fn keys_take_turns_however_many_of_one_wait() {
    let (queue, _) = queue(1, usize::MAX, 100);
    let mut held = served(stand(&queue, 1));
    let mut greedy: Vec<_> = (0..10).map(|_| waiting(stand(&queue, 1))).collect();
    let mut modest = waiting(stand(&queue, 2));
    drop(held);
    held = greedy[0].try_recv().unwrap();
    assert!(modest.try_recv().is_err(), "one slot, one at a time");
    drop(held);
    held = modest.try_recv().expect("his turn comes after one of the greedy, not after ten");
    drop(held);
    assert!(greedy[1].try_recv().is_ok());
    drop(greedy);
    assert_eq!(queue.held(), 0, "those who left gave their places up");
    drop(served(stand(&queue, 3)));
    assert!(queue.lock().lines.is_empty(), "nothing is kept of keys that left");
}

#[test]
fn a_key_holds_its_share_at_most_and_others_pass_it() {
    let (queue, _) = queue(3, 2, 100);
    let (one, two) = (served(stand(&queue, 1)), served(stand(&queue, 1)));
    let mut third = waiting(stand(&queue, 1));
    let other = served(stand(&queue, 2));
    assert!(third.try_recv().is_err());
    drop(other);
    assert!(third.try_recv().is_err(), "a slot is free, but not for this key");
    drop(one);
    let third = third.try_recv().unwrap();
    drop((two, third));
    assert_eq!((queue.held(), queue.waiting()), (0, 0));
}

#[test]
fn a_line_that_cannot_be_served_in_time_takes_no_more() {
    let (queue, clock) = queue(1, usize::MAX, 100);
    let held = served(stand(&queue, 1));
    let mut first = waiting(stand(&queue, 1));
    clock.advance(PATIENCE * 9 / 10);
    assert!(!queue.is_refusing());
    assert!(queue.would_refuse(1) && stand(&queue, 1).is_err());
    assert!(queue.is_refusing());
    assert!(!queue.would_refuse(2), "another's line is another's");
    let mut other = waiting(stand(&queue, 2));
    clock.advance(PATIENCE / 5);
    drop(held);
    assert!(matches!(first.try_recv(), Err(oneshot::error::TryRecvError::Closed)), "refused after the time that anybody waits");
    assert!(other.try_recv().is_ok());
    assert!(!queue.would_refuse(1) && queue.is_refusing(), "it was a moment ago");
    clock.advance(PATIENCE);
    assert!(!queue.is_refusing());
}

#[test]
fn a_line_is_no_longer_than_it_can_be_served_at_its_pace() {
    let (queue, clock) = queue(1, usize::MAX, 1_000);
    let mut held = served(stand(&queue, 1));
    let mut line: VecDeque<_> = (0..10).map(|_| waiting(stand(&queue, 1))).collect();
    for _ in 0..5 {
        clock.advance(PATIENCE / 20);
        drop(held);
        held = line.pop_front().unwrap().try_recv().unwrap();
    }
    // A twentieth for each: 18 places in nine tenths of the time, 5 of them taken.
    let more = (0..100).take_while(|_| stand(&queue, 1).map(|place| line.push_back(waiting(Ok(place)))).is_ok()).count();
    assert_eq!(more, 12);
    assert!(queue.would_refuse(1) && !queue.would_refuse(2));
    for _ in 0..17 {
        clock.advance(PATIENCE / 20);
        drop(held);
        held = line.pop_front().unwrap().try_recv().expect("nobody waited in vain");
    }
    drop(held);
    drop(served(stand(&queue, 1)));
}

#[test]
fn room_is_made_at_the_end_of_the_longest_line() {
    let (queue, _) = queue(1, usize::MAX, 3);
    let held = served(stand(&queue, 1));
    let mut long: Vec<_> = (0..3).map(|_| waiting(stand(&queue, 1))).collect();
    assert!(stand(&queue, 1).is_err(), "the longest line is his own");
    let mut other = waiting(stand(&queue, 2));
    assert!(long[2].try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed), "the last one made room");
    assert_eq!(queue.waiting(), 3);
    drop(held);
    drop(long[0].try_recv().unwrap());
    assert!(other.try_recv().is_ok());
}

#[test]
fn crowded_means_that_everybody_waits() {
    let (queue, clock) = queue(1, usize::MAX, 100);
    let mut held = served(stand(&queue, 1));
    assert!(!queue.is_crowded());
    // Everybody's wait is long.
    let mut lines: Vec<_> = (0..16).map(|key| waiting(stand(&queue, key))).collect();
    clock.advance(PATIENCE * 3 / 5);
    for place in lines.iter_mut().take(4) {
        drop(held);
        held = place.try_recv().unwrap();
        clock.advance(WINDOW / 2);
    }
    assert!(queue.is_crowded());
    // Somebody new is served quickly: only the others' lines are long.
    let mut newcomer = waiting(stand(&queue, 99));
    for place in lines.iter_mut().skip(4) {
        drop(held);
        held = place.try_recv().unwrap();
    }
    drop(held);
    held = newcomer.try_recv().unwrap();
    let _wait: Vec<_> = (0..16).map(|key| waiting(stand(&queue, key))).collect();
    clock.advance(WINDOW);
    assert!(!queue.is_crowded());
    drop(held);
}

#[test]
fn one_key_alone_is_no_crowd() {
    let (queue, clock) = queue(1, usize::MAX, 100);
    let mut held = served(stand(&queue, 1));
    let mut greedy: Vec<_> = (0..20).map(|_| waiting(stand(&queue, 1))).collect();
    clock.advance(PATIENCE * 3 / 5);
    for place in greedy.iter_mut().take(4) {
        drop(held);
        held = place.try_recv().unwrap();
        clock.advance(WINDOW / 2);
        assert!(!queue.is_crowded());
    }
    drop(held);
}

#[tokio::test]
async fn who_gives_up_leaves_no_hole() {
    let (queue, _) = queue(1, usize::MAX, 10_000);
    let held = served(stand(&queue, 1));
    for _ in 0..5_000 {
        drop(waiting(stand(&queue, 2)));
    }
    let patient = queue.enter(2);
    tokio::pin!(patient);
    assert!(patient.as_mut().now_or_never().is_none());
    drop(held);
    assert!(patient.await.is_ok());
    assert_eq!((queue.held(), queue.waiting()), (0, 0));
}
