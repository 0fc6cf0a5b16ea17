//! Streams of the driver: the host's, or made here.

use super::context::Place;
use super::failure::code;
use super::{Context, NativeEvent};
use crate::error::{Error, Result};
use scalert_kernels::backend::cuda::{DevicePointer, Gpu, Handle};
use std::ffi::c_void;
use std::sync::Arc;

/// A stream of a context.
pub(crate) struct NativeStream {
    context: Arc<Context>,
    handle: Handle,
    owned: bool,
}

// SAFETY: the driver's streams may be used from any thread.
unsafe impl Send for NativeStream {}
// SAFETY: as above.
unsafe impl Sync for NativeStream {}

/// What a stream records its work into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capture {
    /// Nothing: work runs.
    None,
    /// A graph, by the number of the capture.
    Active(u64),
    /// Nothing any more: the capture was invalidated, and waits for its end.
    Invalidated,
}

impl NativeStream {
    /// A new stream, which waits for no other.
    pub(crate) fn new(context: &Arc<Context>) -> Result<NativeStream> {
        const NON_BLOCKING: u32 = 1;
        let _entered = context.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        context.check(unsafe { context.driver().stream_create(&mut handle, NON_BLOCKING, 0) })?;
        Ok(NativeStream { context: Arc::clone(context), handle, owned: true })
    }

    /// The host's stream; null is the default stream of the context.
    pub(crate) fn wrap(context: &Arc<Context>, native: *mut c_void) -> Result<NativeStream> {
        /// `CU_STREAM_PER_THREAD`.
        const PER_THREAD: usize = 2;
        if native.addr() == PER_THREAD {
            let message = "the per-thread default stream is another one on each thread; it must be a stream of its own";
            return Err(Error::invalid("native", message));
        }
        let _entered = context.enter()?;
        let mut of_context = std::ptr::null_mut();
        // SAFETY: the caller gives a stream; the driver refuses what it does not know as one.
        match unsafe { context.driver().stream_context(native, &mut of_context) } {
            Ok(()) if context.has_handle(of_context) => {}
            Ok(()) => {
                let message = format!("{native:p} is a stream of another context; it must be of the runtime's");
                return Err(Error::invalid("native", message));
            }
            Err(error) if [code::INVALID_VALUE, code::INVALID_HANDLE].contains(&error.code) => {
                let mut refusal = Error::invalid("native", format!("{native:p} must be a CUstream: {error}"));
                refusal.native = Error::from(error).native;
                return Err(refusal);
            }
            Err(error) => return context.check(Err(error)),
        }
        Ok(NativeStream { context: Arc::clone(context), handle: native, owned: false })
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The driver's handle.
    pub(crate) fn handle(&self) -> Handle {
        self.handle
    }

    /// What it records its work into. The context is entered.
    pub(crate) fn capture(&self) -> Result<Capture> {
        let (mut status, mut id) = (0, 0);
        let null = std::ptr::null_mut();
        // SAFETY: writes a status and a number; the rest is not asked for.
        self.context.check(unsafe {
            let null_pointers = (null, std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
            let (graph, dependencies, edges, count): (*mut Handle, *mut *const Handle, *mut *const c_void, *mut usize) =
                null_pointers;
            self.context.driver().stream_capture_info(
                self.handle,
                &mut status,
                &mut id,
                graph,
                dependencies,
                edges,
                count,
            )
        })?;
        Ok(match status {
            0 => Capture::None,
            1 => Capture::Active(id),
            _ => Capture::Invalidated,
        })
    }

    /// Refuses what cannot be done while the stream is captured, without harm to the capture. The context is entered.
    pub(crate) fn expect_no_capture(&self, what: &str) -> Result<()> {
        match self.capture()? {
            Capture::None => Ok(()),
            _ => Err(Error::precondition(format!("the stream is being captured into a graph: {what}"))),
        }
    }

    /// Refuses, while the stream is captured, memory that a graph cannot copy: host memory that is not pinned may be gone
    /// or elsewhere when the graph runs. The context is entered.
    pub(crate) fn expect_capturable(&self, argument: &str, address: *const u8) -> Result<()> {
        if self.capture()? == Capture::None || self.context.place(address)? != Place::Host {
            return Ok(());
        }
        Err(Error::precondition(format!(
            "{argument}: the stream is being captured into a graph, which cannot copy host memory that is not pinned"
        )))
    }

    /// Blocks until everything enqueued so far is done. The context is entered.
    pub(crate) fn wait(&self) -> Result<()> {
        // SAFETY: the stream lives.
        self.context.check(unsafe { self.context.driver().stream_synchronize(self.handle) })
    }

    /// Later work runs after an event. The context is entered.
    pub(crate) fn follow(&self, event: &NativeEvent) -> Result<()> {
        // SAFETY: both live.
        self.context.check(unsafe { self.context.driver().stream_wait_event(self.handle, event.handle(), 0) })
    }

    /// Copies between any two addresses that the device reaches or host memory. The context is entered.
    ///
    /// # Safety
    /// The bytes are valid, and used by nothing else that writes them, until the work is done.
    pub(crate) unsafe fn copy(&self, to: *mut u8, from: *const u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        self.context.check(unsafe { self.context.driver().copy_async(to as u64, from as u64, bytes, self.handle) })
    }

    /// Sets bytes that the device reaches to zero. The context is entered.
    ///
    /// # Safety
    /// As [`NativeStream::copy`].
    pub(crate) unsafe fn zero(&self, to: *mut u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        self.context.check(unsafe { self.context.driver().set_bytes_async(to as u64, 0, bytes, self.handle) })
    }

    /// What an operation launches with. The context is entered.
    ///
    /// # Safety
    /// While its work runs, the workspace is used by nothing else.
    pub(crate) unsafe fn gpu(&self, workspace: DevicePointer, bytes: usize) -> Gpu<'_> {
        // SAFETY: the stream lives as long as this; the rest is the caller's promise.
        unsafe { Gpu::new(self.context.device(), self.handle, workspace, bytes) }
    }
}

impl Drop for NativeStream {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        if let Some(_entered) = self.context.enter_to_release() {
            // SAFETY: made by `new`. A failure means that the context is lost, and the stream with it.
            let _ = unsafe { self.context.driver().stream_destroy(self.handle) };
        }
    }
}
