//! Tasks and threads that live as long as the process, each by its name. One that ends before its time leaves a process that says it is well and
//! no longer does a part of its work, and nothing else would show it. So each of them holds a [`Living`], by which a [`Vigil`] notices its end
//! or its panic, and whoever runs the process waits for [`Vigil::first_ended`] beside its signals, and goes down.
//!
//! Work that belongs to one request or one connection is none of this; nor is what has a parent that looks after it and ends with it.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// What ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its name.
    pub task: &'static str,
    /// Whether by a panic.
    pub panicked: bool,
}

impl fmt::Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.panicked { "panicked" } else { "ended" };
        write!(formatter, "{} {how}", self.task)
    }
}

/// Notices the first that ends before its time. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Vigil(Arc<Noticed>);

#[derive(Debug, Default)]
struct Noticed {
    first: watch::Sender<Option<Ended>>,
    /// Everything may end now.
    over: AtomicBool,
    tasks: Mutex<Vec<(&'static str, AbortHandle)>>,
}

impl Vigil {
    /// To be held by a thread or task for as long as it is at work.
    pub fn living(&self, task: &'static str) -> Living {
        Living { task, vigil: self.clone(), over: false }
    }

    /// Starts a task that returns only when its work is over, which may be at any time: when what it serves is dropped.
    pub fn spawn(&self, task: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let living = self.living(task);
        let handle = tokio::spawn(async move {
            work.await;
            living.is_over();
        });
        self.know(task, handle.abort_handle());
    }

    fn know(&self, task: &'static str, handle: AbortHandle) {
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).push((task, handle));
    }

    /// Ends when the first of them has ended before its time.
    pub async fn first_ended(&self) -> Ended {
        let mut first = self.0.first.subscribe();
        let ended = first.wait_for(Option::is_some).await.ok().and_then(|ended| *ended);
        match ended {
            Some(ended) => ended,
            // Its sender is in here.
            None => std::future::pending().await,
        }
    }

    /// From now on everything may end.
    pub fn is_over(&self) {
        self.0.over.store(true, Ordering::Release);
    }

    /// The tasks that were started, by name; threads aren't among them.
    pub fn tasks(&self) -> Vec<&'static str> {
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(task, _)| *task).collect()
    }

    /// Ends a task at once, as only a bug would: to try what happens then. Says whether there is one of this name.
    pub fn abort(&self, task: &str) -> bool {
        let tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let found = tasks.iter().filter(|(name, _)| *name == task);
        found.inspect(|(_, handle)| handle.abort()).count() > 0
    }
}

/// Somebody at work. Dropped, by whatever, it says that he ended before his time.
#[derive(Debug)]
#[must_use]
pub struct Living {
    task: &'static str,
    vigil: Vigil,
    over: bool,
}

impl Living {
    /// The work is over, as it should be.
    pub fn is_over(mut self) {
        self.over = true;
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        if self.over || self.vigil.0.over.load(Ordering::Acquire) {
            return;
        }
        let ended = Ended { task: self.task, panicked: std::thread::panicking() };
        self.vigil.0.first.send_if_modified(|first| first.is_none() && first.replace(ended).is_none());
    }
}

/// Tasks that live until their owner tells them to end, or is dropped.
#[derive(Debug)]
pub struct Tasks {
    vigil: Vigil,
    set: JoinSet<()>,
}

impl Tasks {
    /// None yet.
    pub fn watched_by(vigil: &Vigil) -> Self {
        Self { vigil: vigil.clone(), set: JoinSet::new() }
    }

    /// Starts one that must not return before [`Vigil::is_over`].
    pub fn spawn(&mut self, task: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let living = self.vigil.living(task);
        let handle = self.set.spawn(async move {
            let _living = living;
            work.await;
        });
        self.vigil.know(task, handle);
    }

    /// Waits until all have ended, however they do.
    pub async fn all_ended(&mut self) {
        while self.set.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt as _;

    use super::*;

    fn quiet(vigil: &Vigil) -> bool {
        vigil.first_ended().now_or_never().is_none()
    }

    #[tokio::test]
    async fn a_task_that_returns_or_is_aborted_is_noticed_by_its_name() {
        for (work, aborted) in [(ready(()).boxed(), false), (pending().boxed(), true)] {
            let vigil = Vigil::default();
            let mut tasks = Tasks::watched_by(&vigil);
            tasks.spawn("other", pending());
            tasks.spawn("keeper", work);
            assert_eq!(vigil.tasks(), ["other", "keeper"]);
            assert!(!vigil.abort("nobody") && quiet(&vigil));
            assert!(!aborted || vigil.abort("keeper"));
            assert_eq!(vigil.first_ended().await, Ended { task: "keeper", panicked: false });
        }
    }

    #[tokio::test]
    async fn a_panic_is_told_from_an_end() {
        let vigil = Vigil::default();
        let mut tasks = Tasks::watched_by(&vigil);
        tasks.spawn("keeper", async { panic!("a bug") });
        assert_eq!(vigil.first_ended().await.to_string(), "keeper panicked");
        tasks.spawn("door", ready(()));
        tasks.all_ended().await;
        assert_eq!(vigil.first_ended().await.task, "keeper", "the first one stays");
    }

    #[tokio::test]
    async fn what_ends_in_its_time_is_not_noticed() {
        let vigil = Vigil::default();
        let mut tasks = Tasks::watched_by(&vigil);
        vigil.spawn("writer", ready(()));
        let living = vigil.living("ledger");
        std::thread::spawn(move || living.is_over()).join().unwrap();
        tokio::task::yield_now().await;
        assert!(quiet(&vigil));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("door", stopped.map(drop));
        vigil.is_over();
        stop.send(()).unwrap();
        tasks.all_ended().await;
        assert!(quiet(&vigil));
    }

    #[tokio::test]
    async fn a_thread_that_panics_is_noticed() {
        let vigil = Vigil::default();
        let living = vigil.living("ledger");
        let thread = std::thread::spawn(move || {
            let _living = living;
            panic!("a bug");
        });
        assert!(thread.join().is_err());
        assert_eq!(vigil.first_ended().await, Ended { task: "ledger", panicked: true });
    }

    #[tokio::test]
    async fn tasks_go_with_their_owner() {
        let vigil = Vigil::default();
        let mut tasks = Tasks::watched_by(&vigil);
        let held = Arc::new(());
        let inside = held.clone();
        tasks.spawn("door", async move {
            let _inside = inside;
            pending::<()>().await;
        });
        drop(tasks);
        assert_eq!(vigil.first_ended().await.task, "door");
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
