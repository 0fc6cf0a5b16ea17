//! Values that one thread at a time may use, which notice a second one.

use crate::error::{Error, Result, Status};
use std::sync::{Mutex, MutexGuard, TryLockError};

/// A value behind a busy flag: never waits, refuses a second user, and stays refused after a panic.
pub(crate) struct Exclusive<T> {
    what: &'static str,
    value: Mutex<T>,
}

impl<T> Exclusive<T> {
    /// `what` names the handle in messages.
    pub(crate) fn new(what: &'static str, value: T) -> Exclusive<T> {
        Exclusive { what, value: Mutex::new(value) }
    }

    /// Takes the value: `FAILED_PRECONDITION` while someone else has it, `INTERNAL` after a panic under it.
    pub(crate) fn take(&self) -> Result<MutexGuard<'_, T>> {
        self.value.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => Error::precondition(format!(
                "{}: in use by another call; it is externally synchronised, one thread at a time",
                self.what
            )),
            TryLockError::Poisoned(_) => {
                Error::new(Status::Internal, format!("{}: unusable since an earlier call failed inside", self.what))
            }
        })
    }
}
