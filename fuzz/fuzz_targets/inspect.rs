//! Any file that a person looks at, with and without given roots: a report comes out that can be shown in both forms.
#![no_main]

use std::sync::LazyLock;

use meshmint::pki::certificates_from_pem;
use meshmint::pki::inspect::{ChainStatus, Palette, Severity, inspect, inspect_chain, render_text, roots_of};
use meshmint_fuzz::{NOW, state};

static ROOTS: LazyLock<Vec<Vec<u8>>> =
    LazyLock::new(|| certificates_from_pem(&state().bundle_pem()).expect("the fixture's bundle").iter().map(|der| der.to_vec()).collect());

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for roots in [None, Some(ROOTS.as_slice())] {
        let Ok(report) = inspect(data, roots, NOW) else {
            assert!(roots_of(data).is_err());
            return;
        };
        assert!(!render_text(&report, Palette::PLAIN).is_empty());
        serde_json::to_string(&report).expect("every report can be written");
        let departs = report.certificates.iter().flat_map(|certificate| &certificate.departures).any(|departure| departure.must);
        let broken = report.chain.as_ref().is_some_and(|chain| chain.status == ChainStatus::Failed);
        assert!(report.severity == Severity::Failed || !(departs || broken));
        if let Some(chain) = report.chain.filter(|chain| chain.status == ChainStatus::Verified) {
            assert!(!chain.path.is_empty() && chain.failed_step.is_none());
        }
    }
    // As one certificate of a live server's chain.
    let _ = inspect_chain(&[data], Some(&ROOTS), NOW);
});
