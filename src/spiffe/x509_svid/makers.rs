//! Certificates for tests: good ones by default, and each test spoils what it is about.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

/// The instant at which tests look.
pub(crate) const NOW: OffsetDateTime = datetime!(2026-11-23 12:00:00 UTC);

/// A certificate with the key to sign below it.
pub(crate) struct Made {
    pub(crate) der: Vec<u8>,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

impl Made {
    /// A root with ten years to live.
    pub(crate) fn root(name: &str) -> Self {
        Self::self_signed(authority_params(name))
    }

    /// Signed by its own key.
    pub(crate) fn self_signed(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { der, issuer: Issuer::new(params, key) }
    }

    /// A certificate with these parameters, signed by this one.
    pub(crate) fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Self { der, issuer: Issuer::new(params, key) }
    }
}

/// A leaf as we issue it, with 24 hours to live at [`NOW`].
pub(crate) fn leaf_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = NOW - Duration::minutes(2);
    params.not_after = NOW + Duration::hours(24);
    params.is_ca = IsCa::ExplicitNoCa;
    params.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/cart")];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

/// What [`leaf_params`] has, as a CSR can ask for it.
pub(crate) fn request_params() -> CertificateParams {
    let mut params = leaf_params();
    params.use_authority_key_identifier_extension = false;
    params
}

/// A root or an intermediate of `cluster.local`, ten years long.
pub(crate) fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = NOW - Duration::days(1);
    params.not_after = NOW + Duration::days(3650);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.subject_alt_names = vec![uri("spiffe://cluster.local")];
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

/// A URI as a subject alternative name.
pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}
