//! How libscaleRT is called: the C ABI of `include/scaleRT.h` over the runtime.
//!
//! No logic: arguments are checked, the runtime is called, errors are kept for `scalert_last_error`.
//!
//! | module | is |
//! |---|---|
//! | `macros` | the one macro that every export goes through |
//! | [`argument`] | what arguments must be, and their checks |
//! | [`handle`], [`desc`], [`tensor`] | opaque handles, versioned structs, borrowed views |
//! | `fence` | panics stop here |
//! | [`status`] | statuses and the last error |
//! | [`layout`] | structs and constants, for comparison with C |
//! | the others | one section of the header each |
#![allow(non_snake_case)] // the library's name

#[macro_use]
mod macros;

pub mod argument;
pub mod desc;
mod fence;
pub mod handle;
pub mod layout;
pub mod status;

pub mod arena;
pub mod comm;
pub mod device;
pub mod dlpack;
pub mod hooks;
pub mod ops;
pub mod runtime;
pub mod scaler;
pub mod schedule;
pub mod state;
pub mod stream;
pub mod tensor;
pub mod trace;
pub mod version;
