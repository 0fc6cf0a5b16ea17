//! A rank's communicator as hosts and training states hold it: arguments are checked here.

use super::call::Tag;
use super::checked::Checked;
use super::host::{Host, HostCommunicator};
use super::local::Local;
use super::nccl::{self, Nccl};
use super::single::Single;
use super::{Communicator, Reduction};
use crate::device::DeviceKind;
use crate::error::{Error, Result};
use crate::runtime::Runtime;
use crate::stream::{Queue, Stream};
use scalert_kernels::view::View;
use std::sync::Arc;
use std::time::Duration;

/// How a communicator is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommDesc {
    /// Longest time that a rank waits for others; zero = [`CommDesc::TIMEOUT`].
    pub timeout: Duration,
    /// Whether ranks compare their calls before an operation touches data. Ranks of one process always do.
    pub checking: bool,
}

impl CommDesc {
    /// The timeout of a descriptor without one.
    pub const TIMEOUT: Duration = Duration::from_secs(600);

    fn timeout(&self) -> Duration {
        if self.timeout.is_zero() { CommDesc::TIMEOUT } else { self.timeout }
    }
}

/// A rank's member of a group. Clones are the same; the rank leaves its group with the last one.
///
/// One thread at a time calls operations, with a stream of its runtime; [`Comm::abort`] and the questions may come from any
/// thread at any time. A wrong argument is refused before the rank takes part; the other ranks then wait for it.
#[derive(Clone)]
pub struct Comm {
    communicator: Arc<dyn Communicator>,
    runtime: Runtime,
}

impl Comm {
    /// Most ranks of [`Comm::local`].
    pub const MOST_LOCAL: usize = 1024;

    /// A group of one rank, on any device: operations copy what they must.
    pub fn single(runtime: &Runtime) -> Comm {
        Comm { communicator: Arc::new(Single::default()), runtime: runtime.clone() }
    }

    /// A group of ranks that are threads of this process, each with a CPU runtime of its own: the communicators, in the order
    /// of the runtimes.
    ///
    /// Sums are in the order of ranks. Ranks compare their calls in any case. A rank that waits longer than the timeout for
    /// others gets `TIMEOUT`, which names them, and so do those who wait with it; then the group has failed, and every
    /// later call is `COMM_ERROR` with what came first. When the last clone of a rank's communicator is dropped, the
    /// others fail as soon as they need that rank. No rank returns from an operation while another still uses its memory.
    pub fn local(runtimes: &[Runtime], desc: &CommDesc) -> Result<Vec<Comm>> {
        Comm::check_local(runtimes.len())?;
        for (i, runtime) in runtimes.iter().enumerate() {
            if runtime.device() != DeviceKind::Cpu {
                return Err(Error::invalid("runtimes", format!("[{i}] must be of the CPU")));
            }
            if let Some(other) = runtimes[..i].iter().position(|other| other.is(runtime)) {
                return Err(Error::invalid("runtimes", format!("[{i}] must not be [{other}]: each rank has its own")));
            }
        }
        let group = Local::group(runtimes.len() as u32, desc.timeout());
        let comm =
            |(local, runtime): (Local, &Runtime)| Comm { communicator: Arc::new(local), runtime: runtime.clone() };
        Ok(group.into_iter().zip(runtimes).map(comm).collect())
    }

    /// Requires a number of ranks that [`Comm::local`] takes.
    pub fn check_local(world: usize) -> Result<()> {
        if (1..=Comm::MOST_LOCAL).contains(&world) {
            return Ok(());
        }
        Err(Error::invalid("world", format!("{world} must be 1 to {}", Comm::MOST_LOCAL)))
    }

    /// The host's own communicator. Waiting is the host's business.
    pub fn host(runtime: &Runtime, host: Arc<dyn HostCommunicator>, desc: &CommDesc) -> Result<Comm> {
        let host = Host::new(runtime, host)?;
        let communicator: Arc<dyn Communicator> =
            if desc.checking { Arc::new(Checked::new(host)) } else { Arc::new(host) };
        Ok(Comm { communicator, runtime: runtime.clone() })
    }

    /// A rank of NCCL, whose group has the ranks that were given the same id, one CUDA device each. Waits until all have come.
    ///
    /// `UNAVAILABLE` with the reason on a machine without NCCL 2.14 or newer, and for a runtime of the CPU. Sums are in an
    /// order of NCCL's, and so is what becomes of a NaN in a maximum.
    pub fn nccl(
        runtime: &Runtime,
        id: &[u8; nccl::UNIQUE_ID_BYTES],
        rank: u32,
        world: u32,
        desc: &CommDesc,
    ) -> Result<Comm> {
        let nccl = Nccl::new(runtime, id, (rank, world), desc.timeout())?;
        let communicator: Arc<dyn Communicator> =
            if desc.checking { Arc::new(Checked::new(nccl)) } else { Arc::new(nccl) };
        Ok(Comm { communicator, runtime: runtime.clone() })
    }

    /// The runtime of this rank.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// What operations run on, for callers that check their arguments.
    pub(crate) fn communicator(&self) -> &dyn Communicator {
        &*self.communicator
    }

    /// This rank: 0 to world - 1.
    pub fn rank(&self) -> u32 {
        self.communicator().rank()
    }

    /// The number of ranks.
    pub fn world(&self) -> u32 {
        self.communicator().world()
    }

    /// Whether sums are in the order of ranks, so that they have the same bits every time and however tensors are divided.
    pub fn is_deterministic(&self) -> bool {
        self.communicator().deterministic()
    }

    /// Names the calls of this rank from now on, where ranks compare their calls: the tags must be the same too. At most
    /// [`Tag::MOST_BYTES`] bytes; empty = none.
    pub fn set_tag(&self, tag: &str) -> Result<()> {
        self.communicator().set_tag(Tag::new(tag)?).map(|_| ())
    }

    /// x = the reduction of x over the ranks, on every rank. x: f32, bf16, f16 or i64, any shape, contiguous; means are of floats
    /// only.
    pub fn all_reduce(&self, stream: &Stream, x: View<'_>, reduction: Reduction) -> Result<()> {
        let x = self.given("x", &x)?;
        reduction.expect_dtype("x", &x)?;
        let queue = &mut self.begin(stream)?;
        let _watched = queue.watch("all_reduce", || (bytes(&x), None));
        self.communicator().all_reduce(queue, x, reduction)
    }

    /// output = the reduction of input over the ranks, on `root`, where it must be given; elsewhere it is not looked at. As many
    /// elements of the same dtype; it may be input itself. Dtypes as of [`Comm::all_reduce`].
    pub fn reduce(
        &self,
        stream: &Stream,
        input: View<'_>,
        output: Option<View<'_>>,
        reduction: Reduction,
        root: u32,
    ) -> Result<()> {
        let input = self.given("input", &input)?;
        reduction.expect_dtype("input", &input)?;
        self.expect_rank("root", root)?;
        let output = match output {
            _ if root != self.rank() => None,
            None => return Err(Error::invalid("output", "must be given on the root")),
            Some(output) => {
                let output = self.given("output", &output)?;
                output.expect_like("output", &input, "input")?;
                output.expect_same_or_apart("output", &input, "input")?;
                Some(output)
            }
        };
        let queue = &mut self.begin(stream)?;
        let _watched = queue.watch("reduce", || (bytes(&input), None));
        self.communicator().reduce(queue, input, output, reduction, root)
    }

    /// output \[n\] = part `rank` of the reduction of input \[world n\] over the ranks; it may be that part of input. Dtypes as of
    /// [`Comm::all_reduce`].
    pub fn reduce_scatter(
        &self,
        stream: &Stream,
        input: View<'_>,
        output: View<'_>,
        reduction: Reduction,
    ) -> Result<()> {
        let (input, output) = (self.given("input", &input)?, self.given("output", &output)?);
        reduction.expect_dtype("input", &input)?;
        self.expect_parts(("input", &input), ("output", &output))?;
        let queue = &mut self.begin(stream)?;
        let _watched = queue.watch("reduce_scatter", || (bytes(&input), None));
        self.communicator().reduce_scatter(queue, input, output, reduction)
    }

    /// output \[world n\] = the inputs \[n\] of the ranks, one behind the other; input may be its part of output. Any dtype.
    pub fn all_gather(&self, stream: &Stream, input: View<'_>, output: View<'_>) -> Result<()> {
        let (input, output) = (self.given("input", &input)?, self.given("output", &output)?);
        self.expect_parts(("output", &output), ("input", &input))?;
        let queue = &mut self.begin(stream)?;
        let _watched = queue.watch("all_gather", || (bytes(&output), None));
        self.communicator().all_gather(queue, input, output)
    }

    /// x = x of `root`. Any dtype.
    pub fn broadcast(&self, stream: &Stream, x: View<'_>, root: u32) -> Result<()> {
        let x = self.given("x", &x)?;
        self.expect_rank("root", root)?;
        let queue = &mut self.begin(stream)?;
        let _watched = queue.watch("broadcast", || (bytes(&x), None));
        self.communicator().broadcast(queue, x, root)
    }

    /// Part r of output \[world n\] = part `rank` of input \[world n\] of rank r. They share no memory. Any dtype.
    pub fn all_to_all(&self, stream: &Stream, input: View<'_>, output: View<'_>) -> Result<()> {
        let (input, output) = (self.given("input", &input)?, self.given("output", &output)?);
        let world = self.world() as usize;
        if !input.numel().is_multiple_of(world) {
            let must = format!("{} elements must be a multiple of {world}, the number of ranks", input.numel());
            return Err(Error::invalid("input", must));
        }
        output.expect_like("output", &input, "input")?;
        output.expect_apart("output", &input, "input")?;
        let queue = &mut self.begin(stream)?;
        let _watched = queue.watch("all_to_all", || (bytes(&input), None));
        self.communicator().all_to_all(queue, input, output)
    }

    /// Gives x to rank `to`, which receives it. May wait until it does: two ranks that both send first wait for ever, or until
    /// their time is out. Any dtype.
    pub fn send(&self, stream: &Stream, x: View<'_>, to: u32) -> Result<()> {
        let x = self.given("x", &x)?;
        self.expect_other("to", to)?;
        let queue = &mut self.begin(stream)?;
        let _watched = queue.watch("send", || (bytes(&x), None));
        self.communicator().send(queue, x, to)
    }

    /// x = what rank `from` sends: as many elements of the same dtype.
    pub fn receive(&self, stream: &Stream, x: View<'_>, from: u32) -> Result<()> {
        let x = self.given("x", &x)?;
        self.expect_other("from", from)?;
        let queue = &mut self.begin(stream)?;
        let _watched = queue.watch("receive", || (bytes(&x), None));
        self.communicator().receive(queue, x, from)
    }

    /// Holds later work of the stream back until every rank has come here.
    pub fn barrier(&self, stream: &Stream) -> Result<()> {
        let queue = &mut self.begin(stream)?;
        let _watched = queue.watch("barrier", || (0, None));
        self.communicator().barrier(queue)
    }

    /// Requires all ranks to have the same words: else `FAILED_PRECONDITION` on every rank, which names two ranks and what
    /// they have. Waits for the device.
    pub fn agree(&self, stream: &Stream, what: &str, words: &[u64]) -> Result<()> {
        self.communicator().agree(&mut self.begin(stream)?, what, words)
    }

    /// Gives the group up: operations in progress and later ones, of every rank that can be reached, fail with `COMM_ERROR`.
    pub fn abort(&self) {
        self.communicator().abort();
    }

    /// What has gone wrong in the group so far, if anything.
    pub fn async_error(&self) -> Result<()> {
        self.communicator().async_error()
    }

    fn begin<'a>(&self, stream: &'a Stream) -> Result<Queue<'a>> {
        if !stream.runtime().is(&self.runtime) {
            return Err(Error::invalid("stream", "must be of the communicator's runtime"));
        }
        stream.begin()
    }

    /// The argument as one row of elements.
    fn given<'a>(&self, argument: &'static str, x: &View<'a>) -> Result<View<'a>> {
        x.expect_contiguous(argument)?;
        self.runtime.expect_reachable(argument, x)?;
        // SAFETY: the same elements in the same order, for as long.
        Ok(unsafe { View::new(argument, x.data(), x.dtype(), &[x.numel()], &[1])? })
    }

    fn expect_rank(&self, argument: &str, rank: u32) -> Result<()> {
        let world = self.world();
        if rank < world {
            return Ok(());
        }
        Err(Error::invalid(argument, format!("{rank} must be a rank, 0 to {}", world - 1)))
    }

    fn expect_other(&self, argument: &str, rank: u32) -> Result<()> {
        self.expect_rank(argument, rank)?;
        if rank != self.rank() {
            return Ok(());
        }
        Err(Error::invalid(argument, format!("{rank} is this rank, it must be another one")))
    }

    /// Requires `whole` to have as many elements as `part` for each rank, and one to be apart from the other or the part of it
    /// that is this rank's.
    fn expect_parts(&self, whole: (&'static str, &View<'_>), part: (&'static str, &View<'_>)) -> Result<()> {
        let ((whole, all), (part, mine)) = (whole, part);
        let (world, n) = (self.world() as usize, mine.numel());
        if mine.dtype() != all.dtype() {
            let must = format!("dtype {} must be {}, the dtype of {whole}", mine.dtype(), all.dtype());
            return Err(Error::invalid(part, must));
        }
        if n.checked_mul(world) != Some(all.numel()) {
            let must = format!(
                "{n} elements must be {} / {world}: the elements of {whole} over the number of ranks",
                all.numel()
            );
            return Err(Error::invalid(part, must));
        }
        let own = all.data().wrapping_add(self.rank() as usize * n * all.dtype().size());
        if own != mine.data() {
            mine.expect_apart(part, all, whole).map_err(|_| {
                Error::invalid(part, format!("must be part {} of {whole} or not overlap it", self.rank()))
            })?;
        }
        Ok(())
    }
}

fn bytes(x: &View<'_>) -> u64 {
    (x.numel() * x.dtype().size()) as u64
}
