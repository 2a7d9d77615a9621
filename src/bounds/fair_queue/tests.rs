//! The queue on a clock that only the tests move.

use futures_util::FutureExt;

use super::super::testing::HandClock;
use super::*;

const PATIENCE: Duration = Duration::from_secs(1);

fn queue(slots: usize, waiting: usize) -> (Arc<FairQueue>, Arc<HandClock>) {
    let clock = Arc::new(HandClock::default());
    (FairQueue::new(Limits { slots, waiting, patience: PATIENCE }, clock.clone()), clock)
}

/// A line in a group of its own.
const fn alone(number: u64) -> Share {
    Share::of([number, number, number])
}

/// Stands in such a line and says where.
fn stand(queue: &Arc<FairQueue>, number: u64) -> Result<Place, Full> {
    queue.stand_in_line(alone(number))
}

fn served(place: Result<Place, Full>) -> Slot {
    match place {
        Ok(Place::Served(slot)) => slot,
        Ok(Place::Waiting(_)) => panic!("has to wait"),
        Err(Full) => panic!("is refused"),
    }
}

fn waiting(place: Result<Place, Full>) -> oneshot::Receiver<Slot> {
    match place {
        Ok(Place::Waiting(slot)) => slot,
        Ok(Place::Served(_)) => panic!("is served"),
        Err(Full) => panic!("is refused"),
    }
}

#[test]
fn keys_take_turns_however_many_of_one_wait() {
    let (queue, _) = queue(1, 100);
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
    assert!(queue.lock().all.inner.is_empty(), "nothing is kept of keys that left");
}

#[test]
fn a_line_that_cannot_be_served_in_time_takes_no_more() {
    let (queue, clock) = queue(1, 100);
    let held = served(stand(&queue, 1));
    let mut first = waiting(stand(&queue, 1));
    clock.advance(PATIENCE * 9 / 10);
    assert!(!queue.is_refusing());
    assert!(queue.would_refuse(alone(1)) && stand(&queue, 1).is_err());
    assert!(queue.is_refusing());
    assert!(!queue.would_refuse(alone(2)), "another's line is another's");
    let mut other = waiting(stand(&queue, 2));
    clock.advance(PATIENCE / 5);
    drop(held);
    assert!(matches!(first.try_recv(), Err(oneshot::error::TryRecvError::Closed)), "refused after the time that anybody waits");
    assert!(other.try_recv().is_ok());
    assert!(!queue.would_refuse(alone(1)) && queue.is_refusing(), "it was a moment ago");
    clock.advance(PATIENCE);
    assert!(!queue.is_refusing());
}

#[test]
fn a_line_is_no_longer_than_it_can_be_served_at_its_pace() {
    let (queue, clock) = queue(1, 1_000);
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
    assert!(queue.would_refuse(alone(1)) && !queue.would_refuse(alone(2)));
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
    let (queue, _) = queue(1, 3);
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
    let (queue, clock) = queue(1, 100);
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
fn one_line_alone_is_no_crowd() {
    let (queue, clock) = queue(1, 100);
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
    let (queue, _) = queue(1, 10_000);
    let held = served(stand(&queue, 1));
    for _ in 0..5_000 {
        drop(waiting(stand(&queue, 2)));
    }
    let patient = queue.enter(alone(2));
    tokio::pin!(patient);
    assert!(patient.as_mut().now_or_never().is_none());
    drop(held);
    assert!(patient.await.is_ok());
    assert_eq!((queue.held(), queue.waiting()), (0, 0));
}

#[test]
fn a_group_with_many_lines_has_one_turn_of_the_round() {
    let (queue, _) = queue(1, 10_000);
    let mut held = served(stand(&queue, 0));
    let namespace = |account: u64| Share::of([7, account, account]);
    let mut many: Vec<_> = (0..1_000).map(|account| waiting(queue.stand_in_line(namespace(account)))).collect();
    let mut honest: Vec<_> = (0..3).map(|_| waiting(stand(&queue, 8))).collect();
    for round in 0..3 {
        drop(held);
        held = many[round].try_recv().expect("each account in turn");
        drop(held);
        held = honest[round].try_recv().expect("every other turn is the other namespace's");
    }
    drop(held);
}

#[test]
fn a_group_with_many_lines_is_bounded_by_time_too() {
    let (queue, clock) = queue(1, 10_000);
    let mut held = served(stand(&queue, 0));
    let account = |account: u64| Share::of([7, account, account]);
    let mut lines: VecDeque<_> = (0..20).map(|number| waiting(queue.stand_in_line(account(number)))).collect();
    for _ in 0..10 {
        clock.advance(PATIENCE / 30);
        drop(held);
        held = lines.pop_front().unwrap().try_recv().unwrap();
    }
    // A thirtieth for each: 27 places in nine tenths of the time, ten of them taken. Each of them is a line of its own.
    let more =
        (100..1_000).take_while(|number| queue.stand_in_line(account(*number)).map(|place| lines.push_back(waiting(Ok(place)))).is_ok()).count();
    assert!((10..=20).contains(&more), "{more}");
    assert!(queue.would_refuse(account(2_000)) && !queue.would_refuse(alone(8)));
    drop(held);
}

#[test]
fn one_group_is_no_crowd_however_many_lines_it_has() {
    let (queue, clock) = queue(1, 10_000);
    let mut held = served(stand(&queue, 0));
    let mut lines: Vec<_> = (0..20).map(|account| waiting(queue.stand_in_line(Share::of([7, account, account])))).collect();
    clock.advance(PATIENCE * 3 / 5);
    for place in lines.iter_mut().take(4) {
        drop(held);
        held = place.try_recv().unwrap();
        clock.advance(WINDOW / 2);
        assert!(!queue.is_crowded());
    }
    drop(held);
}

#[test]
fn room_is_made_in_the_largest_group() {
    let (queue, _) = queue(1, 4);
    let held = served(stand(&queue, 0));
    let mut many: Vec<_> = (0..4).map(|account| waiting(queue.stand_in_line(Share::of([7, account, account])))).collect();
    let mut other = waiting(stand(&queue, 8));
    let turned_away = many.iter_mut().map(|place| place.try_recv()).filter(|place| matches!(place, Err(oneshot::error::TryRecvError::Closed)));
    assert_eq!(turned_away.count(), 1);
    assert_eq!(queue.waiting(), 4);
    assert!(queue.stand_in_line(Share::of([7, 9, 9])).is_err(), "nobody else makes room for its fifth");
    assert!(other.try_recv().is_err());
    drop(held);
}
