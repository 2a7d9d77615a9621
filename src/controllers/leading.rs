//! Work that only the leader does.

use std::future::Future;

use tokio::sync::watch;

/// Begins `work` whenever `leading` turns true and drops it when it turns false; from when nobody could say any more who leads, it isn't us.
/// Ends when the work has ended, which only a bug does: whoever began it is to end, too.
pub(super) async fn while_leading<Work: Future<Output = ()>>(mut leading: watch::Receiver<bool>, mut work: impl FnMut() -> Work) {
    while leading.wait_for(|leading| *leading).await.is_ok() {
        let over = async { leading.wait_for(|leading| !*leading).await.is_ok() };
        tokio::select! {
            () = work() => return,
            still_known = over => if !still_known { break },
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn work_is_begun_and_dropped_as_somebody_leads() {
        let (lead, leading) = watch::channel(false);
        let (begun, mut beginnings) = watch::channel(0);
        let alive = Arc::new(());
        let held = alive.clone();
        let task = tokio::spawn(while_leading(leading, move || {
            let held = held.clone();
            begun.send_modify(|count| *count += 1);
            async move {
                let _held = held;
                std::future::pending::<()>().await;
            }
        }));
        for term in 1..=2 {
            assert_eq!((*beginnings.borrow(), Arc::strong_count(&alive)), (term - 1, 2));
            lead.send(true).unwrap();
            beginnings.wait_for(|count| *count == term).await.unwrap();
            assert_eq!(Arc::strong_count(&alive), 3);
            lead.send(false).unwrap();
            while Arc::strong_count(&alive) > 2 {
                tokio::task::yield_now().await;
            }
        }
        lead.send(true).unwrap();
        beginnings.wait_for(|count| *count == 3).await.unwrap();
        drop(lead);
        while Arc::strong_count(&alive) > 2 {
            tokio::task::yield_now().await;
        }
        assert!(!task.is_finished(), "nobody says that we lead, which is no bug");
        task.abort();
    }

    #[tokio::test]
    async fn work_that_ends_is_not_passed_over() {
        while_leading(watch::channel(true).1, || async {}).await;
    }
}
