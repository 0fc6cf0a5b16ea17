//! Limits of a context: they are kept, and change nothing.

use std::ffi::c_int;
use std::sync::{Mutex, PoisonError};

use super::argument::Out;
use super::current;
use super::error::Status;
use super::export::exports;

/// Values by number: stack of a thread, buffer of `printf`, heap, depth and number of launches from the device, bytes that
/// the level-2 cache fetches, and bytes of it that persist.
pub(super) struct Limits(Mutex<[usize; 7]>);

impl Default for Limits {
    fn default() -> Self {
        Self(Mutex::new([1024, 1 << 20, 8 << 20, 2, 2048, 64, 0]))
    }
}

exports! {
    /// A limit of the current context.
    fn cuCtxGetLimit(value: Out<usize>, limit: c_int) {
        let context = current::context()?;
        let limits = context.limits.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = usize::try_from(limit).ok().and_then(|limit| limits.get(limit).copied());
        value.set(known.ok_or(Status::UNSUPPORTED_LIMIT)?)
    }

    /// Sets a limit of the current context.
    fn cuCtxSetLimit(limit: c_int, value: usize) {
        let context = current::context()?;
        let mut limits = context.limits.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = usize::try_from(limit).ok().and_then(|limit| limits.get_mut(limit));
        *known.ok_or(Status::UNSUPPORTED_LIMIT)? = value;
        Ok(())
    }
}
