//! The boundary of the driver API: every exported function is declared through one macro.

use std::cell::Cell;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::error::Status;
use super::inject;

/// Declares exported functions; their bodies return `Result<(), Status>`. `EXPORTS` lists them by name.
macro_rules! exports {
    ($($(#[$meta:meta])* fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$meta])*
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($argument: $kind),*) -> i32 {
                $crate::driver::export::call(stringify!($name), move || $body)
            }
        )*

        /// What this file exports.
        pub(super) const EXPORTS: &[$crate::driver::export::Export] =
            &[$((stringify!($name), $name as *const std::ffi::c_void)),*];
    };
}
pub(super) use exports;

/// Name and address of an exported function.
pub(super) type Export = (&'static str, *const c_void);

thread_local! {
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// Marks the calling thread as one that runs a host function: calls of the driver API from it are refused.
pub(super) fn enter_host_function() {
    IN_HOST_FUNCTION.set(true);
}

/// Runs the body of an exported function: no panic leaves it, and injected failures come first.
pub(super) fn call(name: &'static str, body: impl FnOnce() -> Result<(), Status>) -> i32 {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        if IN_HOST_FUNCTION.get() && !name.starts_with("cuGetError") {
            return Err(Status::NOT_PERMITTED);
        }
        inject::check(name)?;
        body()
    }));
    match outcome {
        Ok(Ok(())) => Status::SUCCESS.0,
        Ok(Err(status)) => status.0,
        Err(_) => Status::UNKNOWN.0,
    }
}
