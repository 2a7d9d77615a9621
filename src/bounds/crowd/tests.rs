//! The crowd on a clock that only the tests move.

use futures_util::FutureExt;

use super::super::testing::HandClock;
use super::*;

const GRACE: Duration = Duration::from_secs(5);

fn crowd(places: usize, strangers: usize, bytes: usize) -> (Arc<Crowd>, Arc<HandClock>) {
    let clock = Arc::new(HandClock::default());
    (Crowd::new(CrowdLimits { places, strangers, bytes, grace: GRACE }, clock.clone()), clock)
}

fn tick(clock: &HandClock) {
    clock.advance(Duration::from_millis(10));
}

const fn address(number: u64) -> Share {
    Share::of([number, number, number])
}

const fn account(namespace: u64, number: u64) -> Share {
    Share::of([1_000 + namespace, number, number])
}

fn went(member: &Member) -> Option<Departure> {
    member.departure().now_or_never()
}

#[test]
fn a_newcomer_takes_the_place_of_the_greediests_oldest() {
    let (crowd, clock) = crowd(100, 4, 1_000);
    let modest = crowd.enter(address(1)).unwrap();
    let greedy: Vec<_> = (0..3)
        .map(|_| {
            tick(&clock);
            crowd.enter(address(2)).unwrap()
        })
        .collect();
    let newcomer = crowd.enter(address(3)).unwrap();
    assert_eq!(greedy.iter().map(|member| went(member)).collect::<Vec<_>>(), [Some(Departure::MadeRoom), None, None]);
    assert_eq!((went(&modest), went(&newcomer)), (None, None), "who came first is not who holds most");
    assert_eq!((crowd.connections(), crowd.strangers()), (4, 4), "who has to go holds no place");
    drop((modest, greedy, newcomer));
    assert_eq!((crowd.connections(), crowd.lock().strangers.weight()), (0, 0));
}

#[test]
fn who_is_worked_for_goes_after_those_who_are_waited_for() {
    let (crowd, clock) = crowd(100, 3, 1_000);
    let first = crowd.enter(address(2)).unwrap();
    let working = first.works();
    tick(&clock);
    let second = crowd.enter(address(2)).unwrap();
    let third = crowd.enter(address(2)).unwrap();
    tick(&clock);
    let _newcomer = crowd.enter(address(3)).unwrap();
    assert_eq!((went(&first), went(&second), went(&third)), (None, Some(Departure::MadeRoom), None));
    drop(working);
    let _another = crowd.enter(address(4)).unwrap();
    assert_eq!((went(&first), went(&third)), (None, Some(Departure::MadeRoom)), "he was served a moment ago");
}

#[test]
fn where_all_are_worked_for_their_own_kind_is_refused_and_another_is_not() {
    let (crowd, _) = crowd(100, 3, 1_000);
    let herd: Vec<_> = (0..3).map(|_| crowd.enter(address(2)).unwrap()).collect();
    let _working: Vec<_> = herd.iter().map(Member::works).collect();
    assert_eq!(crowd.enter(address(2)).unwrap_err(), NoRoom);
    assert!(herd.iter().all(|member| went(member).is_none()), "nobody's handshake is paid for in vain");
    let _other = crowd.enter(address(3)).unwrap();
    assert_eq!(herd.iter().filter(|member| went(member).is_some()).count(), 1);
}

#[test]
fn strangers_and_known_ones_have_places_apart() {
    let (crowd, clock) = crowd(4, 2, 1_000);
    let known: Vec<_> = (0..4)
        .map(|number| {
            tick(&clock);
            let member = crowd.enter(address(9)).unwrap();
            // One namespace with accounts without end is one group.
            member.becomes_known(account(if number == 0 { 1 } else { 2 }, number));
            member
        })
        .collect();
    assert!(known[0].is_known());
    let stranger = crowd.enter(address(1)).unwrap();
    assert_eq!(known.iter().map(|member| went(member)).collect::<Vec<_>>(), [None, Some(Departure::MadeRoom), None, None]);
    let second = crowd.enter(address(1)).unwrap();
    assert_eq!(crowd.enter(address(1)).unwrap_err(), NoRoom, "nobody goes for one of his own group who has just come");
    clock.advance(GRACE);
    let third = crowd.enter(address(1)).unwrap();
    assert_eq!((went(&stranger), went(&second), went(&third)), (Some(Departure::MadeRoom), None, None), "strangers keep nobody else out");
    assert_eq!((crowd.connections(), crowd.strangers()), (4, 2));
}

#[test]
fn bytes_come_from_whoever_holds_most_for_longest() {
    let (crowd, clock) = crowd(100, 50, 1_000);
    let modest = crowd.enter(address(1)).unwrap();
    let kept = modest.holds(100);
    let greedy: Vec<_> = (0..3).map(|_| crowd.enter(address(2)).unwrap()).collect();
    let mut held = Vec::new();
    for member in &greedy {
        tick(&clock);
        held.push(member.holds(250));
    }
    assert_eq!(crowd.bytes(), 850);
    held.push(modest.holds(151));
    assert_eq!((went(&modest), went(&greedy[0]), went(&greedy[2])), (None, Some(Departure::TooManyBytes), None));
    assert_eq!(went(&greedy[1]), Some(Departure::TooManyBytes), "down to three quarters");
    assert_eq!(crowd.bytes(), 501);
    drop((held, kept));
    assert_eq!(crowd.bytes(), 0, "bytes of those who left are not given back twice");
}

#[test]
fn who_is_slow_is_sent_away() {
    let (crowd, clock) = crowd(100, 50, 1_000);
    let (slow, quick) = (crowd.enter(address(1)).unwrap(), crowd.enter(address(1)).unwrap());
    let _slow = slow.holds(1);
    let first = quick.holds(1);
    clock.advance(Duration::from_secs(8));
    let _second = quick.holds(1);
    drop(first);
    clock.advance(Duration::from_secs(3));
    crowd.send_slow_ones_away(Duration::from_secs(10));
    assert_eq!((went(&slow), went(&quick)), (Some(Departure::TooSlow), None));
}
