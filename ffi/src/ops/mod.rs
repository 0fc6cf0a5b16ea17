//! The operations, by section of the header.

pub mod activation;
pub mod attention;
pub mod embedding;
pub mod gemm;
pub mod loss;
pub mod moving;
pub mod norm;
pub mod optimizer;
pub mod sum;

use scalert_runtime::ops::Op;
use scalert_runtime::{Error, Stream};

/// Runs an operation. Its refusals begin with its name, which the boundary puts before every message anyway.
fn submit<O: Op>(stream: &Stream, op: &O) -> Result<(), Error> {
    stream.submit(op).map_err(|mut error| {
        if let Some(message) = error.message.strip_prefix(O::NAME).and_then(|m| m.strip_prefix(": ")) {
            error.message = message.to_string();
        }
        error
    })
}

/// A factor whose 0 stands for 1.
fn or_one(factor: f32) -> f32 {
    if factor == 0.0 { 1.0 } else { factor }
}
