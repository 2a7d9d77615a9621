//! What standard output is: a terminal that shows more than plain text, and how wide; and the one way of text to it, which lets nothing of
//! somebody else's steer it.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write, stderr, stdout};

use serde::Serialize;

use crate::pki::inspect::printable::is_harmless;

/// Columns where nobody says how many there are.
const COLUMNS: u16 = 80;

/// What our own styles consist of: back to normal, bold, dimmed, red, green, yellow.
const STYLES: [&str; 6] = ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"];

/// Whether signs and colours can be shown: a terminal, and neither NO_COLOR nor a dumb one.
pub(super) fn is_rich() -> bool {
    anstream::AutoStream::choice(&stdout()) != anstream::ColorChoice::Never
}

/// Whether standard error is a terminal.
pub(super) fn is_errors_terminal() -> bool {
    stderr().is_terminal()
}

/// The columns of the terminal.
pub(super) fn width() -> usize {
    let columns = rustix::termios::tcgetwinsize(stdout()).map(|size| size.ws_col);
    usize::from(columns.ok().filter(|columns| *columns > 0).unwrap_or(COLUMNS))
}

/// Writes text to standard output; colours only where it is a terminal.
///
/// # Errors
/// The stream's, also where a reader has gone.
pub(super) fn write(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(styled(text).as_bytes())?;
    out.flush()
}

/// Writes a line to standard error. Where nobody can read it there is nobody to tell.
pub(super) fn tell(line: &str) {
    _ = writeln!(anstream::stderr(), "{}", plain(line));
}

/// `value` as indented JSON that is safe to show.
///
/// # Errors
/// The serializer's, in words; our types have none.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, String> {
    serde_json::to_string_pretty(value).map(|json| json_escaped(&json)).map_err(|error| error.to_string())
}

/// JSON as it is, but for what a terminal would take as more than a letter: that can only stand in strings, which have escapes for it.
pub(super) fn json_escaped(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\n' => safe.push('\n'),
            harmless if is_harmless(harmless) => safe.push(harmless),
            other => other.encode_utf16(&mut [0; 2]).iter().for_each(|unit| _ = write!(safe, "\\u{unit:04x}")),
        }
    }
    safe
}

/// Lines without any style: everything but line breaks that a terminal would take as more than a letter is shown as an escape.
pub(super) fn plain(text: &str) -> String {
    escaped(text, |_| None)
}

/// The same with our own styles.
pub(super) fn styled(text: &str) -> String {
    escaped(text, |rest| STYLES.into_iter().find(|style| rest.starts_with(style)))
}

fn escaped(text: &str, style: impl Fn(&str) -> Option<&'static str>) -> String {
    let (mut safe, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(character) = rest.chars().next() {
        let mut taken = character.len_utf8();
        match character {
            '\n' | '\t' => safe.push(character),
            harmless if is_harmless(harmless) => safe.push(harmless),
            other => match style(rest) {
                Some(style) => {
                    safe.push_str(style);
                    taken = style.len();
                }
                None => _ = write!(safe, "{}", other.escape_unicode()),
            },
        }
        rest = rest.get(taken..).unwrap_or_default();
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVIL: &str = "a\u{1b}]0;title\u{7}b\u{9b}31mc\u{61c}d\u{202e}e\u{e0041}f";

    #[test]
    fn only_our_own_styles_pass_and_the_rest_is_seen_as_what_it_is() {
        let shown = styled(&format!("\x1b[1mhead\x1b[0m {EVIL}\x1b[8mhidden\x1b[2J\n"));
        assert_eq!(shown, "\x1b[1mhead\x1b[0m a\\u{1b}]0;title\\u{7}b\\u{9b}31mc\\u{61c}d\\u{202e}e\\u{e0041}f\\u{1b}[8mhidden\\u{1b}[2J\n");
        assert_eq!(plain("\x1b[1mno\r\n"), "\\u{1b}[1mno\\u{d}\n");
    }

    #[test]
    fn every_style_that_we_write_passes() {
        use anstyle::{AnsiColor, Style};
        let styles =
            [Style::new().bold(), Style::new().dimmed(), AnsiColor::Red.on_default(), AnsiColor::Green.on_default(), AnsiColor::Yellow.on_default()];
        for style in styles {
            let text = format!("{style}x{style:#}");
            assert_eq!(styled(&text), text);
        }
        for palette in [crate::pki::inspect::Palette::ANSI, crate::pki::inspect::Palette::PLAIN] {
            let text = [palette.heading, palette.good, palette.warning, palette.bad, palette.label, palette.reset].concat();
            assert_eq!(styled(&text), text);
        }
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({ "name": EVIL, "日本": ["é", 1] });
        let text = json(&value).unwrap();
        assert!(text.chars().all(|character| character == '\n' || is_harmless(character)), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
