//! Every operation against its f64 reference: all levels, 1, 2 and 4 threads, hostile inputs and layouts.
#![allow(missing_docs, unreachable_pub, clippy::undocumented_unsafe_blocks)]

mod attention;
mod harness;
mod rotary;
