//! The panic fence: no unwinding leaves an exported function, and nothing is printed.

use crate::status;
use scalert_runtime::{Error, Status};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Where the latest panic of this thread happened.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs one exported function: gives what it computed, or the status of its failure after recording it for
/// `scalert_last_error`. A panic is INTERNAL, and `poison` then marks the handle that the call was about.
pub(crate) fn fence<T>(
    function: &'static str,
    body: impl FnOnce() -> Result<T, Error>,
    poison: impl FnOnce(),
) -> Result<T, Status> {
    keep_panics_quiet();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        #[cfg(feature = "panic-injection")]
        inject(function);
        body()
    }));
    let failure = match outcome {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(failure)) => failure,
        Err(payload) => {
            let what = payload
                .downcast_ref::<&'static str>()
                .map(|s| s.to_string())
                .or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "panic".to_string());
            // A payload's own drop may panic as well.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
            let _ = catch_unwind(AssertUnwindSafe(poison));
            let place = PLACE.try_with(RefCell::take).unwrap_or_default();
            Error::new(Status::Internal, format!("a bug in the library: {what} ({place})"))
        }
    };
    let status = failure.status;
    status::record(function.strip_prefix("scalert_").unwrap_or(function), failure);
    Err(status)
}

/// Replaces the hook that prints panics. It belongs to this library's own copy of the Rust runtime, so the host's hook,
/// if the host is written in Rust, is another one.
fn keep_panics_quiet() {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
            let _ = PLACE.try_with(|p| p.replace(place));
        }));
    });
}

#[cfg(feature = "panic-injection")]
fn inject(function: &str) {
    if std::env::var_os("SCALERT_TEST_PANIC").is_some_and(|name| name == function) {
        panic!("injected into {function}");
    }
}
