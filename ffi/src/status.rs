//! Statuses, and what a thread's last failing call did wrong.

use crate::argument::OutStruct;
use scalert_runtime::{Error, NativeDomain, Status};
use std::cell::RefCell;
use std::ffi::{CString, c_char};

c_enum! {
    Status as "scalert_status_t" {
        SCALERT_OK = 0 => Status::Ok,
        SCALERT_INVALID_ARGUMENT = 1 => Status::InvalidArgument,
        SCALERT_FAILED_PRECONDITION = 2 => Status::FailedPrecondition,
        SCALERT_OUT_OF_BUDGET = 3 => Status::OutOfBudget,
        SCALERT_OUT_OF_MEMORY = 4 => Status::OutOfMemory,
        SCALERT_UNAVAILABLE = 5 => Status::Unavailable,
        SCALERT_DEVICE_ERROR = 6 => Status::DeviceError,
        SCALERT_COMM_ERROR = 7 => Status::CommError,
        SCALERT_TIMEOUT = 8 => Status::Timeout,
        SCALERT_DATA_LOSS = 9 => Status::DataLoss,
        SCALERT_LOSS_SCALE_COLLAPSED = 10 => Status::LossScaleCollapsed,
        SCALERT_INTERNAL = 11 => Status::Internal,
    }
}

c_enum! {
    Option<NativeDomain> as "SCALERT_NATIVE" {
        SCALERT_NATIVE_NONE = 0 => None,
        SCALERT_NATIVE_ERRNO = 1 => Some(NativeDomain::Errno),
        SCALERT_NATIVE_CUDA = 2 => Some(NativeDomain::Cuda),
        SCALERT_NATIVE_CUBLAS = 3 => Some(NativeDomain::Cublas),
        SCALERT_NATIVE_CUDNN = 4 => Some(NativeDomain::Cudnn),
        SCALERT_NATIVE_NCCL = 5 => Some(NativeDomain::Nccl),
        SCALERT_NATIVE_HOST_CALLBACK = 6 => Some(NativeDomain::HostCallback),
    }
}

struct Last {
    error: Error,
    message: CString,
}

thread_local! {
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

/// Keeps a failure of `function` for `scalert_last_error` on this thread. A thread that is ending keeps nothing.
pub(crate) fn record(function: &str, error: Error) {
    // A refusal of the state begins with the name of its call, which is the end of the function's.
    let message = match error.message.split_once(": ") {
        Some((call, why)) if error.status == Status::FailedPrecondition && function.ends_with(&format!("_{call}")) => {
            why
        }
        _ => &error.message,
    };
    let text = format!("{function}: {message}").replace('\0', "?");
    let message = CString::new(text).unwrap_or_default();
    let _ = LAST.try_with(|slot| slot.replace(Some(Last { error, message })));
}

c_struct! {
    LastError as "scalert_error_t" {
        struct_size: usize,
        status: i32,
        native_domain: i32,
        native_code: i64,
        message: *const c_char,
    }
}

export! {
    /// What this thread's last failing call did wrong.
    fn scalert_last_error(out: OutStruct<LastError>) {
        let none = LastError {
            struct_size: 0,
            status: Status::Ok as i32,
            native_domain: 0,
            native_code: 0,
            message: c"".as_ptr(),
        };
        let last = LAST.try_with(|slot| {
            let slot = slot.borrow();
            let last = slot.as_ref()?;
            let (native_domain, native_code) = last.error.native.map_or((0, 0), |(domain, code)| (domain as i32, code));
            Some(LastError {
                status: last.error.status as i32,
                native_domain,
                native_code,
                message: last.message.as_ptr(),
                ..none
            })
        });
        out.write(last.ok().flatten().unwrap_or(none));
        Ok(())
    }

    /// The name of a status.
    fn scalert_status_name(status: i32) -> *const c_char, else c"UNKNOWN".as_ptr(); {
        Ok(Status::from_raw(status).map_or(c"UNKNOWN", Status::name).as_ptr())
    }
}
