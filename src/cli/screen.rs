//! What standard output is: a terminal that shows more than plain text, and how wide.

use std::io::stdout;

/// Columns where nobody says how many there are.
const COLUMNS: u16 = 80;

/// Whether signs and colours can be shown: a terminal, and neither NO_COLOR nor a dumb one.
pub(super) fn is_rich() -> bool {
    anstream::AutoStream::choice(&stdout()) != anstream::ColorChoice::Never
}

/// The columns of the terminal.
pub(super) fn width() -> usize {
    let columns = rustix::termios::tcgetwinsize(stdout()).map(|size| size.ws_col);
    usize::from(columns.ok().filter(|columns| *columns > 0).unwrap_or(COLUMNS))
}
