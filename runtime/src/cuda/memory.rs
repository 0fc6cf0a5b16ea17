//! Device memory, and host memory that is pinned.

use super::Context;
use crate::error::{Error, Result};
use std::ptr::NonNull;

impl Context {
    /// Device memory of the driver.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<NonNull<u8>> {
        let _entered = self.enter()?;
        let mut address = 0;
        // SAFETY: writes one address.
        self.check(unsafe { self.driver().memory_alloc(&mut address, bytes) })?;
        NonNull::new(address as *mut u8).ok_or_else(|| Error::precondition("cuMemAlloc gave no address"))
    }

    /// Gives device memory of [`Context::allocate`] back, once all work is done that the driver knows of.
    ///
    /// # Safety
    /// The memory came from there and is used no more.
    pub(crate) unsafe fn free(&self, memory: NonNull<u8>) {
        if let Some(_entered) = self.enter_to_release() {
            // SAFETY: the caller's promise. A failure means that the context is lost, and the memory with it.
            let _ = unsafe { self.driver().memory_free(memory.as_ptr() as u64) };
        }
    }

    /// Sets device memory to zero, and waits for that.
    ///
    /// # Safety
    /// These bytes are device memory that nothing else uses.
    pub(crate) unsafe fn clear(&self, memory: NonNull<u8>, bytes: usize) -> Result<()> {
        let _entered = self.enter()?;
        let driver = self.driver();
        const NON_BLOCKING: u32 = 1;
        let mut stream = std::ptr::null_mut();
        // A stream of its own: the default ones wait for others, and may be under capture.
        // SAFETY: writes one handle.
        self.check(unsafe { driver.stream_create(&mut stream, NON_BLOCKING, 0) })?;
        // SAFETY: the caller's promise, and the stream just made.
        let cleared = unsafe {
            driver
                .set_bytes_async(memory.as_ptr() as u64, 0, bytes, stream)
                .and_then(|()| driver.stream_synchronize(stream))
        };
        // SAFETY: made above, and its work is done.
        let destroyed = unsafe { driver.stream_destroy(stream) };
        self.check(cleared.and(destroyed))
    }

    /// Blocks until all work in the context is done, as far as it still works.
    pub(crate) fn settle(&self) {
        if let Some(_entered) = self.enter_to_release() {
            // SAFETY: waits. A failure is that of earlier work, which the next call on the context returns.
            let _ = self.check(unsafe { self.driver().context_synchronize() });
        }
    }

    /// Pins host memory for all contexts.
    ///
    /// # Safety
    /// These bytes are host memory that stays until [`Context::unpin`].
    pub(crate) unsafe fn pin(&self, memory: NonNull<u8>, bytes: usize) -> Result<()> {
        let _entered = self.enter()?;
        const PORTABLE: u32 = 1;
        const DEVICE_MAP: u32 = 2;
        // SAFETY: the caller's promise.
        self.check(unsafe { self.driver().host_register(memory.as_ptr().cast(), bytes, PORTABLE | DEVICE_MAP) })
    }

    /// Unpins host memory.
    ///
    /// # Safety
    /// [`Context::pin`] pinned it, and no work uses it any more.
    pub(crate) unsafe fn unpin(&self, memory: NonNull<u8>) {
        if let Some(_entered) = self.enter_to_release() {
            // SAFETY: the caller's promise. A failure means that the context is lost, and the registration with it.
            let _ = unsafe { self.driver().host_unregister(memory.as_ptr().cast()) };
        }
    }
}
