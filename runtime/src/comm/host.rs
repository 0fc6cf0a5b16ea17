//! The host's own communicator behind callbacks, which is not trusted to offer every operation: what it lacks is composed of
//! those that it must have.

use super::call::Operation;
use super::{Communicator, Reduction};
use crate::device::DeviceKind;
use crate::error::{Error, NativeDomain, Result, Status};
use crate::exclusive::Exclusive;
use crate::memory::{Block, Purpose, Tier};
use crate::runtime::Runtime;
use crate::stream::Queue;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::rank_reduce::RankReduce;
use scalert_kernels::view::View;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// One operation for the host's communicator.
#[derive(Clone, Copy, Debug)]
pub struct HostCall {
    /// Which.
    pub operation: Operation,
    /// What is read; null when nothing is.
    pub input: *const c_void,
    /// What is written; null when nothing is. It may be `input`, or that part of one that the other is.
    pub output: *mut c_void,
    /// Elements that a rank gives to, or gets of, each other one.
    pub count: u64,
    /// Their type.
    pub dtype: DType,
    /// Of operations that reduce.
    pub reduction: Option<Reduction>,
    /// The root of a reduce or broadcast, or with whom a message is exchanged; else 0.
    pub peer: u32,
    /// The native stream that the operation is enqueued on; null on the CPU, where it is done when the call returns.
    pub stream: *mut c_void,
}

/// Why the host's communicator failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFailure {
    /// What it returned: the number of [`Status::Timeout`] when other ranks did not come in time.
    pub code: i32,
    /// What it says.
    pub message: String,
}

/// A communicator of the host's.
pub trait HostCommunicator: Send + Sync {
    /// This rank.
    fn rank(&self) -> u32;
    /// The number of ranks.
    fn world(&self) -> u32;
    /// Whether the reductions that it offers are in the order of ranks.
    fn deterministic(&self) -> bool;
    /// Whether it has an operation. It must have all_gather and all_to_all; on CUDA devices also what reduces.
    fn offers(&self, operation: Operation) -> bool;
    /// Runs or enqueues an operation that it offers.
    ///
    /// # Safety
    /// The memory of the call is as large as the operation says, and nothing else uses it until the work is done.
    unsafe fn call(&self, call: &HostCall) -> std::result::Result<(), HostFailure>;
    /// Gives the group up. Called once at most, from any thread, at any time.
    fn abort(&self);
}

/// Bytes of each of the two staging buffers of what is composed.
const STAGING: usize = 4 << 20;

const REDUCTIONS: [Operation; 3] = [Operation::AllReduce, Operation::Reduce, Operation::ReduceScatter];

pub(super) struct Host {
    rank: u32,
    world: u32,
    host: Arc<dyn HostCommunicator>,
    /// Parts for each rank, and parts of each rank; None when nothing is composed.
    staging: Exclusive<Option<[Block; 2]>>,
    failure: Mutex<Option<Error>>,
    is_aborted: AtomicBool,
    /// Whether a call has ended while the host may still write to its memory.
    is_unfinished: AtomicBool,
}

impl Host {
    pub(super) fn new(runtime: &Runtime, host: Arc<dyn HostCommunicator>) -> Result<Host> {
        let (rank, world) = (host.rank(), host.world());
        if rank >= world {
            return Err(Error::invalid("rank", format!("{rank} must be less than world, {world}")));
        }
        let required = [Operation::AllGather, Operation::AllToAll].into_iter();
        let on_device = REDUCTIONS.into_iter().filter(|_| runtime.device() == DeviceKind::Cuda);
        if let Some(missing) = required.chain(on_device).find(|operation| !host.offers(*operation)) {
            return Err(Error::invalid(missing.name(), "must not be NULL"));
        }
        let composed = [Operation::Broadcast, Operation::Barrier].into_iter().chain(REDUCTIONS);
        let staging = if composed.into_iter().all(|operation| host.offers(operation)) {
            None
        } else {
            let bytes = STAGING.max(world as usize * size_of::<u64>()) as u64;
            let block = || Block::new(runtime.memory(), Tier::Device, Purpose::Other, bytes, true);
            Some([block()?, block()?])
        };
        let staging = Exclusive::new("communicator", staging);
        Ok(Host {
            rank,
            world,
            host,
            staging,
            failure: Mutex::new(None),
            is_aborted: AtomicBool::new(false),
            is_unfinished: AtomicBool::new(false),
        })
    }

    /// Calls the host. After a failure it is not called again.
    ///
    /// # Safety
    /// As [`HostCommunicator::call`].
    unsafe fn call(&self, call: &HostCall) -> Result<()> {
        self.async_error()?;
        // SAFETY: the caller's promise.
        let Err(HostFailure { code, message }) = (unsafe { self.host.call(call) }) else { return Ok(()) };
        let status = if code == Status::Timeout as i32 { Status::Timeout } else { Status::CommError };
        if status == Status::Timeout || self.is_aborted.load(Ordering::Acquire) {
            self.is_unfinished.store(true, Ordering::Release);
        }
        let name = call.operation.name();
        let because = if message.is_empty() { format!("the host's {name} returned {code}") } else { message };
        let error =
            Error::new(status, format!("{name}: {because}")).with_native(NativeDomain::HostCallback, code.into());
        self.note(error.clone());
        Err(error)
    }

    fn note(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Runs an operation that the host offers.
    fn run(
        &self,
        queue: &Queue<'_>,
        operation: Operation,
        (input, output): (Option<View<'_>>, Option<View<'_>>),
        (n, dtype): (usize, DType),
        (reduction, peer): (Option<Reduction>, u32),
    ) -> Result<()> {
        let call = HostCall {
            operation,
            input: input.map_or(std::ptr::null(), |x| x.data().cast_const().cast()),
            output: output.map_or(std::ptr::null_mut(), |x| x.data().cast()),
            count: n as u64,
            dtype,
            reduction,
            peer,
            stream: queue.native().map_or(std::ptr::null_mut(), |native| native.handle()),
        };
        // SAFETY: the views have as many elements: checked arguments, or staging that is this call's alone.
        unsafe { self.call(&call) }
    }

    fn gather(&self, queue: &Queue<'_>, input: View<'_>, output: View<'_>) -> Result<()> {
        let elements = (input.numel(), input.dtype());
        self.run(queue, Operation::AllGather, (Some(input), Some(output)), elements, (None, 0))
    }

    fn exchange(&self, queue: &Queue<'_>, input: View<'_>, output: View<'_>) -> Result<()> {
        let elements = (input.numel() / self.world as usize, input.dtype());
        self.run(queue, Operation::AllToAll, (Some(input), Some(output)), elements, (None, 0))
    }

    /// Elements of each rank that staging holds.
    fn most(&self, dtype: DType) -> usize {
        STAGING.max(self.world as usize * size_of::<u64>()) / self.world as usize / dtype.size()
    }

    /// Part `rank` of every rank's parts of m elements, which stand in `sent`, becomes one in `output`.
    fn reduce_parts(
        &self,
        queue: &mut Queue<'_>,
        (sent, received): (View<'_>, View<'_>),
        m: usize,
        reduction: Reduction,
        output: View<'_>,
    ) -> Result<()> {
        self.exchange(queue, sent, received)?;
        let inputs: Vec<View<'_>> = (0..self.world as usize).map(|r| part(&received, r * m, m)).collect();
        queue.submit(&RankReduce { inputs: &inputs, reduction, outputs: &[output] })
    }

    /// The reduction of input goes to output, where it is given; in pieces that staging holds.
    fn compose_reduce(
        &self,
        queue: &mut Queue<'_>,
        input: View<'_>,
        output: Option<View<'_>>,
        reduction: Reduction,
    ) -> Result<()> {
        let staging = self.staging.take()?;
        let (dtype, world) = (input.dtype(), self.world as usize);
        for start in (0..input.numel()).step_by(self.most(dtype) * world) {
            let n = (input.numel() - start).min(self.most(dtype) * world);
            // The last part may be shorter: what follows it in staging is reduced too, for nothing.
            let m = n.div_ceil(world);
            let (sent, received) = staged(&staging, dtype, m * world)?;
            copy(queue, part(&sent, 0, n), part(&input, start, n))?;
            self.reduce_parts(queue, (sent, received), m, reduction, part(&sent, self.rank as usize * m, m))?;
            self.gather(queue, part(&sent, self.rank as usize * m, m), received)?;
            if let Some(output) = output {
                copy(queue, part(&output, start, n), part(&received, 0, n))?;
            }
        }
        Ok(())
    }

    fn compose_reduce_scatter(
        &self,
        queue: &mut Queue<'_>,
        input: View<'_>,
        output: View<'_>,
        reduction: Reduction,
    ) -> Result<()> {
        let staging = self.staging.take()?;
        let (dtype, n, world) = (input.dtype(), output.numel(), self.world as usize);
        for start in (0..n).step_by(self.most(dtype)) {
            let m = (n - start).min(self.most(dtype));
            let (sent, received) = staged(&staging, dtype, m * world)?;
            for rank in 0..world {
                copy(queue, part(&sent, rank * m, m), part(&input, rank * n + start, m))?;
            }
            self.reduce_parts(queue, (sent, received), m, reduction, part(&output, start, m))?;
        }
        Ok(())
    }

    fn compose_broadcast(&self, queue: &mut Queue<'_>, x: View<'_>, root: u32) -> Result<()> {
        let staging = self.staging.take()?;
        let (dtype, n, world) = (x.dtype(), x.numel(), self.world as usize);
        for start in (0..n).step_by(self.most(dtype)) {
            let m = (n - start).min(self.most(dtype));
            let (_, received) = staged(&staging, dtype, m * world)?;
            self.gather(queue, part(&x, start, m), received)?;
            if self.rank != root {
                copy(queue, part(&x, start, m), part(&received, root as usize * m, m))?;
            }
        }
        Ok(())
    }

    fn expect_offered(&self, operation: Operation) -> Result<()> {
        if self.host.offers(operation) {
            return Ok(());
        }
        let message = format!("{0}: the host's communicator has no {0}", operation.name());
        Err(Error::new(Status::Unavailable, message))
    }
}

/// n elements of a view of one dimension, from `start` on.
fn part<'a>(x: &View<'a>, start: usize, n: usize) -> View<'a> {
    assert!(start + n <= x.numel(), "a part of a view");
    let data = x.data().wrapping_add(start * x.dtype().size());
    // SAFETY: inside of x, for as long.
    unsafe { View::new("part", data, x.dtype(), &[n], &[1]) }.expect("a part of a good view is one")
}

/// n elements of each staging buffer.
fn staged(staging: &Option<[Block; 2]>, dtype: DType, n: usize) -> Result<(View<'_>, View<'_>)> {
    let blocks = staging.as_ref().expect("there is staging where something is composed");
    let view = |block: &Block| -> Result<View<'_>> {
        assert!(n * dtype.size() <= block.bytes(), "staging holds every piece");
        // SAFETY: the block has the elements, and whoever has taken the staging uses it alone.
        Ok(unsafe { View::new("staging", block.data().as_ptr(), dtype, &[n], &[1])? })
    };
    Ok((view(&blocks[0])?, view(&blocks[1])?))
}

fn copy(queue: &mut Queue<'_>, to: View<'_>, from: View<'_>) -> Result<()> {
    assert_eq!(to.numel(), from.numel());
    // SAFETY: as many elements of one dtype, of a tensor and of staging, which are apart.
    unsafe { queue.copy(to.data(), from.data(), from.numel() * from.dtype().size()) }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.may_use_memory() {
            std::mem::forget(std::mem::replace(&mut self.staging, Exclusive::new("communicator", None)));
        }
    }
}

impl Communicator for Host {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn world(&self) -> u32 {
        self.world
    }

    fn deterministic(&self) -> bool {
        self.host.deterministic() || REDUCTIONS.iter().all(|operation| !self.host.offers(*operation))
    }

    fn all_reduce(&self, queue: &mut Queue<'_>, x: View<'_>, reduction: Reduction) -> Result<()> {
        if !self.host.offers(Operation::AllReduce) {
            return self.compose_reduce(queue, x, Some(x), reduction);
        }
        let elements = (x.numel(), x.dtype());
        self.run(queue, Operation::AllReduce, (Some(x), Some(x)), elements, (Some(reduction), 0))
    }

    fn reduce(
        &self,
        queue: &mut Queue<'_>,
        input: View<'_>,
        output: Option<View<'_>>,
        reduction: Reduction,
        root: u32,
    ) -> Result<()> {
        if !self.host.offers(Operation::Reduce) {
            return self.compose_reduce(queue, input, output, reduction);
        }
        let elements = (input.numel(), input.dtype());
        self.run(queue, Operation::Reduce, (Some(input), output), elements, (Some(reduction), root))
    }

    fn reduce_scatter(
        &self,
        queue: &mut Queue<'_>,
        input: View<'_>,
        output: View<'_>,
        reduction: Reduction,
    ) -> Result<()> {
        if !self.host.offers(Operation::ReduceScatter) {
            return self.compose_reduce_scatter(queue, input, output, reduction);
        }
        let elements = (output.numel(), input.dtype());
        self.run(queue, Operation::ReduceScatter, (Some(input), Some(output)), elements, (Some(reduction), 0))
    }

    fn all_gather(&self, queue: &mut Queue<'_>, input: View<'_>, output: View<'_>) -> Result<()> {
        self.gather(queue, input, output)
    }

    fn broadcast(&self, queue: &mut Queue<'_>, x: View<'_>, root: u32) -> Result<()> {
        if !self.host.offers(Operation::Broadcast) {
            return self.compose_broadcast(queue, x, root);
        }
        self.run(queue, Operation::Broadcast, (Some(x), Some(x)), (x.numel(), x.dtype()), (None, root))
    }

    fn all_to_all(&self, queue: &mut Queue<'_>, input: View<'_>, output: View<'_>) -> Result<()> {
        self.exchange(queue, input, output)
    }

    fn send(&self, queue: &mut Queue<'_>, x: View<'_>, to: u32) -> Result<()> {
        self.expect_offered(Operation::Send)?;
        self.run(queue, Operation::Send, (Some(x), None), (x.numel(), x.dtype()), (None, to))
    }

    fn receive(&self, queue: &mut Queue<'_>, x: View<'_>, from: u32) -> Result<()> {
        self.expect_offered(Operation::Receive)?;
        self.run(queue, Operation::Receive, (None, Some(x)), (x.numel(), x.dtype()), (None, from))
    }

    fn barrier(&self, queue: &mut Queue<'_>) -> Result<()> {
        if self.host.offers(Operation::Barrier) {
            return self.run(queue, Operation::Barrier, (None, None), (0, DType::I64), (None, 0));
        }
        let staging = self.staging.take()?;
        let (sent, received) = staged(&staging, DType::I64, self.world as usize)?;
        self.gather(queue, part(&sent, 0, 1), received)
    }

    fn may_use_memory(&self) -> bool {
        self.is_unfinished.load(Ordering::Acquire)
    }

    fn abort(&self) {
        let error = Error::new(Status::CommError, format!("rank {} has aborted the group", self.rank));
        self.note(error);
        if !self.is_aborted.swap(true, Ordering::AcqRel) {
            self.host.abort();
        }
    }

    fn async_error(&self) -> Result<()> {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(first) => {
                let message = format!("the group has failed: {}: {}", first.status, first.message);
                Err(Error { message, status: Status::CommError, native: first.native })
            }
        }
    }
}
