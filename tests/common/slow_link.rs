//! A TCP proxy before the API server that a test can cut or slow down: connections end, and new ones are made or not; answers come late. What
//! goes through it is the real conversation.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "every suite uses its own part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The proxy. It ends with this value.
#[derive(Debug)]
pub struct SlowLink {
    port: u16,
    cuts: watch::Sender<u64>,
    open: Arc<AtomicBool>,
    /// Milliseconds.
    lag: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl SlowLink {
    /// To this port of 127.0.0.1.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (cuts, open) = (watch::Sender::new(0), Arc::new(AtomicBool::new(true)));
        let lag = Arc::new(AtomicU64::new(0));
        let (cut, opened, late) = (cuts.clone(), open.clone(), lag.clone());
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if !opened.load(Ordering::SeqCst) {
                    continue;
                }
                let (mut cut, late) = (cut.subscribe(), late.clone());
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    let ((mut near_in, near_out), (far_in, mut far_out)) = (near.into_split(), far.into_split());
                    tokio::select! {
                        _ = copy(&mut near_in, &mut far_out) => {}
                        _ = copy_late(far_in, near_out, &late) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { port: own, cuts, open, lag, task }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on what the API server says arrives so much later. Questions reach it at once.
    pub fn answer_late(&self, lag: Duration) {
        self.lag.store(u64::try_from(lag.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Ends every connection; new ones are made as before.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Ends every connection, and new ones too, until [`SlowLink::mend`].
    pub fn tear(&self) {
        self.open.store(false, Ordering::SeqCst);
        self.cut();
    }

    pub fn mend(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

async fn copy_late(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, lag: &AtomicU64) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut bytes).await?;
        tokio::time::sleep(Duration::from_millis(lag.load(Ordering::SeqCst))).await;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(bytes.get(..read).unwrap_or_default()).await?;
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}
