//! A context of the host's, or the primary one, entered for each call.

use super::driver::{after_fork, describe, driver, number};
use super::failure::{code, is_sticky};
use crate::error::{Error, Result, Status};
use scalert_kernels::backend::cuda::{CudaError, Device, Driver, Handle};
use scalert_kernels::view::View;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Oldest compute capability that the device code runs on.
const OLDEST_CAPABILITY: u32 = 80;

/// A device in a context.
pub(crate) struct Context {
    driver: &'static Driver,
    device: Device,
    ordinal: i32,
    /// The driver's number of the device.
    number: i32,
    handle: Handle,
    /// The driver's number of the context: a handle may come again after its context is gone.
    id: u64,
    /// Whether it is the primary context, retained here.
    retained: bool,
    process: u32,
    /// The failure of earlier work, which stays.
    failure: OnceLock<Error>,
}

// SAFETY: a context may be entered by any thread; everything else is plain data or made for sharing.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// The context of a runtime on this device: the current one if it is of the device, else the primary one.
    pub(crate) fn new(ordinal: i32) -> Result<Context> {
        let driver = driver()?;
        let number = number(driver, ordinal)?;
        let info = describe(ordinal)?;
        if info.compute_capability < OLDEST_CAPABILITY {
            let text = |capability: u32| format!("{}.{}", capability / 10, capability % 10);
            return Err(Error::new(
                Status::Unavailable,
                format!(
                    "CUDA device {ordinal}, {}, has compute capability {}, but this library needs {}",
                    info.name,
                    text(info.compute_capability),
                    text(OLDEST_CAPABILITY)
                ),
            ));
        }
        let (mut handle, mut of_device): (Handle, i32) = (std::ptr::null_mut(), -1);
        // SAFETY: each writes one value. Without a current context the second is not called.
        let borrowed = unsafe {
            driver.context_current(&mut handle)?;
            !handle.is_null() && driver.context_device(&mut of_device).is_ok() && of_device == number
        };
        if !borrowed {
            // SAFETY: writes one handle; released when the context is dropped.
            unsafe { driver.primary_context_retain(&mut handle, number) }?;
        }
        let open = || {
            let _entered = Entered::push(driver, handle)?;
            let (mut id, mut free, mut total) = (0, 0, 0);
            // SAFETY: each writes the values that it is given. A context that failed before fails the second.
            unsafe {
                driver.context_id(handle, &mut id)?;
                driver.memory_info(&mut free, &mut total)?;
            }
            Ok::<_, Error>((Device::new(driver, number)?, id))
        };
        let opened = open();
        if opened.is_err() && !borrowed {
            // SAFETY: retained above. What fails here changes nothing for the caller.
            let _ = unsafe { driver.primary_context_release(number) };
        }
        let (device, id) = opened?;
        let (retained, process, failure) = (!borrowed, std::process::id(), OnceLock::new());
        Ok(Context { driver, device, ordinal, number, handle, id, retained, process, failure })
    }

    /// Which device of its kind.
    pub(crate) fn ordinal(&self) -> i32 {
        self.ordinal
    }

    pub(crate) fn driver(&self) -> &'static Driver {
        self.driver
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Whether both are the same context of the driver.
    pub(crate) fn is(&self, other: &Context) -> bool {
        (self.handle, self.id) == (other.handle, other.id)
    }

    /// Whether this is its handle.
    pub(super) fn has_handle(&self, handle: Handle) -> bool {
        self.handle == handle
    }

    /// Makes it current on this thread until the guard is dropped. After a failure of asynchronous work, that failure.
    pub(crate) fn enter(&self) -> Result<Entered> {
        if self.process != std::process::id() {
            return Err(after_fork());
        }
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        if !self.is_alive() {
            return Err(self.gone());
        }
        self.check(Entered::push(self.driver, self.handle))
    }

    /// [`Context::enter`] to give something back: None when the context took it along, or belongs to another process.
    pub(crate) fn enter_to_release(&self) -> Option<Entered> {
        let reachable = self.process == std::process::id() && self.is_alive();
        reachable.then(|| Entered::push(self.driver, self.handle).ok()).flatten()
    }

    fn is_alive(&self) -> bool {
        let mut id = 0;
        // SAFETY: writes one number; a handle that is no context any more is refused.
        unsafe { self.driver.context_id(self.handle, &mut id) }.is_ok() && id == self.id
    }

    fn gone(&self) -> Error {
        let error = self.driver.error("cuCtxGetId", code::CONTEXT_IS_DESTROYED as i32);
        let mut error = Error::from(error);
        error.message = format!("the CUDA context of the runtime has been destroyed: {}", error.message);
        error
    }

    /// Turns a failure into an error; one of asynchronous work is kept for every later call.
    pub(crate) fn check<T>(&self, outcome: std::result::Result<T, CudaError>) -> Result<T> {
        outcome.map_err(|failure| {
            let sticky = is_sticky(&failure);
            let mut error = Error::from(failure);
            if sticky {
                error.message = format!("asynchronous work failed: {}", error.message);
                let _ = self.failure.set(error.clone());
            }
            error
        })
    }

    /// Requires the memory of an argument to be reached by the device: its own, managed, or pinned.
    pub(crate) fn expect_reachable(&self, argument: &str, view: &View<'_>) -> Result<()> {
        if view.numel() == 0 {
            return Ok(());
        }
        match self.place(view.data())? {
            Place::Device(ordinal) if ordinal != self.ordinal => Err(Error::invalid(
                argument,
                format!(
                    "data {:p} is memory of CUDA device {ordinal}, but must be of device {}",
                    view.data(),
                    self.ordinal
                ),
            )),
            Place::Host => Err(Error::invalid(
                argument,
                format!(
                    "data {:p} is host memory that CUDA does not know; it must be memory of CUDA device {}, managed or \
                     pinned",
                    view.data(),
                    self.ordinal
                ),
            )),
            Place::Device(_) | Place::Both => Ok(()),
        }
    }

    /// Where an address lies.
    pub(crate) fn place(&self, address: *const u8) -> Result<Place> {
        if self.process != std::process::id() {
            return Err(after_fork());
        }
        const MEMORY_TYPE: i32 = 2;
        const IS_MANAGED: i32 = 8;
        const DEVICE_ORDINAL: i32 = 9;
        const DEVICE: u32 = 2;
        let mut attributes = [MEMORY_TYPE, IS_MANAGED, DEVICE_ORDINAL];
        let (mut kind, mut managed, mut ordinal) = (0u32, 0u32, 0i32);
        let mut values = [(&raw mut kind).cast(), (&raw mut managed).cast(), (&raw mut ordinal).cast()];
        let (attributes, values) = (attributes.as_mut_ptr(), values.as_mut_ptr());
        // SAFETY: three attributes and where they go; a managed flag is one byte or more of the word set to 0 above.
        self.check(unsafe { self.driver.pointer_attributes(3, attributes, values, address as u64) })?;
        Ok(match kind {
            0 => Place::Host,
            _ if managed != 0 => Place::Both,
            DEVICE => Place::Device(ordinal),
            _ => Place::Both,
        })
    }
}

/// Where an address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Host memory that CUDA does not know.
    Host,
    /// Memory of this device.
    Device(i32),
    /// Managed or pinned: host and device reach it.
    Both,
}

impl Drop for Context {
    fn drop(&mut self) {
        let Some(entered) = self.enter_to_release() else { return };
        self.device.unload();
        drop(entered);
        if self.retained {
            // SAFETY: retained by `new`. A failure means that the context is gone, as is wanted.
            let _ = unsafe { self.driver.primary_context_release(self.number) };
        }
    }
}

/// A context that is current on this thread until this is dropped.
///
/// Meanwhile calls of this thread do not count as disturbing captures of the host on other streams: memory is allocated
/// and events are queried without invalidating them. What a stream under capture itself cannot do stays forbidden.
pub(crate) struct Entered {
    driver: &'static Driver,
    mode: i32,
    // It belongs to this thread.
    thread: PhantomData<*mut ()>,
}

impl Entered {
    fn push(driver: &'static Driver, handle: Handle) -> std::result::Result<Entered, CudaError> {
        const RELAXED: i32 = 2;
        let mut mode = RELAXED;
        // SAFETY: the driver refuses a handle that is no context. The mode is this thread's, and put back later.
        unsafe {
            driver.context_push(handle)?;
            if let Err(error) = driver.exchange_capture_mode(&mut mode) {
                let _ = driver.context_pop(&mut std::ptr::null_mut());
                return Err(error);
            }
        }
        Ok(Entered { driver, mode, thread: PhantomData })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // SAFETY: puts back what `push` changed on this thread. A failure leaves nothing more to be done.
        unsafe {
            let _ = self.driver.exchange_capture_mode(&mut self.mode);
            let _ = self.driver.context_pop(&mut std::ptr::null_mut());
        }
    }
}
