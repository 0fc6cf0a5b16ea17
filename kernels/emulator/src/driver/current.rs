//! The stack of contexts of each thread; the top one is current.

use std::cell::RefCell;
use std::ffi::c_int;
use std::sync::Arc;

use super::argument::Out;
use super::context::{self, CONTEXTS, Context};
use super::error::Status;
use super::export::exports;
use super::{capture, device};

thread_local! {
    static STACK: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// The handle that is current, whether or not its context still lives.
pub(super) fn top() -> Option<usize> {
    STACK.try_with(|stack| stack.borrow().last().copied()).ok().flatten()
}

/// Makes a handle current above what was.
pub(super) fn push(handle: usize) {
    // A thread that is ending has no stack any more: nothing is current there.
    let _ = STACK.try_with(|stack| stack.borrow_mut().push(handle));
}

/// Removes the handle that is current.
pub(super) fn pop() -> Option<usize> {
    STACK.try_with(|stack| stack.borrow_mut().pop()).ok().flatten()
}

/// The context that is current, alive and without a sticky error.
pub(super) fn context() -> Result<Arc<Context>, Status> {
    device::all()?;
    let context = CONTEXTS.find(top().ok_or(Status::INVALID_CONTEXT)?).ok_or(Status::CONTEXT_IS_DESTROYED)?;
    context.check()?;
    Ok(context)
}

exports! {
    /// Makes a context current above the one that is.
    fn cuCtxPushCurrent_v2(context: usize) {
        device::all()?;
        push(context::named(context)?.handle);
        Ok(())
    }

    /// Removes the context that is current.
    fn cuCtxPopCurrent_v2(context: Out<usize>) {
        device::all()?;
        let handle = pop().ok_or(Status::INVALID_CONTEXT)?;
        context.set_if_wanted(handle);
        Ok(())
    }

    /// Puts a context in the place of the one that is current; null only removes that.
    fn cuCtxSetCurrent(context: usize) {
        device::all()?;
        if context != 0 {
            context::named(context)?;
        }
        pop();
        if context != 0 {
            push(context);
        }
        Ok(())
    }

    /// The context that is current, or null.
    fn cuCtxGetCurrent(context: Out<usize>) {
        device::all()?;
        context.set(top().unwrap_or(0))
    }

    /// Device of the current context.
    fn cuCtxGetDevice(device: Out<c_int>) {
        device::all()?;
        let context = CONTEXTS.find(top().ok_or(Status::INVALID_CONTEXT)?).ok_or(Status::CONTEXT_IS_DESTROYED)?;
        device.set(context.device)
    }

    /// Waits for everything in the current context.
    fn cuCtxSynchronize() {
        let context = context()?;
        let streams = context.streams();
        capture::refuse_synchronisation(&streams)?;
        streams.iter().for_each(|stream| stream.wait());
        context.check()
    }
}
