//! Doors of the service: the CSR API over TLS, the admin API on a Unix socket, health and metrics over HTTP.

mod admin;
pub mod checkup;
pub mod codec;
mod connection;
mod csr_api;
mod csr_door;
mod door;
mod guard;
mod health;
mod http;
mod log_budget;
mod metrics;
pub mod proto;
mod refusals;
mod run;
mod scrape;
mod services;
mod serving;
mod settings;
mod tls;
mod traces;

pub use admin::certificate_message;
pub use run::{Addresses, Server, StartError};
