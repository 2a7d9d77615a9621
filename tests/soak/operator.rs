//! Who operates the server of a soak: asks the admin API by the commands that people have, all the time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use super::mesh::Mesh;
use crate::common::process::meshmint;

/// Asks until the soak is over, at most two questions a second; every answer must be right.
pub(crate) async fn asks(mesh: Arc<Mesh>, socket: PathBuf) {
    let mut beat = interval(Duration::from_millis(500));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0_usize.. {
        beat.tick().await;
        if !mesh.goes_on() {
            return;
        }
        if mesh.issued() == 0 {
            continue;
        }
        let (mesh, socket) = (mesh.clone(), socket.clone());
        tokio::task::spawn_blocking(move || question(number, &mesh, &socket)).await.unwrap();
    }
}

fn question(number: usize, mesh: &Mesh, socket: &Path) {
    let command = |words: &[&str]| {
        let output = meshmint(&[words, &["--admin", socket.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let json = |words: &[&str]| -> Value { serde_json::from_str(&command(&[words, &["-o", "json"]].concat())).unwrap() };
    // What is empty isn't there.
    let found = |answer: &Value, of: &str| answer[of].as_array().cloned().unwrap_or_default();
    match number % 6 {
        0 => {
            let listed = json(&["certs", "list", "--namespace", "kept", "--state", "valid", "--page-size", "50"]);
            assert!(found(&listed, "certificates").iter().all(|each| each["namespace"] == "kept"));
        }
        1 => {
            let listed = json(&["certs", "list", "--issued-after", "-2s", "--page-size", "200"]);
            assert_ne!(found(&listed, "certificates").len(), 0, "somebody gets a certificate every few milliseconds");
        }
        2 => {
            let serial = mesh.latest_serial();
            assert_eq!(found(&json(&["certs", "show", &serial]), "certificates").len(), 1, "{serial}");
        }
        3 => assert_ne!(found(&json(&["certs", "stats"]), "rows").len(), 0),
        4 => assert_eq!(command(&["certs", "watch", "--limit", "5", "-o", "json"]).lines().count(), 5),
        _ => assert_eq!(command(&["bundle"]), mesh.roots),
    }
}
