//! Statuses and errors.

use scalert_kernels::view::Invalid;
use std::ffi::CStr;

/// What a call came to. The numbers are those of the C header and are frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Status {
    /// Success; never the status of an [`Error`].
    Ok = 0,
    /// An argument was wrong: the message names it, what it was, what it must be.
    InvalidArgument = 1,
    /// A legal call at the wrong time.
    FailedPrecondition = 2,
    /// A byte budget does not allow it.
    OutOfBudget = 3,
    /// The budget allowed it, the system or the allocator hook did not.
    OutOfMemory = 4,
    /// Not in this build or on this machine.
    Unavailable = 5,
    /// The device failed.
    DeviceError = 6,
    /// A communicator failed.
    CommError = 7,
    /// Something did not happen in time.
    Timeout = 8,
    /// Stored data does not match its checksum.
    DataLoss = 9,
    /// Gradients overflow even at the smallest loss scale.
    LossScaleCollapsed = 10,
    /// A bug of this library.
    Internal = 11,
}

impl Status {
    const ALL: [Status; 12] = [
        Status::Ok,
        Status::InvalidArgument,
        Status::FailedPrecondition,
        Status::OutOfBudget,
        Status::OutOfMemory,
        Status::Unavailable,
        Status::DeviceError,
        Status::CommError,
        Status::Timeout,
        Status::DataLoss,
        Status::LossScaleCollapsed,
        Status::Internal,
    ];

    /// The status with this number.
    pub fn from_raw(raw: i32) -> Option<Status> {
        Status::ALL.into_iter().find(|s| *s as i32 == raw)
    }

    /// Name as in the C header without its prefix, such as `INVALID_ARGUMENT`.
    pub fn name(self) -> &'static CStr {
        match self {
            Status::Ok => c"OK",
            Status::InvalidArgument => c"INVALID_ARGUMENT",
            Status::FailedPrecondition => c"FAILED_PRECONDITION",
            Status::OutOfBudget => c"OUT_OF_BUDGET",
            Status::OutOfMemory => c"OUT_OF_MEMORY",
            Status::Unavailable => c"UNAVAILABLE",
            Status::DeviceError => c"DEVICE_ERROR",
            Status::CommError => c"COMM_ERROR",
            Status::Timeout => c"TIMEOUT",
            Status::DataLoss => c"DATA_LOSS",
            Status::LossScaleCollapsed => c"LOSS_SCALE_COLLAPSED",
            Status::Internal => c"INTERNAL",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name().to_string_lossy())
    }
}

/// Where a native code comes from. The numbers are those of the C header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum NativeDomain {
    /// The system's errno.
    Errno = 1,
    /// A CUresult.
    Cuda = 2,
    /// A cublasStatus_t.
    Cublas = 3,
    /// A cudnnStatus_t.
    Cudnn = 4,
    /// An ncclResult_t.
    Nccl = 5,
    /// A callback of the host.
    HostCallback = 6,
}

/// A call that failed, and changed nothing unless its documentation says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What it came to; never [`Status::Ok`].
    pub status: Status,
    /// The native error behind it.
    pub native: Option<(NativeDomain, i64)>,
    /// What was wrong, what it was, what it must be.
    pub message: String,
}

/// What a call gives.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without a native code.
    pub fn new(status: Status, message: impl Into<String>) -> Error {
        Error { status, native: None, message: message.into() }
    }

    /// `INVALID_ARGUMENT`, "argument: message".
    pub fn invalid(argument: &str, message: impl std::fmt::Display) -> Error {
        Error::new(Status::InvalidArgument, format!("{argument}: {message}"))
    }

    /// `FAILED_PRECONDITION`.
    pub fn precondition(message: impl Into<String>) -> Error {
        Error::new(Status::FailedPrecondition, message)
    }

    /// What an operation's check refused: "operation: argument: message".
    pub fn refused(operation: &str, invalid: Invalid) -> Error {
        Error::new(Status::InvalidArgument, format!("{operation}: {invalid}"))
    }

    /// The same error with a native code.
    pub fn with_native(mut self, domain: NativeDomain, code: i64) -> Error {
        self.native = Some((domain, code));
        self
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Error {
        Error::new(Status::InvalidArgument, invalid.to_string())
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.status, self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_those_of_the_header() {
        let header = include_str!("../../include/scaleRT.h");
        for status in Status::ALL {
            let define = format!("#define SCALERT_{status} {}", status as i32);
            assert!(header.lines().any(|line| line == define || line.starts_with(&format!("{define} "))), "{define}");
            assert_eq!(Status::from_raw(status as i32), Some(status));
        }
        assert_eq!(Status::from_raw(12), None);
        assert_eq!(Status::from_raw(-1), None);
    }

    #[test]
    fn an_operation_s_refusal_names_operation_and_argument() {
        let error = Error::refused("gemm", Invalid::new("a", "dtype i32 must be f32"));
        assert_eq!(error.status, Status::InvalidArgument);
        assert_eq!(error.message, "gemm: a: dtype i32 must be f32");
    }
}
