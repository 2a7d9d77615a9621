//! What versions of Istio and Kubernetes mean for a CA.

use serde::Serialize;

/// A version: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

/// The oldest Kubernetes that is served (docs/install.md).
pub(super) const OLDEST_KUBERNETES: Version = Version(1, 27, 0);
/// The oldest Istio whose code was read for what is promised here.
pub(super) const OLDEST_ISTIO: Version = Version(1, 28, 0);

impl Version {
    /// Of a tag such as `v1.34.1`, `1.28.0-distroless` or `1.30-alpha.abcdef`; `None` where it isn't one (`latest`, a hash).
    pub(super) fn of(tag: &str) -> Option<Self> {
        let tag = tag.strip_prefix('v').unwrap_or(tag);
        let numbers = tag.split(['-', '+']).next()?;
        let mut numbers = numbers.split('.').map(|number| number.parse().ok());
        let (major, minor) = (numbers.next()??, numbers.next()??);
        let patch = numbers.next().map_or(Some(0), |patch| patch)?;
        numbers.next().is_none().then_some(Self(major, minor, patch))
    }

    /// Whether a ztunnel of this version reads the root that it verifies its CA and istiod with once, at its start.
    pub(super) fn ztunnel_reads_root_once(self) -> bool {
        match (self.0, self.1) {
            (1, 28) => self.2 < 6,
            (1, 29) => self.2 < 2,
            (major, minor) => (major, minor) < (1, 28),
        }
    }

    /// Whether an istiod of this version loses all roots of a bundle but the last (istio/istio#55793).
    pub(super) fn istiod_loses_roots(self) -> bool {
        self == Self(1, 25, 1)
    }

    /// Whether a ztunnel of this version reads only one root of what its CA answers (istio/ztunnel#1510, in 1.25.2).
    pub(super) fn ztunnel_trusts_one_root(self) -> bool {
        self < Self(1, 25, 2)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_versions_or_not() {
        let version = |tag: &str| Version::of(tag).map(|version| version.to_string());
        for (tag, is) in [
            ("1.30.3", "1.30.3"),
            ("v1.34.1", "1.34.1"),
            ("1.28.0-distroless", "1.28.0"),
            ("v1.33.5-gke.1200", "1.33.5"),
            ("1.30-alpha.ab", "1.30.0"),
        ] {
            assert_eq!(version(tag).as_deref(), Some(is), "{tag}");
        }
        for tag in ["", "latest", "1", "1.x.0", "1.2.3.4", "abcdef0"] {
            assert_eq!(version(tag), None, "{tag}");
        }
    }

    #[test]
    fn what_versions_do() {
        let of = |tag: &str| Version::of(tag).unwrap();
        assert!(["1.24.0", "1.27.9", "1.28.5", "1.29.1"].iter().all(|tag| of(tag).ztunnel_reads_root_once()));
        assert!(!["1.28.6", "1.29.2", "1.30.0", "1.31.0", "2.0.0"].iter().any(|tag| of(tag).ztunnel_reads_root_once()));
        assert!(of("1.25.1").istiod_loses_roots() && !of("1.25.2").istiod_loses_roots() && !of("1.24.9").istiod_loses_roots());
        assert!(of("1.24.9").ztunnel_trusts_one_root() && of("1.25.1").ztunnel_trusts_one_root() && !of("1.25.2").ztunnel_trusts_one_root());
        assert!(of("v1.26.9") < OLDEST_KUBERNETES && of("v1.27.0") >= OLDEST_KUBERNETES && OLDEST_ISTIO > OLDEST_KUBERNETES);
    }
}
