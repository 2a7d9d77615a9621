//! Small charts in characters: a line of levels, and bars.

/// With what they are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Block elements of Unicode, in eighths.
    Blocks,
    /// Characters that every log and pipe carries.
    Ascii,
}

const BLOCK_LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII_LEVELS: [char; 9] = [' ', '.', ':', '-', '=', '+', '*', '#', '@'];
/// Parts of a bar's last character.
const BLOCK_PARTS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// One character for each value, as high as it is against the highest; neighbours are added up where there is no room for each. What isn't
/// zero is always seen.
pub(super) fn spark(values: &[u64], room: usize, style: Style) -> String {
    let together = values.len().div_ceil(room.max(1)).max(1);
    let sums: Vec<u64> = values.chunks(together).map(|chunk| chunk.iter().sum()).collect();
    let most = sums.iter().max().copied().unwrap_or(0);
    let levels = match style {
        Style::Blocks => BLOCK_LEVELS,
        Style::Ascii => ASCII_LEVELS,
    };
    sums.iter().map(|sum| levels.get(part(*sum, most, levels.len() - 1)).copied().unwrap_or(' ')).collect()
}

/// A bar of at most `room` characters, as long as `value` is against `most`.
pub(super) fn bar(value: u64, most: u64, room: usize, style: Style) -> String {
    match style {
        Style::Ascii => "#".repeat(part(value, most, room)),
        Style::Blocks => {
            let eighths = part(value, most, room * 8);
            let last = BLOCK_PARTS.get(eighths % 8).filter(|part| **part != ' ');
            "█".repeat(eighths / 8) + &last.map(char::to_string).unwrap_or_default()
        }
    }
}

/// `value` of `most` in steps from 0 to `steps`, rounded up.
fn part(value: u64, most: u64, steps: usize) -> usize {
    if most == 0 {
        return 0;
    }
    let scaled = (u128::from(value) * steps as u128).div_ceil(u128::from(most));
    usize::try_from(scaled).unwrap_or(steps).min(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_show_each_value_or_their_sums() {
        assert_eq!(spark(&[0, 1, 4, 8], 80, Style::Blocks), " ▁▄█");
        assert_eq!(spark(&[0, 1, 4, 8], 80, Style::Ascii), " .=@");
        assert_eq!(spark(&[0, 1, 4, 8], 2, Style::Ascii), ".@", "1 and 12");
        assert_eq!(spark(&[0, 0], 80, Style::Ascii), "  ");
        assert_eq!(spark(&[1, u64::MAX], 80, Style::Ascii), ".@", "a little is not nothing");
        assert_eq!(spark(&[], 0, Style::Ascii), "");
        assert_eq!(spark(&[5; 61], 0, Style::Ascii), "@");
    }

    #[test]
    fn bars_are_as_long_as_their_value() {
        assert_eq!(bar(8, 8, 4, Style::Blocks), "████");
        assert_eq!(bar(3, 8, 4, Style::Blocks), "█▌");
        assert_eq!(bar(1, 1000, 4, Style::Blocks), "▏");
        assert_eq!(bar(4, 8, 4, Style::Ascii), "##");
        assert_eq!((bar(0, 8, 4, Style::Ascii), bar(0, 0, 4, Style::Blocks)), (String::new(), String::new()));
        assert_eq!(bar(8, 8, 0, Style::Blocks), "");
    }
}
