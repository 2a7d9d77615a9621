//! The bound on open files: raised as far as we may, and checked before a herd is sent out that doesn't fit.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Files that are open beside the clients' sockets, generously.
const OTHERS: u64 = 64;

/// Raises the soft bound on open files to the hard one and returns it; `None` is no bound.
pub(super) fn raise_open_files() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // Where that isn't allowed, the bound that is there is what counts.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    getrlimit(Resource::Nofile).current
}

/// Whether so many connections at once fit into the bound.
///
/// # Errors
/// In words, with what to do.
pub(super) fn check_fits(connections: usize, open_files: Option<u64>) -> Result<(), String> {
    let wanted = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(OTHERS);
    match open_files {
        Some(bound) if wanted > bound => Err(format!(
            "{connections} connections at once don't fit: this process may open {bound} files (of which {OTHERS} are kept for other things). \
             Raise the hard limit (ulimit -Hn), or share them between several bench processes"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_said_with_both_numbers() {
        assert_eq!(check_fits(936, Some(1000)), Ok(()));
        assert_eq!(check_fits(usize::MAX, None), Ok(()));
        let message = check_fits(937, Some(1000)).unwrap_err();
        assert!(message.contains("937") && message.contains("1000"), "{message}");
    }
}
