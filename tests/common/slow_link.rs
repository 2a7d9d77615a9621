//! A TCP proxy before the API server that a test can cut: connections end, and new ones are made or not. What goes through it is the real
//! conversation.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "every suite uses its own part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The proxy. It ends with this value.
#[derive(Debug)]
pub struct SlowLink {
    port: u16,
    cuts: watch::Sender<u64>,
    open: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl SlowLink {
    /// To this port of 127.0.0.1.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (cuts, open) = (watch::Sender::new(0), Arc::new(AtomicBool::new(true)));
        let (cut, opened) = (cuts.clone(), open.clone());
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if !opened.load(Ordering::SeqCst) {
                    continue;
                }
                let mut cut = cut.subscribe();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { port: own, cuts, open, task }
    }

    pub fn port(&self) -> u16 {
        self.port
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

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}
