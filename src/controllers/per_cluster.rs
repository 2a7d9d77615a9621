//! Work that goes on in each cluster: our own, and those that are joined at run time, for as long as they are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

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
    _tasks: JoinSet<()>,
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

    /// Starts work in our own cluster and in each of the others, and ends it where one leaves. It goes on until it is dropped.
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
                        Working { api, work, _tasks: tasks }
                    });
                }
            }
            let changed = async {
                match &mut others {
                    Some(others) => others.changed().await.is_ok(),
                    None => false,
                }
            };
            if !changed.await {
                // Nobody joins or leaves any more.
                std::future::pending::<()>().await;
            }
        }
    }
}
