//! How a device runs a kernel.

pub mod cpu;
pub mod cuda;
