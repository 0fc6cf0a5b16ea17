//! The CUDA driver API over the interpreter: the functions that `libcuda.so.1` exports, by their real names.
//!
//! The device is one of compute capability 8.0 that takes PTX text only. Work runs when it is enqueued and is finished
//! when the call returns, except on a stream that captures. What a program may rely on with a real driver holds here;
//! what it must not do is refused with the error that a real driver gives, where that is known.
//!
//! What a real driver allows and this one does not: a function of the host that waits for something its thread does after
//! the call that enqueued it (it would wait for ever), allocation on a stream that captures (refused as unsupported),
//! cooperative launches, and memory of one context in a kernel of another.
//!
//! Environment, read once: `SCALERT_EMULATED_DEVICES` (number of devices, 1), `SCALERT_EMULATED_BYTES` (memory of each,
//! 2 GiB), `SCALERT_EMULATED_THREADS` (host threads of a launch), `SCALERT_EMULATED_FAIL` (see [`inject`]) and
//! `SCALERT_EMULATOR_REPORT` (a file, or `stderr`, that receives the text of every fault).

mod argument;
mod attribute;
mod capture;
mod context;
mod copy;
mod current;
mod device;
mod error;
mod event;
mod export;
mod fault;
mod function;
mod graph;
mod inject;
mod launch;
mod limit;
mod managed;
mod memory;
mod module;
mod occupancy;
mod pointer;
mod pool;
mod profiler;
mod registry;
mod stream;
mod symbol;
mod work;

pub use error::Status;
pub use fault::last_fault;
pub use inject::inject;
pub use symbol::symbol;
