//! Traces of requests: one span for each that is sampled, and one below it for each step. Only a build with the feature `otlp` can; in others all of
//! this is nothing, and costs nothing.

#[cfg(not(feature = "otlp"))]
mod off;
#[cfg(feature = "otlp")]
mod otlp;

#[cfg(not(feature = "otlp"))]
pub(super) use off::Traces;
#[cfg(feature = "otlp")]
pub(super) use otlp::Traces;
