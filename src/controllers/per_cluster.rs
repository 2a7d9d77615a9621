//! Work that goes on in each cluster: our own, and those that are joined at run time, for as long as they are.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::ApiServer;

/// The API servers of other clusters, by name, as they are joined; `None`: there are none.
pub(super) type Others = Option<watch::Receiver<BTreeMap<String, Arc<ApiServer>>>>;

/// What is at work, by cluster; nothing while another replica leads.
#[derive(Debug)]
pub(super) struct PerCluster<W>(Mutex<BTreeMap<String, Working<W>>>);

/// What is at work in one cluster, until this is dropped.
#[derive(Debug)]
pub(super) struct Working<W> {
    api: Arc<ApiServer>,
    pub(super) work: W,
    tasks: JoinSet<()>,
}

impl<W> Default for PerCluster<W> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// Ends all work when it is dropped.
struct Stop<'a, W>(&'a PerCluster<W>);

impl<W> Drop for Stop<'_, W> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl<W> PerCluster<W> {
    /// Looks at what is at work.
    pub(super) fn look<T>(&self, question: impl FnOnce(&BTreeMap<String, Working<W>>) -> T) -> T {
        question(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts work in our own cluster and in each of the others, and ends it where one leaves. It goes on until it is dropped, or until the work
    /// of some cluster has ended, which only a bug does.
    pub(super) async fn keep_at_work(
        &self,
        (cluster, api): (&str, &Arc<ApiServer>),
        mut others: Others,
        start: impl Fn(&str, Arc<ApiServer>, &mut JoinSet<()>) -> W,
    ) {
        let _end = Stop(self);
        loop {
            let mut wanted = others.as_mut().map(|others| others.borrow_and_update().clone()).unwrap_or_default();
            wanted.insert(cluster.to_owned(), api.clone());
            {
                let mut at_work = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                // Other credentials are another cluster.
                at_work.retain(|name, working| wanted.get(name).is_some_and(|api| Arc::ptr_eq(api, &working.api)));
                for (name, api) in wanted {
                    at_work.entry(name).or_insert_with_key(|name| {
                        let mut tasks = JoinSet::new();
                        let work = start(name, api.clone(), &mut tasks);
                        Working { api, work, tasks }
                    });
                }
            }
            let changed = async {
                let known = match &mut others {
                    Some(others) => others.changed().await.is_ok(),
                    None => false,
                };
                if !known {
                    // Nobody joins or leaves any more.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = changed => {}
                () = poll_fn(|context| self.poll_ended(context)) => return,
            }
        }
    }

    /// Ready where the work of some cluster has ended.
    fn poll_ended(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut at_work = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Where there is nothing to do in a cluster, there is no task.
        let ended = at_work.values_mut().any(|working| matches!(working.tasks.poll_join_next(context), Poll::Ready(Some(_))));
        if ended { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::clock::SystemClock;
    use crate::cluster::Access;

    #[tokio::test]
    async fn work_that_ends_in_one_cluster_ends_all_of_it() {
        let kubeconfig = "{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: 'https://127.0.0.1:9'}}], \
                          contexts: [{name: c, context: {cluster: c, user: u}}], current-context: c, users: [{name: u, user: {}}]}";
        let api = ApiServer::connect(&Access::Contents(kubeconfig.to_owned()), SystemClock::shared()).await.unwrap();
        let (join, others) = watch::channel(BTreeMap::new());
        let at_work = PerCluster::default();
        let start = |cluster: &str, _, tasks: &mut JoinSet<()>| match cluster {
            "own" => drop(tasks.spawn(pending())),
            "bad" => drop(tasks.spawn(async { panic!("a bug") })),
            _ => {}
        };
        let mut working = std::pin::pin!(at_work.keep_at_work(("own", &api), Some(others), start));
        for (cluster, count) in [("idle", 2), ("other", 3)] {
            tokio::select! {
                biased;
                () = &mut working => panic!("it goes on"),
                () = tokio::task::yield_now() => {}
            }
            join.send_modify(|others| drop(others.insert(cluster.to_owned(), api.clone())));
            while at_work.look(BTreeMap::len) < count {
                tokio::select! {
                    biased;
                    () = &mut working => panic!("it goes on"),
                    () = tokio::task::yield_now() => {}
                }
            }
        }
        join.send_modify(|others| drop(others.insert("bad".to_owned(), api.clone())));
        working.await;
        assert_eq!(at_work.look(BTreeMap::len), 0, "the others ended with it");
    }
}
