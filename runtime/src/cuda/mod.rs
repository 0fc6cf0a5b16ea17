//! CUDA devices: what the machine has, and contexts.

mod context;
mod device;

pub(crate) use context::{Context, Current};
pub(crate) use device::{count, describe};

use crate::error::{Error, NativeDomain, Status};
use scalert_kernels::backend::cuda::CudaError;
use scalert_kernels::backend::cuda::driver::Library;

/// `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: i64 = 2;
/// `CUDA_ERROR_NOT_SUPPORTED`: what a kernel or a library of this machine cannot do.
const NOT_SUPPORTED: i64 = 801;

impl From<CudaError> for Error {
    fn from(error: CudaError) -> Error {
        let (domain, status) = match (error.library, error.code) {
            (Library::Driver, OUT_OF_MEMORY) => (NativeDomain::Cuda, Status::OutOfMemory),
            (Library::Driver, NOT_SUPPORTED) => (NativeDomain::Cuda, Status::Unavailable),
            (Library::Driver, _) => (NativeDomain::Cuda, Status::DeviceError),
            (Library::CublasLt, _) => (NativeDomain::Cublas, Status::DeviceError),
            (Library::Cudnn, _) => (NativeDomain::Cudnn, Status::DeviceError),
        };
        Error::new(status, error.to_string()).with_native(domain, error.code)
    }
}
