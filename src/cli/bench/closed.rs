//! The closed loop: so many places in flight, each taken again as soon as its answer is there, whatever it says. It never backs off.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::kept::{Kept, ask_anew};
use super::load::Load;

/// Workers on kept connections.
pub(super) fn on_kept_connections(load: &Arc<Load>, connections: usize, in_flight: usize, tasks: &mut JoinSet<()>) {
    for source in 0..connections {
        let kept = Arc::new(Kept::new(source));
        for _ in 0..in_flight {
            let (load, kept) = (load.clone(), kept.clone());
            tasks.spawn(async move {
                while let Some(question) = load.start() {
                    let began = load.clock.monotonic();
                    let answer = kept.ask(&load, question).await;
                    let broken = answer.is_err();
                    load.finish(question, answer, began);
                    if broken {
                        // A connection that is refused at once must not keep the others from the core.
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
    }
}

/// Workers with a new connection for each request. Source addresses are used in turn.
pub(super) fn with_new_connections(load: &Arc<Load>, workers: usize, tasks: &mut JoinSet<()>) {
    for worker in 0..workers {
        let load = load.clone();
        tasks.spawn(async move {
            let mut source = worker;
            while let Some(question) = load.start() {
                let began = load.clock.monotonic();
                let finish = |answer| {
                    load.finish(question, answer, began);
                };
                ask_anew(&load, source, question, finish).await;
                source = source.wrapping_add(workers);
                tokio::task::yield_now().await;
            }
        });
    }
}
