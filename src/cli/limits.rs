//! The limits of a process: open files, because each connection is one, and core dumps, because keys would be in them.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Forbids core dumps, and other processes of the same user to look into our memory (prctl(2), PR_SET_DUMPABLE): private keys are in it.
pub(super) fn keep_memory_to_ourselves() {
    // A limit of 0 isn't heeded where dumps are piped to a program (core(5)); not being dumpable is.
    let limited = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    if let Err(error) = limited.and(set_dumpable_behavior(DumpableBehavior::NotDumpable)) {
        tracing::warn!(%error, "core dumps can't be forbidden: keep them off this machine, they hold private keys");
    }
}

/// Raises the soft limit to the hard one, as far as we may, and returns it; `None` is no limit. The soft one is low for the sake of programs
/// that use select(2).
pub(super) fn raise_open_files() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // Where that isn't allowed, the limit that is there is what counts.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    getrlimit(Resource::Nofile).current
}
