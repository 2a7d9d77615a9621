//! stub
use super::{Outcome, Output};
/// x
#[derive(Debug, clap::Args)]
pub struct Args {}
/// x
pub async fn run(_: Args) -> Outcome { Outcome::Ok }
/// x
pub fn show(_: &[u8], _: Option<&[u8]>, _: Output) -> Outcome { Outcome::Ok }
