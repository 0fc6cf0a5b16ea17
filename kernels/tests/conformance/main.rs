//! Every operation against its f64 reference: all levels, 1, 2 and 4 threads, hostile inputs and layouts.
#![allow(missing_docs, unreachable_pub, clippy::undocumented_unsafe_blocks)]

mod add;
mod cross_entropy;
mod embedding;
mod gelu;
mod harness;
mod layer_norm;
mod math;
mod rms_norm;
mod swiglu;
