//! cuDNN, loaded at run time: NVIDIA's attention, where a machine has it. Absence is a reason, not a panic.
//!
//! Of its operations, only the forward pass of attention is used. The backward one (9.28.1) sums dq by atomic additions
//! of f32 in whatever order blocks come to them, as the machine code that it makes for compute capabilities 8.0 and 9.0
//! shows; its engines carry no note of that, and the operation has no attribute to ask for another way. Two values of
//! the engines' knob for pipeline stages change it, of which its documentation says nothing: 2 keeps the gradients of
//! all scores in memory, which is quadratic in the sequence, and 4, for capability 9.0 alone, puts a semaphore around
//! the additions. This library promises the same bits on every run, and does not rest that on a guess.
//!
//! Descriptors as they are made here have been put to cuDNN 9.28.1 itself on a machine without a GPU, by way of its
//! device-properties descriptor, for compute capabilities 8.0, 8.6, 8.9, 9.0, 10.0, 10.3 and 12.0, and to 9.21.0 for
//! four of these: heads of 16 to 256, both dtypes, both masks, grouped heads, packed layouts, with and without
//! statistics. The graphs were accepted, ranked, compiled to machine code and finalized as plans. Their workspace was
//! at most 256 bytes, but for plans that divide the keys of few queries among blocks; and the code has no atomics but
//! the counter by which blocks of capability 9.0 take their work. None of it has run on a GPU yet.

mod descriptor;
mod functions;
mod sdpa;

use super::driver::{CudaError, Driver, Handle, Library};
pub use functions::provide;
use functions::{Functions, NOT_SUPPORTED};
use sdpa::Plan;
pub use sdpa::{ALIGNMENT, Operands, Sdpa, Strides, WORKSPACE_BYTES};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Most distinct operations that a device has plans for. Captured graphs run the code of plans, so none is dropped
/// before the device is; and each takes about half a second to make.
const MOST_PLANS: usize = 256;

/// Whether this machine has a cuDNN that can be used; the error says why not.
pub fn available() -> Result<(), &'static str> {
    Functions::of_machine().map(|_| ())
}

/// The library on one device: its handle and plans, made when they are first needed.
#[derive(Default)]
pub struct Cudnn {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    handle: Option<Result<Opened, CudaError>>,
    /// An error: why there is none.
    plans: HashMap<Sdpa, Result<Plan, CudaError>>,
}

struct Opened {
    functions: &'static Functions,
    handle: Handle,
}

// SAFETY: the library's handles and descriptors may be used from any thread, one at a time; a mutex holds them.
unsafe impl Send for State {}

/// An operation that cannot be had from the library, for a reason.
fn refused(call: &'static str, message: String) -> CudaError {
    CudaError { library: Library::Cudnn, code: NOT_SUPPORTED, call, message }
}

impl State {
    fn open(&mut self) -> Result<(&'static Functions, Handle), CudaError> {
        let opened = self.handle.get_or_insert_with(|| {
            let functions = Functions::of_machine().map_err(|message| refused("cudnnCreate", message.to_owned()))?;
            let mut handle = std::ptr::null_mut();
            // SAFETY: writes one handle.
            unsafe { functions.create(&mut handle) }.map_err(|error| refused(error.call, error.message))?;
            Ok(Opened { functions, handle })
        });
        opened.as_ref().map(|opened| (opened.functions, opened.handle)).map_err(Clone::clone)
    }

    fn plan(&mut self, sdpa: &Sdpa) -> Result<&Plan, CudaError> {
        let (functions, handle) = self.open()?;
        if !self.plans.contains_key(sdpa) {
            if self.plans.len() == MOST_PLANS {
                return Err(refused("attention", format!("there are {MOST_PLANS} plans of other shapes already")));
            }
            // Whatever the failure: this operation cannot be had, now or later.
            let plan = Plan::new(functions, handle, sdpa).map_err(|error| refused(error.call, error.message));
            self.plans.insert(*sdpa, plan);
        }
        self.plans[sdpa].as_ref().map_err(Clone::clone)
    }
}

impl Cudnn {
    /// Runs `body` on the state while this thread may call what a capture on another stream would forbid.
    fn with<R>(&self, driver: &Driver, body: impl FnOnce(&mut State) -> Result<R, CudaError>) -> Result<R, CudaError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        driver.relaxed(|| body(&mut state))
    }

    /// Makes sure that there is a plan for the operation on this device, whose context is current; the error says why
    /// there is none.
    pub fn takes(&self, driver: &Driver, sdpa: &Sdpa) -> Result<(), CudaError> {
        self.with(driver, |state| state.plan(sdpa).map(|_| ()))
    }

    /// Enqueues the operation.
    ///
    /// # Safety
    /// The operands are device memory of the operation's layouts, aligned to [`ALIGNMENT`], valid until the work is
    /// done; nothing else uses the results and the workspace until then.
    pub unsafe fn enqueue(
        &self,
        driver: &Driver,
        sdpa: &Sdpa,
        operands: &Operands,
        stream: Handle,
    ) -> Result<(), CudaError> {
        self.with(driver, |state| {
            let (functions, handle) = state.open()?;
            let plan = state.plan(sdpa)?;
            // SAFETY: the handle and the stream are of the current context; else the caller's promise.
            unsafe {
                functions.set_stream(handle, stream)?;
                plan.enqueue(functions, handle, sdpa, operands)
            }
        })
    }

    /// Destroys what was made. In a context that is gone, it is gone with it.
    pub fn destroy(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.plans.clear();
        if let Some(Ok(opened)) = state.handle.take() {
            // SAFETY: a handle that the library made, used no more. Nothing can be done about a failure.
            let _ = unsafe { opened.functions.destroy(opened.handle) };
        }
    }
}
