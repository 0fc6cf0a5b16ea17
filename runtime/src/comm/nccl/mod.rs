//! Ranks of NCCL, one CUDA device each, in any processes and on any machines.
//!
//! Communicators do not block: whatever NCCL has begun on the host is polled, with the deadline of the descriptor. What is
//! enqueued on the device is beyond that: a host that waits for it asks `async_error` meanwhile, or aborts.

mod functions;

use super::{Communicator, Reduction};
use crate::error::{Error, Result, Status};
use crate::memory::{Block, Purpose, Tier};
use crate::runtime::Runtime;
use crate::stream::Queue;
use functions::{Config, Functions, Handle, IN_PROGRESS, SUCCESS, UniqueId};
use scalert_kernels::dtype::DType;
use scalert_kernels::view::View;
use std::ffi::{c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of the id that the ranks of a group share.
pub const UNIQUE_ID_BYTES: usize = 128;

/// An id for a new group, for its ranks to share. `UNAVAILABLE` with the reason on a machine without NCCL.
pub fn unique_id() -> Result<[u8; UNIQUE_ID_BYTES]> {
    let mut id = UniqueId([0; UNIQUE_ID_BYTES]);
    // SAFETY: writes the id.
    unsafe { Functions::of_machine()?.unique_id(&mut id) }?;
    Ok(id.0)
}

/// Longest time that destroying a communicator waits for the other ranks before it gives the group up.
const FAREWELL: Duration = Duration::from_secs(10);

pub(super) struct Nccl {
    functions: &'static Functions,
    rank: u32,
    world: u32,
    timeout: Duration,
    state: Mutex<State>,
    /// What a barrier reduces.
    token: Block,
    runtime: Runtime,
}

struct State {
    /// Null once the group has been given up.
    comm: Handle,
    failure: Option<Error>,
}

// SAFETY: a communicator of NCCL is used by one thread at a time: under the mutex.
unsafe impl Send for State {}

impl Nccl {
    pub(super) fn new(
        runtime: &Runtime,
        id: &[u8; UNIQUE_ID_BYTES],
        (rank, world): (u32, u32),
        timeout: Duration,
    ) -> Result<Nccl> {
        if world == 0 || world > c_int::MAX as u32 {
            return Err(Error::invalid("world", format!("{world} must be 1 to {}", c_int::MAX)));
        }
        if rank >= world {
            return Err(Error::invalid("rank", format!("{rank} must be less than world, {world}")));
        }
        let context = match runtime.cuda() {
            Some(context) => context,
            None => return Err(Error::new(Status::Unavailable, "NCCL needs a runtime of a CUDA device")),
        };
        let functions = Functions::of_machine()?;
        let token = Block::new(runtime.memory(), Tier::Device, Purpose::Other, size_of::<i64>() as u64, true)?;
        let state = Mutex::new(State { comm: std::ptr::null_mut(), failure: None });
        let nccl = Nccl { functions, rank, world, timeout, state, token, runtime: runtime.clone() };
        let _entered = context.enter()?;
        let mut comm = std::ptr::null_mut();
        // SAFETY: writes a communicator of the device whose context is current; config is one that does not block.
        let begun =
            unsafe { functions.init(&mut comm, world as c_int, UniqueId(*id), rank as c_int, &Config::NON_BLOCKING) };
        nccl.lock().comm = comm;
        if let Err(error) = begun {
            nccl.give_up(&mut nccl.lock(), error.clone());
            return Err(error);
        }
        nccl.settle("ncclCommInitRankConfig", nccl.timeout)?;
        Ok(nccl)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while NCCL is in progress on the host.
    fn settle(&self, call: &str, timeout: Duration) -> Result<()> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let mut state = self.lock();
            match self.poll(&mut state, call)? {
                false => return Ok(()),
                true if deadline.is_some_and(|deadline| Instant::now() > deadline) => {
                    let error =
                        Error::new(Status::Timeout, format!("{call}: another rank did not come within {timeout:?}"));
                    self.give_up(&mut state, error.clone());
                    return Err(error);
                }
                true => {}
            }
            drop(state);
            std::thread::yield_now();
        }
    }

    /// Whether NCCL is in progress on the host; what has gone wrong, if anything.
    fn poll(&self, state: &mut State, call: &str) -> Result<bool> {
        if let Some(failure) = &state.failure {
            return Err(earlier(failure));
        }
        let mut code = SUCCESS;
        // SAFETY: a live communicator; writes one result.
        let asked = unsafe { self.functions.async_error(state.comm, &mut code) };
        match asked {
            Ok(()) if code == SUCCESS => Ok(false),
            Ok(()) if code == IN_PROGRESS => Ok(true),
            outcome => {
                let error = outcome.err().unwrap_or_else(|| self.functions.error(call, code));
                self.give_up(state, error.clone());
                Err(error)
            }
        }
    }

    /// Notes a failure and ends what NCCL has in progress, on the device too.
    fn give_up(&self, state: &mut State, error: Error) {
        state.failure.get_or_insert(error);
        let comm = std::mem::replace(&mut state.comm, std::ptr::null_mut());
        if !comm.is_null() {
            let _entered = self.runtime.cuda().and_then(|context| context.enter_to_release());
            // SAFETY: a live communicator, which nobody finds any more. A failure leaves nothing more to be done.
            let _ = unsafe { self.functions.abort(comm) };
        }
    }

    /// Begins an operation on the queue's stream and waits until NCCL has enqueued it.
    fn enqueue(
        &self,
        queue: &Queue<'_>,
        name: &str,
        begin: impl FnOnce(&Functions, Handle, Handle) -> Result<()>,
    ) -> Result<()> {
        let stream = queue.native().map_or(std::ptr::null_mut(), |native| native.handle());
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            return Err(earlier(failure));
        }
        if let Err(error) = begin(self.functions, state.comm, stream) {
            self.give_up(&mut state, error.clone());
            return Err(error);
        }
        drop(state);
        self.settle(name, self.timeout)
    }
}

/// What calls get after a failure.
fn earlier(failure: &Error) -> Error {
    let message = format!("the group has failed: {}: {}", failure.status, failure.message);
    Error { message, status: Status::CommError, native: failure.native }
}

/// The ncclDataType_t of a dtype.
fn data_type(dtype: DType) -> c_int {
    match dtype {
        DType::U8 => 1,
        DType::I32 => 2,
        DType::I64 => 4,
        // It has none of its own, is only moved, and that does not look at bits.
        DType::F16 | DType::I16 => 6,
        DType::F32 => 7,
        DType::BF16 => 9,
    }
}

/// The ncclRedOp_t of a reduction.
fn operation(reduction: Reduction) -> c_int {
    match reduction {
        Reduction::Sum => 0,
        Reduction::Max => 2,
        Reduction::Mean => 4,
    }
}

/// Where a view is read, where it is written, how many elements of which type it has.
fn parts(x: &View<'_>) -> (*const c_void, *mut c_void, usize, c_int) {
    (x.data().cast_const().cast(), x.data().cast(), x.numel(), data_type(x.dtype()))
}

impl Communicator for Nccl {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn world(&self) -> u32 {
        self.world
    }

    fn deterministic(&self) -> bool {
        self.world == 1
    }

    fn all_reduce(&self, queue: &mut Queue<'_>, x: View<'_>, reduction: Reduction) -> Result<()> {
        let (input, output, n, dtype) = parts(&x);
        // SAFETY: n elements of the device, which nothing else uses until the work is done: checked arguments.
        self.enqueue(queue, "ncclAllReduce", |nccl, comm, stream| unsafe {
            nccl.all_reduce(input, output, n, dtype, operation(reduction), comm, stream)
        })
    }

    fn reduce(
        &self,
        queue: &mut Queue<'_>,
        input: View<'_>,
        output: Option<View<'_>>,
        reduction: Reduction,
        root: u32,
    ) -> Result<()> {
        let (input, _, n, dtype) = parts(&input);
        let output = output.map_or(std::ptr::null_mut(), |output| output.data().cast());
        // SAFETY: as in `all_reduce`; output is looked at on the root only.
        self.enqueue(queue, "ncclReduce", |nccl, comm, stream| unsafe {
            nccl.reduce(input, output, n, dtype, operation(reduction), root as c_int, comm, stream)
        })
    }

    fn reduce_scatter(
        &self,
        queue: &mut Queue<'_>,
        input: View<'_>,
        output: View<'_>,
        reduction: Reduction,
    ) -> Result<()> {
        let (input, ..) = parts(&input);
        let (_, output, n, dtype) = parts(&output);
        // SAFETY: as in `all_reduce`; input has n elements for each rank.
        self.enqueue(queue, "ncclReduceScatter", |nccl, comm, stream| unsafe {
            nccl.reduce_scatter(input, output, n, dtype, operation(reduction), comm, stream)
        })
    }

    fn all_gather(&self, queue: &mut Queue<'_>, input: View<'_>, output: View<'_>) -> Result<()> {
        let (input, _, n, dtype) = parts(&input);
        let (_, output, ..) = parts(&output);
        // SAFETY: as in `all_reduce`; output has n elements for each rank.
        self.enqueue(queue, "ncclAllGather", |nccl, comm, stream| unsafe {
            nccl.all_gather(input, output, n, dtype, comm, stream)
        })
    }

    fn broadcast(&self, queue: &mut Queue<'_>, x: View<'_>, root: u32) -> Result<()> {
        let (input, output, n, dtype) = parts(&x);
        // SAFETY: as in `all_reduce`.
        self.enqueue(queue, "ncclBroadcast", |nccl, comm, stream| unsafe {
            nccl.broadcast(input, output, n, dtype, root as c_int, comm, stream)
        })
    }

    fn all_to_all(&self, queue: &mut Queue<'_>, input: View<'_>, output: View<'_>) -> Result<()> {
        let n = input.numel() / self.world as usize;
        let dtype = data_type(input.dtype());
        let at = |x: &View<'_>, rank: c_int| x.data().wrapping_add(rank as usize * n * x.dtype().size());
        self.enqueue(queue, "all_to_all", |nccl, comm, stream| {
            // SAFETY: begins a group, which is ended below in any case.
            unsafe { nccl.group_start() }?;
            let exchanged = (0..self.world as c_int).try_for_each(|rank| {
                // SAFETY: as in `all_reduce`; both have n elements for each rank.
                unsafe {
                    nccl.send(at(&input, rank).cast(), n, dtype, rank, comm, stream)?;
                    nccl.receive(at(&output, rank).cast(), n, dtype, rank, comm, stream)
                }
            });
            // SAFETY: ends the group.
            exchanged.and(unsafe { nccl.group_end() })
        })
    }

    fn send(&self, queue: &mut Queue<'_>, x: View<'_>, to: u32) -> Result<()> {
        let (input, _, n, dtype) = parts(&x);
        // SAFETY: as in `all_reduce`.
        self.enqueue(queue, "ncclSend", |nccl, comm, stream| unsafe {
            nccl.send(input, n, dtype, to as c_int, comm, stream)
        })
    }

    fn receive(&self, queue: &mut Queue<'_>, x: View<'_>, from: u32) -> Result<()> {
        let (_, output, n, dtype) = parts(&x);
        // SAFETY: as in `all_reduce`.
        self.enqueue(queue, "ncclRecv", |nccl, comm, stream| unsafe {
            nccl.receive(output, n, dtype, from as c_int, comm, stream)
        })
    }

    fn barrier(&self, queue: &mut Queue<'_>) -> Result<()> {
        let token = self.token.data().as_ptr();
        // SAFETY: the block is one element of the device, and barriers of one rank follow each other on its streams or all
        // write the same zero.
        self.enqueue(queue, "barrier", |nccl, comm, stream| unsafe {
            let dtype = data_type(DType::I64);
            nccl.all_reduce(token.cast(), token.cast(), 1, dtype, operation(Reduction::Max), comm, stream)
        })
    }

    fn abort(&self) {
        let error = Error::new(Status::CommError, format!("rank {} has aborted the group", self.rank));
        self.give_up(&mut self.lock(), error);
    }

    fn async_error(&self) -> Result<()> {
        self.poll(&mut self.lock(), "NCCL").map(|_| ())
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        let state = self.lock();
        let comm = state.comm;
        if comm.is_null() {
            return;
        }
        let Some(_entered) = self.runtime.cuda().and_then(|context| context.enter_to_release()) else { return };
        // SAFETY: a live communicator, all of whose operations have been enqueued.
        let begun = unsafe { self.functions.finalize(comm) };
        drop(state);
        match begun.and_then(|()| self.settle("ncclCommFinalize", self.timeout.min(FAREWELL))) {
            // SAFETY: finalized, and nobody's any more.
            Ok(()) => drop(unsafe { self.functions.destroy(comm) }),
            Err(error) => self.give_up(&mut self.lock(), error),
        }
    }
}
