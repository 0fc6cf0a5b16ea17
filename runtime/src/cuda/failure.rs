//! What failures of CUDA's libraries come to.

use crate::error::{Error, NativeDomain, Status};
use scalert_kernels::backend::cuda::CudaError;
use scalert_kernels::backend::cuda::driver::Library;

/// `CUresult`s with a meaning of their own here.
pub(super) mod code {
    pub(crate) const INVALID_VALUE: i64 = 1;
    pub(crate) const OUT_OF_MEMORY: i64 = 2;
    pub(crate) const NO_BINARY_FOR_GPU: i64 = 209;
    pub(crate) const INVALID_HANDLE: i64 = 400;
    pub(crate) const NOT_READY: i64 = 600;
    pub(crate) const CONTEXT_IS_DESTROYED: i64 = 709;
    pub(crate) const NOT_SUPPORTED: i64 = 801;
    /// What a stream that is captured cannot do.
    pub(crate) const CAPTURE: std::ops::RangeInclusive<i64> = 900..=908;
}

impl From<CudaError> for Error {
    fn from(error: CudaError) -> Error {
        const CUBLAS_ALLOC_FAILED: i64 = 3;
        const CUBLAS_NOT_SUPPORTED: i64 = 15;
        const CUDNN_NOT_SUPPORTED: std::ops::Range<i64> = 3000..4000;
        let (domain, status) = match (error.library, error.code) {
            (Library::Driver, code) => (
                NativeDomain::Cuda,
                match code {
                    code::OUT_OF_MEMORY => Status::OutOfMemory,
                    code::NO_BINARY_FOR_GPU | code::NOT_SUPPORTED => Status::Unavailable,
                    code if code::CAPTURE.contains(&code) => Status::FailedPrecondition,
                    _ => Status::DeviceError,
                },
            ),
            (Library::CublasLt, CUBLAS_ALLOC_FAILED) => (NativeDomain::Cublas, Status::OutOfMemory),
            (Library::CublasLt, CUBLAS_NOT_SUPPORTED) => (NativeDomain::Cublas, Status::Unavailable),
            (Library::CublasLt, _) => (NativeDomain::Cublas, Status::DeviceError),
            (Library::Cudnn, code) if CUDNN_NOT_SUPPORTED.contains(&code) => (NativeDomain::Cudnn, Status::Unavailable),
            (Library::Cudnn, _) => (NativeDomain::Cudnn, Status::DeviceError),
        };
        Error::new(status, error.to_string()).with_native(domain, error.code)
    }
}

/// Whether a failure is one of work that ran before: it stays in the context for ever.
pub(super) fn is_sticky(error: &CudaError) -> bool {
    // Uncorrectable memory and links, contained faults; illegal addresses, timeouts, assertions and the like.
    let codes = [214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721];
    error.library == Library::Driver && codes.contains(&error.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_domains_and_codes_are_kept() {
        let error = |library, code| Error::from(CudaError { library, code, call: "call", message: "why".to_owned() });
        for (library, code, domain, status) in [
            (Library::Driver, 2, NativeDomain::Cuda, Status::OutOfMemory),
            (Library::Driver, 700, NativeDomain::Cuda, Status::DeviceError),
            (Library::Driver, 801, NativeDomain::Cuda, Status::Unavailable),
            (Library::Driver, 901, NativeDomain::Cuda, Status::FailedPrecondition),
            (Library::CublasLt, 13, NativeDomain::Cublas, Status::DeviceError),
            (Library::CublasLt, 3, NativeDomain::Cublas, Status::OutOfMemory),
            (Library::Cudnn, 3000, NativeDomain::Cudnn, Status::Unavailable),
            (Library::Cudnn, 5000, NativeDomain::Cudnn, Status::DeviceError),
        ] {
            let error = error(library, code);
            assert_eq!((error.status, error.native), (status, Some((domain, code))), "{library:?} {code}");
            assert_eq!(error.message, format!("call: why ({code})"));
        }
    }
}
