//! What libscaleRT computes: pure functions over borrowed memory views.
//!
//! This crate owns no memory and decides no policy. Each operation is one folder under [`ops`]: its
//! contract, a naive f64 reference, and the fast version for each backend.
//!
//! | module | is |
//! |---|---|
//! | [`dtype`] | element types, conversions and rounding |
//! | [`dynamic_map`] | 8-bit codes of numbers, a scale for each block of 256 |
//! | [`view`] | borrowed tensor views and the argument checks every operation shares |
//! | [`philox`] | counter-based random numbers |
//! | [`exact_sum`] | order-independent sums |
//! | [`backend`] | how a device runs a kernel: SIMD levels and workers on the CPU |
//! | [`ops`] | the operations |

pub mod backend;
pub mod dtype;
pub mod dynamic_map;
pub mod exact_sum;
pub mod ops;
pub mod philox;
pub mod view;
