//! CUDA devices: the driver, loaded at run time; the device code in this library; and what an operation launches with.
//!
//! An operation's kernels are `extern "C" __global__` functions of its `.cu` file, each taking one `repr(C)` struct. They
//! enqueue only: nothing here blocks, allocates device memory or reads a result. How many blocks run depends on the
//! device; what they compute does not.

pub mod cublaslt;
pub mod cudnn;
pub mod device;
pub mod driver;
pub(crate) mod elementwise;
mod gpu;
pub mod image;
mod strided;

pub use device::{Device, Properties};
pub use driver::{CudaError, DevicePointer, Driver, Handle};
pub use gpu::{Gpu, Launch};
pub use strided::Strided;

/// Whose kernels an operation runs on a CUDA device. The CPU knows one way only, and ignores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Implementation {
    /// The faster one, of those that keep the operation's contract.
    #[default]
    Auto,
    /// This library's: nothing but the driver is needed.
    Own,
    /// NVIDIA's, where it takes the arguments; an error where the machine has none.
    Vendor,
}
