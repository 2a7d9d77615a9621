//! The file store on real folders: rights, locks, writes that fail half-way.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use super::*;
use crate::authority::{AuthorityId, MadeBy, Rotation, TrustEntry};
use crate::pki::KeyAlgorithm;

fn state(bundle_number: u64) -> AuthorityState {
    AuthorityState {
        format: AuthorityState::FORMAT,
        trust_domain: "cluster.local".parse().unwrap(),
        made_by: MadeBy::Serve,
        authorities: Vec::new(),
        trust: vec![TrustEntry { id: AuthorityId::of_certificate(b"root"), certificate: "PEM\n".to_owned(), foreign: false }],
        bundle_number,
        rotation: Rotation::Steady,
        history: Vec::new(),
        ledger: None,
        reserved_not_after: BTreeMap::new(),
    }
}

/// A store in a folder that does not exist yet.
fn fresh() -> (tempfile::TempDir, PathBuf, FileStore) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("ca");
    let store = FileStore::open(&dir).unwrap();
    (parent, dir, store)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn refused_at_open(dir: &Path) -> String {
    match FileStore::open(dir) {
        Err(error @ StoreError::Unsafe { .. }) => error.to_string(),
        other => panic!("not refused as unsafe: {other:?}"),
    }
}

#[tokio::test]
async fn keeps_document_and_keys_across_a_restart_closed_to_others() {
    let (_parent, dir, store) = fresh();
    assert!(store.load().await.unwrap().is_none());
    let key = IssuerKey::generate(KeyAlgorithm::P256).unwrap();
    let reference = store.put_key("root-1", &key).await.unwrap();
    assert_eq!(reference, KeyRef("file:root-1".to_owned()));
    let first = store.swap(None, &state(1)).await.unwrap();
    let second = store.swap(Some(&first), &state(2)).await.unwrap();
    drop(store);

    let store = FileStore::open(&dir).unwrap();
    assert_eq!(store.folder(), fs::canonicalize(&dir).unwrap());
    assert_eq!(store.load().await.unwrap(), Some((state(2), second)));
    assert_eq!(store.key(&reference).await.unwrap().public_key_info(), key.public_key_info());
    for (name, expected) in [("", 0o700), ("keys", 0o700), ("authority.json", 0o600), ("keys/root-1.pem", 0o600), ("lock", 0o600)] {
        assert_eq!(mode(&dir.join(name)), expected, "{name}");
    }
}

#[tokio::test]
async fn a_swap_over_another_version_is_a_conflict() {
    let (_parent, dir, store) = fresh();
    let first = store.swap(None, &state(1)).await.unwrap();
    assert!(matches!(store.swap(None, &state(2)).await, Err(StoreError::Conflict)));
    let second = store.swap(Some(&first), &state(2)).await.unwrap();
    assert!(matches!(store.swap(Some(&first), &state(3)).await, Err(StoreError::Conflict)));
    // An edit by hand, behind the store's back.
    fs::write(dir.join(DOCUMENT), state(9).to_json().unwrap()).unwrap();
    assert!(matches!(store.swap(Some(&second), &state(3)).await, Err(StoreError::Conflict)));
    let (seen, edited) = store.load().await.unwrap().unwrap();
    assert_eq!(seen, state(9));
    store.swap(Some(&edited), &state(10)).await.unwrap();
    fs::remove_file(dir.join(DOCUMENT)).unwrap();
    assert!(matches!(store.swap(Some(&edited), &state(11)).await, Err(StoreError::Conflict)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_swaps_at_once_one_wins() {
    let (_parent, _dir, store) = fresh();
    let base = store.swap(None, &state(1)).await.unwrap();
    let tasks: Vec<_> = (2..34)
        .map(|number| {
            let (store, base) = (store.clone(), base.clone());
            tokio::spawn(async move { store.swap(Some(&base), &state(number)).await.map(|version| (number, version)) })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(winner) => winners.push(winner),
            Err(error) => assert!(matches!(error, StoreError::Conflict), "{error}"),
        }
    }
    let [(number, version)] = winners.as_slice() else { panic!("{winners:?}") };
    assert_eq!(store.load().await.unwrap(), Some((state(*number), version.clone())));
}

#[tokio::test]
async fn a_key_is_never_overwritten_and_can_be_destroyed() {
    let (_parent, _dir, store) = fresh();
    let first = IssuerKey::generate(KeyAlgorithm::P256).unwrap();
    let reference = store.put_key("k", &first).await.unwrap();
    let again = store.put_key("k", &IssuerKey::generate(KeyAlgorithm::P256).unwrap()).await;
    assert!(matches!(&again, Err(StoreError::KeyUnusable { name, .. }) if name == "file:k"), "{again:?}");
    assert_eq!(store.key(&reference).await.unwrap().public_key_info(), first.public_key_info());
    store.destroy_key(&reference).await.unwrap();
    assert!(matches!(store.key(&reference).await, Err(StoreError::KeyMissing(name)) if name == "file:k"));
    store.destroy_key(&reference).await.unwrap();
}

#[tokio::test]
async fn names_cannot_leave_the_folder() {
    let (_parent, dir, store) = fresh();
    fs::write(dir.join("outside.pem"), "x").unwrap();
    let key = IssuerKey::generate(KeyAlgorithm::P256).unwrap();
    for name in ["", "../outside", "a/b", "A", "a.b", "a\0", "ä", "k\n", &"x".repeat(129)] {
        let reference = KeyRef(format!("file:{name}"));
        assert!(matches!(store.put_key(name, &key).await, Err(StoreError::KeyUnusable { .. })), "{name:?}");
        assert!(matches!(store.key(&reference).await, Err(StoreError::KeyUnusable { .. })), "{name:?}");
        assert!(matches!(store.destroy_key(&reference).await, Err(StoreError::KeyUnusable { .. })), "{name:?}");
    }
    for reference in ["k", "secret:k", "pkcs11:k", ""] {
        let refused = store.key(&KeyRef(reference.to_owned())).await.unwrap_err().to_string();
        assert!(refused.contains("file:NAME"), "{refused}");
    }
    assert!(dir.join("outside.pem").exists());
}

#[tokio::test]
async fn a_key_file_with_other_content_is_unusable_and_not_quoted() {
    let (_parent, dir, store) = fresh();
    let public = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n";
    let broken = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0LWJ5dGVz\n-----END PRIVATE KEY-----\n";
    for content in [&b""[..], b"secret-bytes", public.as_bytes(), broken.as_bytes(), b"\xff\xfesecret-bytes"] {
        place::replace(&dir.join(KEYS), "k.pem", content).unwrap();
        match store.key(&KeyRef("file:k".to_owned())).await {
            Err(error @ StoreError::KeyUnusable { .. }) => {
                let words = format!("{error} {error:?}");
                assert!(words.contains("file:k") && !words.contains("secret-bytes") && !words.contains("c2VjcmV0"), "{words}");
            }
            other => panic!("{content:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_broken_document_is_named_as_such() {
    let (_parent, dir, store) = fresh();
    place::replace(&dir, DOCUMENT, b"{").unwrap();
    assert!(matches!(store.load().await, Err(StoreError::State(_))));
}

#[test]
fn a_second_open_is_refused_until_the_first_is_gone() {
    let (_parent, dir, store) = fresh();
    let clone = store.clone();
    assert!(matches!(FileStore::open(&dir), Err(StoreError::Locked(_))));
    drop(store);
    assert!(matches!(FileStore::open(&dir), Err(StoreError::Locked(_))));
    // Another process sees the same lock.
    let other = |dir: &Path| Command::new("flock").arg("--nonblock").arg(dir.join("lock")).arg("true").status().unwrap().success();
    assert!(!other(&dir));
    drop(clone);
    assert!(other(&dir));
    FileStore::open(&dir).unwrap();
}

#[test]
fn a_lock_that_another_process_holds_is_respected() {
    let (_parent, dir, store) = fresh();
    drop(store);
    let script = "exec 9<>\"$0\" && flock 9 && echo held && read line";
    let mut holder = Command::new("sh");
    holder.args(["-c", script]).arg(dir.join("lock")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = holder.spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, "held\n");
    let refused = FileStore::open(&dir).unwrap_err();
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(matches!(refused, StoreError::Locked(_)), "{refused}");
    FileStore::open(&dir).unwrap();
}

#[tokio::test]
async fn what_a_killed_process_left_half_written_goes_at_open() {
    let (_parent, dir, store) = fresh();
    let version = store.swap(None, &state(1)).await.unwrap();
    drop(store);
    let leftovers = [dir.join(".new-authority.json"), dir.join("keys/.new-k.pem")];
    for leftover in &leftovers {
        fs::write(leftover, "half").unwrap();
        // Whatever its mode: it goes before anything is judged.
        chmod(leftover, 0o644);
    }
    let store = FileStore::open(&dir).unwrap();
    assert!(leftovers.iter().all(|leftover| !leftover.exists()));
    assert_eq!(store.load().await.unwrap(), Some((state(1), version)));
    // One that appears while the store is open is written over, not into.
    fs::write(dir.join("keys/.new-k.pem"), "half").unwrap();
    let reference = store.put_key("k", &IssuerKey::generate(KeyAlgorithm::P256).unwrap()).await.unwrap();
    store.key(&reference).await.unwrap();
}

#[test]
fn folders_that_others_can_write_or_that_are_none_are_refused() {
    let parent = tempfile::tempdir().unwrap();
    for bits in [0o777, 0o702, 0o1777] {
        chmod(parent.path(), bits);
        let refused = refused_at_open(parent.path());
        assert!(refused.contains("everybody can write") && refused.contains("chmod 700"), "{refused}");
    }
    chmod(parent.path(), 0o700);
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(refused_at_open(&file).contains("not a folder"));
    assert!(matches!(FileStore::open(&file.join("below")), Err(StoreError::Io { .. })));
}

#[test]
fn a_folder_with_group_access_gets_a_folder_of_our_own_inside() {
    let parent = tempfile::tempdir().unwrap();
    for bits in [0o2775 & !0o002, 0o2770, 0o755, 0o750] {
        let volume = parent.path().join(format!("{bits:o}"));
        fs::create_dir(&volume).unwrap();
        chmod(&volume, bits);
        let store = FileStore::open(&volume).unwrap();
        assert_eq!(store.folder(), fs::canonicalize(&volume).unwrap().join("state"));
        assert_eq!(mode(store.folder()), 0o700);
        let inner = store.folder().to_owned();
        drop(store);
        chmod(&inner, 0o770);
        let refused = refused_at_open(&volume);
        assert!(refused.contains("chmod 700") && refused.contains("OnRootMismatch"), "{refused}");
    }
}

#[tokio::test]
async fn the_choice_of_folder_stays_when_the_mode_changes() {
    let (_parent, dir, store) = fresh();
    store.swap(None, &state(1)).await.unwrap();
    drop(store);
    // It was ours alone; a new, empty store inside it would be another CA.
    chmod(&dir, 0o750);
    assert!(refused_at_open(&dir).contains("chmod 700"));

    let volume = tempfile::tempdir().unwrap();
    chmod(volume.path(), 0o750);
    let store = FileStore::open(volume.path()).unwrap();
    store.swap(None, &state(2)).await.unwrap();
    let inner = store.folder().to_owned();
    drop(store);
    chmod(volume.path(), 0o700);
    assert_eq!(FileStore::open(volume.path()).unwrap().folder(), inner);
    fs::copy(inner.join(DOCUMENT), volume.path().join(DOCUMENT)).unwrap();
    assert!(refused_at_open(volume.path()).contains("move the one"));
}

#[tokio::test]
async fn files_that_others_can_reach_are_refused_at_open_and_at_read() {
    let (_parent, dir, store) = fresh();
    let reference = store.put_key("k", &IssuerKey::generate(KeyAlgorithm::P256).unwrap()).await.unwrap();
    store.swap(None, &state(1)).await.unwrap();
    let key = dir.join("keys/k.pem");
    for bits in [0o640, 0o604, 0o620] {
        chmod(&key, bits);
        assert!(matches!(store.key(&reference).await, Err(StoreError::Unsafe { .. })), "{bits:o}");
    }
    let document = dir.join(DOCUMENT);
    chmod(&document, 0o620);
    assert!(matches!(store.load().await, Err(StoreError::Unsafe { .. })));
    assert!(matches!(store.swap(None, &state(2)).await, Err(StoreError::Unsafe { .. })));
    drop(store);
    assert!(refused_at_open(&dir).contains("authority.json"));
    // Not a secret: a copy restored as 0644 will do.
    chmod(&document, 0o644);
    assert!(refused_at_open(&dir).contains("chmod 600"));
    chmod(&key, 0o600);
    FileStore::open(&dir).unwrap();
    chmod(&dir.join(KEYS), 0o750);
    assert!(refused_at_open(&dir).contains("keys"));
}

#[tokio::test]
async fn links_in_place_of_files_are_refused() {
    let (parent, dir, store) = fresh();
    let reference = store.put_key("k", &IssuerKey::generate(KeyAlgorithm::P256).unwrap()).await.unwrap();
    let elsewhere = parent.path().join("elsewhere");
    fs::rename(dir.join("keys/k.pem"), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, dir.join("keys/k.pem")).unwrap();
    assert!(matches!(store.key(&reference).await, Err(StoreError::Unsafe { .. })));
    drop(store);
    assert!(refused_at_open(&dir).contains("regular file"));
    fs::remove_file(dir.join("keys/k.pem")).unwrap();
    fs::remove_file(dir.join("lock")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, dir.join("lock")).unwrap();
    assert!(refused_at_open(&dir).contains("lock"));
    fs::remove_file(dir.join("lock")).unwrap();
    fs::remove_dir(dir.join(KEYS)).unwrap();
    std::os::unix::fs::symlink(parent.path(), dir.join(KEYS)).unwrap();
    assert!(refused_at_open(&dir).contains("not a folder"));
}

#[test]
fn a_folder_or_file_of_somebody_else_is_refused() {
    // Only root can give a file away; `place` tests the rule itself for everybody.
    if rustix::process::geteuid().is_root() {
        let (_parent, dir, store) = fresh();
        drop(store);
        std::os::unix::fs::chown(dir.join("lock"), Some(65_534), None).unwrap();
        assert!(refused_at_open(&dir).contains("chown"));
        std::os::unix::fs::chown(&dir, Some(65_534), None).unwrap();
        assert!(refused_at_open(&dir).contains("belongs to user 65534"));
    }
}
