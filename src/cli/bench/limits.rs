//! The bound on open files, checked before a herd is sent out that doesn't fit.

/// Files that are open beside the clients' sockets, generously.
const OTHERS: u64 = 64;

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
