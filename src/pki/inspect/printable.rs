//! Text of somebody else's, safe for a terminal: the one rule of what is shown as it is and what as an escape. Whoever puts a peer's names,
//! a file's name or another program's message before a person asks here; the commands' way out to the terminal does, too.

use std::fmt::Write;

use unicode_properties::GeneralCategory::{LineSeparator, ParagraphSeparator};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// Letters that are seen as nothing, so that two names look like one.
const FILLERS: [char; 5] = ['\u{115f}', '\u{1160}', '\u{2800}', '\u{3164}', '\u{ffa0}'];

/// Whether a character may go to a terminal as it is: none that moves the cursor, turns the writing, breaks the line, can't be seen, or has no
/// meaning yet (Unicode's groups C, Zl and Zp, and fillers).
pub(crate) fn is_harmless(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_control();
    }
    !matches!(character.general_category(), LineSeparator | ParagraphSeparator)
        && character.general_category_group() != GeneralCategoryGroup::Other
        && !FILLERS.contains(&character)
}

/// One line: everything that isn't harmless, line breaks too, is shown as an escape.
pub(crate) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            harmless if is_harmless(harmless) => safe.push(harmless),
            '\n' | '\r' | '\t' => _ = write!(safe, "{}", character.escape_default()),
            other => _ = write!(safe, "{}", other.escape_unicode()),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use unicode_bidi::BidiClass;

    use super::*;

    #[test]
    fn no_character_of_any_control_format_or_bidi_class_passes() {
        use BidiClass::{B, BN, FSI, LRE, LRI, LRO, PDF, PDI, RLE, RLI, RLO, S};
        let (mut escaped, mut passed) = (0, 0);
        for character in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            let turns = matches!(unicode_bidi::bidi_class(character), B | BN | FSI | LRE | LRI | LRO | PDF | PDI | RLE | RLI | RLO | S);
            let unseen = character.is_control() || turns;
            let shown = printable(&character.to_string());
            assert!(!unseen || shown.is_ascii() && shown.starts_with('\\'), "{character:?} passed");
            match shown.chars().eq([character]) {
                true => passed += 1,
                false => escaped += 1,
            }
        }
        assert!(escaped > 1_000 && passed > 100_000, "{escaped} {passed}");
        // Bidi_Control of Unicode's PropList, and what else was seen to break lines or hide letters.
        for character in "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\u{ad}\u{200b}\u{200d}\u{2028}\u{2029}\u{feff}\u{e0041}\u{3164}\u{9b}\u{7f}\u{85}".chars() {
            assert_eq!(printable(&character.to_string()), format!("\\u{{{:x}}}", u32::from(character)));
        }
    }

    #[test]
    fn words_of_every_writing_stay_as_they_are() {
        for text in ["spiffe://cluster.local/ns/shop/sa/cart", "Zoë Müller", "日本語", "עברית", "العربية", "हिन्दी", "a b", "€ – “quoted” √"]
        {
            assert_eq!(printable(text), text);
        }
        assert_eq!(printable("a\n\u{1b}[31mb\t"), "a\\n\\u{1b}[31mb\\t");
    }
}
