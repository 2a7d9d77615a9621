//! stub until merge
use x509_parser::certificate::TbsCertificate;
/// x
#[derive(Debug)]
pub struct Departure { /// s
 pub section: &'static str, /// w
 pub what: String }
/// x
pub fn leaf_departures(_: &TbsCertificate<'_>) -> Vec<Departure> { vec![] }
/// x
pub fn signing_departures(_: &TbsCertificate<'_>) -> Vec<Departure> { vec![] }
/// x
pub fn svid_id(t: &TbsCertificate<'_>) -> Result<super::SpiffeId, String> {
 let san = t.subject_alternative_name().map_err(|e| e.to_string())?.ok_or("none")?;
 match san.value.general_names.first() { Some(x509_parser::extensions::GeneralName::URI(u)) => u.parse().map_err(|e: super::IdError| e.to_string()), _ => Err("x".into()) }
}
