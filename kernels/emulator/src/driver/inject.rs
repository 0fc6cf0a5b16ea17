//! Failures on demand: the n-th call of a function returns a given code instead of doing its work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::context;
use super::error::Status;

struct Injection {
    function: String,
    calls_left: u64,
    status: Status,
}

/// Set while there is an injection left, so that other calls take no lock.
static ARMED: AtomicBool = AtomicBool::new(false);
static INJECTIONS: Mutex<Vec<Injection>> = Mutex::new(Vec::new());
static ENVIRONMENT: OnceLock<()> = OnceLock::new();

fn injections() -> MutexGuard<'static, Vec<Injection>> {
    INJECTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the `nth` call of `function` from now (the first is 1), by any thread, return `code`, once.
///
/// A code that a faulting kernel would leave behind also poisons the context that is current then.
pub fn inject(function: &str, nth: u64, code: i32) {
    let mut list = injections();
    list.push(Injection { function: function.to_owned(), calls_left: nth.max(1), status: Status(code) });
    ARMED.store(true, Ordering::Release);
}

/// `function:nth:code`, several separated by commas; what does not parse is ignored.
fn read_environment() {
    for entry in std::env::var("SCALERT_EMULATED_FAIL").unwrap_or_default().split(',') {
        let mut fields = entry.split(':');
        let (Some(function), Some(nth), Some(code)) = (fields.next(), fields.next(), fields.next()) else { continue };
        if let (Ok(nth), Ok(code)) = (nth.trim().parse(), code.trim().parse()) {
            inject(function.trim(), nth, code);
        }
    }
}

/// Counts a call; an error when it is one that has to fail.
pub(super) fn check(function: &str) -> Result<(), Status> {
    ENVIRONMENT.get_or_init(read_environment);
    if !ARMED.load(Ordering::Acquire) {
        return Ok(());
    }
    let mut list = injections();
    let mut due = None;
    list.retain_mut(|injection| {
        if injection.function != function {
            return true;
        }
        injection.calls_left -= 1;
        if injection.calls_left == 0 {
            due = due.or(Some(injection.status));
        }
        injection.calls_left > 0
    });
    ARMED.store(!list.is_empty(), Ordering::Release);
    drop(list);
    let Some(status) = due else { return Ok(()) };
    if status.is_sticky() {
        context::poison_current(status);
    }
    Err(status)
}
