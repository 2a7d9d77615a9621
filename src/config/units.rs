//! Durations, sizes and shares as people write them: `24h`, `1h30m`, `64KiB`, `10%`. Pure, no floating seconds.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A duration: numbers with `d`, `h`, `m`, `s` or `ms`, largest unit first, each at most once. `None` for everything else.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut milliseconds: u64 = 0;
    let mut smallest = u64::MAX;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|character: char| !character.is_ascii_digit())?);
        let (unit, after) = after.split_at(after.find(|character: char| character.is_ascii_digit()).unwrap_or(after.len()));
        let (_, worth) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        if *worth >= smallest {
            return None;
        }
        smallest = *worth;
        milliseconds = milliseconds.checked_add(number.parse::<u64>().ok()?.checked_mul(*worth)?)?;
        rest = after;
    }
    (smallest != u64::MAX).then_some(Duration::from_millis(milliseconds))
}

/// A duration as an operator writes it anywhere: in the file, in the environment, in a flag.
///
/// # Errors
/// In words, with an example.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    duration(text).ok_or_else(|| format!("{text:?} is not a duration like 90s, 10m, 1h30m or 365d"))
}

/// The shortest text that [`duration`] reads as this one; below a millisecond is left out. Days are kept to whole days, so that 24 hours stay `24h`.
pub(super) fn duration_text(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (name, worth) in DURATION_UNITS {
        if name == "d" && (rest % worth != 0 || rest <= worth) {
            continue;
        }
        if rest >= worth {
            text.push_str(&format!("{}{name}", rest / worth));
            rest %= worth;
        }
    }
    text
}

/// A number of bytes: a whole number with `B`, `KiB`, `MiB` or `GiB`.
pub(super) fn size(text: &str) -> Option<u64> {
    let (name, worth) = SIZE_UNITS.iter().find(|(name, _)| text.ends_with(name))?;
    count(text.strip_suffix(name)?)?.checked_mul(*worth)
}

/// The shortest text that [`size`] reads as this one.
pub(super) fn size_text(bytes: u64) -> String {
    let unit = SIZE_UNITS.iter().find(|(_, worth)| bytes >= *worth && bytes.is_multiple_of(*worth));
    unit.map_or_else(|| format!("{bytes}B"), |(name, worth)| format!("{}{name}", bytes / worth))
}

/// A whole number, digits only.
pub(super) fn count(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// A share in whole percent, `0%` to `100%`.
pub(super) fn percent(text: &str) -> Option<u8> {
    let number = count(text.strip_suffix('%')?)?;
    u8::try_from(number).ok().filter(|number| *number <= 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("30s", 30), ("2m", 120), ("24h", 86_400), ("3650d", 315_360_000), ("1h30m", 5_400), ("1d12h", 129_600), ("0s", 0)] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("1s500ms"), Some(Duration::from_millis(1_500)));
        for text in
            ["", "5", "s", "-1s", "1.5h", "1h 30m", "30m1h", "1s1s", "1w", "1H", "ten", "18446744073709551615d", "99999999999999999999s", "1sé"]
        {
            assert_eq!(duration(text), None, "{text:?}");
        }
        for text in ["30s", "2m", "24h", "3650d", "1h30m", "36h", "0s", "1s500ms"] {
            assert_eq!(duration_text(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes_counts_and_shares() {
        assert_eq!((size("64KiB"), size("1MiB"), size("100B")), (Some(65_536), Some(1 << 20), Some(100)));
        for text in ["", "64", "64KB", "64 KiB", "-1KiB", "1.5MiB", "KiB", "99999999999GiB"] {
            assert_eq!(size(text), None, "{text:?}");
        }
        assert_eq!((size_text(65_536), size_text(100), size_text(0)), ("64KiB".to_owned(), "100B".to_owned(), "0B".to_owned()));
        assert_eq!((count("10000"), count("+1"), count("1_0"), count("")), (Some(10_000), None, None, None));
        assert_eq!((percent("10%"), percent("0%"), percent("100%")), (Some(10), Some(0), Some(100)));
        for text in ["", "10", "0.1", "101%", "-1%", "300%", "%"] {
            assert_eq!(percent(text), None, "{text:?}");
        }
    }
}
