//! The context that a runtime works in: the host's current one where it is of the device, else the device's primary one.

use super::device::find;
use crate::error::{Error, Result, Status};
use scalert_kernels::backend::cuda::driver::{CudaError, Driver, Handle};
use scalert_kernels::backend::cuda::{Device, Gpu};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;

/// A context, with the kernels loaded in it.
pub(crate) struct Context {
    driver: &'static Driver,
    handle: Handle,
    /// The device whose primary context was retained.
    primary: Option<i32>,
    device: Device,
    /// A stream of our own, for what must be done when a call returns.
    setup: Handle,
    /// A forked child must not use its parent's CUDA.
    process: u32,
    ordinal: i32,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Context {}
// SAFETY: as above; `Device` guards what changes.
unsafe impl Sync for Context {}

/// A context made current on this thread, until dropped.
pub(crate) struct Current<'a> {
    context: &'a Context,
    /// Current on one thread only.
    _thread: PhantomData<*mut ()>,
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        let mut popped = std::ptr::null_mut();
        // SAFETY: takes off what `enter` pushed. A failure means that the host destroyed the context meanwhile.
        let _ = unsafe { self.context.driver.context_pop(&mut popped) };
    }
}

impl Context {
    /// The context of the device with an ordinal.
    pub(crate) fn open(ordinal: i32) -> Result<Context> {
        let (driver, device) = find(ordinal)?;
        let (handle, primary) = match current_of(driver, device) {
            Some(context) => (context, None),
            None => {
                let mut context = std::ptr::null_mut();
                // SAFETY: writes one handle; released on drop.
                unsafe { driver.primary_context_retain(&mut context, device) }?;
                (context, Some(device))
            }
        };
        let release = |error: CudaError| {
            if let Some(device) = primary {
                // SAFETY: retained above.
                let _ = unsafe { driver.primary_context_release(device) };
            }
            error
        };
        // SAFETY: the context is the host's current one, or retained; popped below.
        unsafe { driver.context_push(handle) }.map_err(release)?;
        let mut setup = std::ptr::null_mut();
        const NON_BLOCKING: u32 = 1;
        let opened = Device::new(driver, device).and_then(|device| {
            // SAFETY: writes one handle; destroyed on drop.
            unsafe { driver.stream_create(&mut setup, NON_BLOCKING, 0) }.map(|()| device)
        });
        let mut popped = std::ptr::null_mut();
        // SAFETY: takes off what was pushed above.
        let _ = unsafe { driver.context_pop(&mut popped) };
        let device = opened.map_err(release)?;
        Ok(Context { driver, handle, primary, device, setup, process: std::process::id(), ordinal })
    }

    /// Makes the context current on this thread until the result is dropped. Refused in a forked child.
    pub(crate) fn enter(&self) -> Result<Current<'_>> {
        if std::process::id() != self.process {
            return Err(Error::new(
                Status::Unavailable,
                "CUDA cannot be used after fork(): create the runtime in the child, before CUDA is used in the parent",
            ));
        }
        // SAFETY: the handle was a context; the driver says if it is one no more.
        unsafe { self.driver.context_push(self.handle) }?;
        Ok(Current { context: self, _thread: PhantomData })
    }

    /// The device and its kernels.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The driver.
    pub(crate) fn driver(&self) -> &'static Driver {
        self.driver
    }

    /// The ordinal of the device.
    pub(crate) fn ordinal(&self) -> i32 {
        self.ordinal
    }

    /// Whether `stream` is one of this context, which is current.
    pub(crate) fn owns(&self, stream: Handle) -> Result<bool> {
        let mut context = std::ptr::null_mut();
        // SAFETY: the host promises a stream of the driver; writes one handle.
        unsafe { self.driver.stream_context(stream, &mut context) }?;
        Ok(context == self.handle)
    }

    /// Requires memory that kernels of this device can read: its own, managed or pinned memory, not plain host memory nor
    /// another device's.
    pub(crate) fn check_address(&self, address: *const u8) -> std::result::Result<(), String> {
        const MEMORY_TYPE: i32 = 2;
        const DEVICE_ORDINAL: i32 = 9;
        const IS_MANAGED: i32 = 8;
        const DEVICE: u32 = 2;
        let (mut kind, mut ordinal, mut managed) = (0u32, 0i32, 0u32);
        let address = address as u64;
        // SAFETY: each attribute is one 32-bit number.
        unsafe {
            if self.driver.pointer_attribute((&raw mut kind).cast(), MEMORY_TYPE, address).is_err() {
                return Err(format!("data {address:#x} is host memory that the CUDA device cannot read"));
            }
            if kind == DEVICE
                && self.driver.pointer_attribute((&raw mut ordinal).cast(), DEVICE_ORDINAL, address).is_ok()
                && ordinal != self.ordinal
                && (self.driver.pointer_attribute((&raw mut managed).cast(), IS_MANAGED, address).is_err()
                    || managed == 0)
            {
                return Err(format!(
                    "data {address:#x} is memory of CUDA device {ordinal}, must be of device {}",
                    self.ordinal
                ));
            }
        }
        Ok(())
    }

    /// Runs `work` on a stream of our own and waits for it; allowed while another stream is captured.
    pub(crate) fn settle(
        &self,
        work: impl FnOnce(&Driver, Handle) -> std::result::Result<(), CudaError>,
    ) -> Result<()> {
        self.relaxed(|driver| {
            work(driver, self.setup)?;
            // SAFETY: our own stream.
            unsafe { driver.stream_synchronize(self.setup) }
        })
    }

    /// Runs calls that a capture elsewhere might forbid this thread.
    pub(crate) fn relaxed<T>(&self, calls: impl FnOnce(&Driver) -> std::result::Result<T, CudaError>) -> Result<T> {
        const RELAXED: i32 = 2;
        let mut mode = RELAXED;
        // SAFETY: exchanges this thread's mode, and puts it back.
        unsafe { self.driver.exchange_capture_mode(&mut mode) }?;
        let result = calls(self.driver);
        // SAFETY: as above.
        unsafe { self.driver.exchange_capture_mode(&mut mode) }?;
        Ok(result?)
    }

    /// Blocks until everything in the context is done; best effort, before memory is given back.
    pub(crate) fn quiesce(&self) {
        // SAFETY: waits; the context is current. A failure is that of earlier work, which its stream reports.
        let _ = unsafe { self.driver.context_synchronize() };
    }

    /// What an operation runs with.
    ///
    /// # Safety
    /// As [`Gpu::new`]; the context is current.
    pub(crate) unsafe fn gpu(&self, stream: Handle, workspace: u64, workspace_bytes: usize) -> Gpu<'_> {
        // SAFETY: the caller's promise.
        unsafe { Gpu::new(&self.device, stream, workspace, workspace_bytes) }
    }
}

/// The context current on this thread if it is of `device`.
fn current_of(driver: &Driver, device: i32) -> Option<Handle> {
    let (mut context, mut of) = (std::ptr::null_mut(), -1);
    // SAFETY: writes one handle and one integer.
    let found = unsafe {
        driver.context_current(&mut context).is_ok() && !context.is_null() && driver.context_device(&mut of).is_ok()
    };
    (found && of == device).then_some(context)
}

impl Drop for Context {
    fn drop(&mut self) {
        // A context that the host has destroyed took everything in it along; in a forked child nothing can be done.
        let Ok(current) = self.enter() else { return };
        let current = ManuallyDrop::new(current);
        let mut popped = std::ptr::null_mut();
        // SAFETY: our own stream, used no more.
        let _ = unsafe { current.context.driver.stream_destroy(self.setup) };
        self.device.unload();
        // SAFETY: takes off what `enter` pushed, and releases what `open` retained.
        unsafe {
            let _ = self.driver.context_pop(&mut popped);
            if let Some(device) = self.primary {
                let _ = self.driver.primary_context_release(device);
            }
        }
    }
}
