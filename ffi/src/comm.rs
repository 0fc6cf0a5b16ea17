//! Communicators, and the host's own behind a table of callbacks.

use crate::argument::{Argument, Array, Doomed, Enum, In, Live, Many, Out, OutHandle, Text, boolean};
use crate::handle::{Handle, Kind, OutHandles};
use crate::hooks::User;
use crate::tensor::{Tensor, TensorView};
use scalert_runtime::comm::host::{HostCall, HostCommunicator, HostFailure};
use scalert_runtime::comm::{Operation, Reduction, nccl};
use scalert_runtime::{Comm, CommDesc, Error, Runtime, Stream};
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

c_enum! {
    Reduction as "scalert_reduction_t" {
        SCALERT_REDUCE_SUM = 0 => Reduction::Sum,
        SCALERT_REDUCE_MAX = 1 => Reduction::Max,
        SCALERT_REDUCE_MEAN = 2 => Reduction::Mean,
    }
}

c_struct! {
    Desc as "scalert_comm_desc_t" {
        struct_size: usize,
        timeout_ms: u64,
        checking: u8,
    }
}

c_struct! {
    Call as "scalert_comm_call_t" {
        struct_size: usize,
        input: *const c_void,
        output: *mut c_void,
        count: u64,
        dtype: i32,
        reduction: i32,
        peer: u32,
        message_bytes: u32,
        message: *mut c_char,
        native_stream: *mut c_void,
    }
}

type Callback = unsafe extern "C" fn(*mut c_void, *const Call) -> i32;

c_struct! {
    Vtable as "scalert_comm_vtable_t" {
        struct_size: usize,
        user: *mut c_void,
        rank: u32,
        world: u32,
        deterministic: u8,
        all_gather: Option<Callback>,
        all_to_all: Option<Callback>,
        all_reduce: Option<Callback>,
        reduce: Option<Callback>,
        reduce_scatter: Option<Callback>,
        broadcast: Option<Callback>,
        send: Option<Callback>,
        receive: Option<Callback>,
        barrier: Option<Callback>,
        abort: Option<unsafe extern "C" fn(*mut c_void)>,
        release: Option<unsafe extern "C" fn(*mut c_void)>,
    }
}

impl Kind for Comm {
    const MAGIC: u64 = u64::from_le_bytes(*b"rtCOMM..");
    const NAME: &'static str = "comm";
}

fn described(desc: &Desc) -> Result<CommDesc, Error> {
    Ok(CommDesc { timeout: Duration::from_millis(desc.timeout_ms), checking: boolean("checking", desc.checking)? })
}

struct HostTable {
    user: User,
    rank: u32,
    world: u32,
    deterministic: bool,
    callbacks: [Option<Callback>; 9],
    abort: Option<unsafe extern "C" fn(*mut c_void)>,
    /// Set once there is a communicator.
    release: OnceLock<Option<unsafe extern "C" fn(*mut c_void)>>,
}

impl HostTable {
    fn new(table: &Vtable) -> Result<HostTable, Error> {
        let mut callbacks = [None; 9];
        for (operation, callback) in [
            (Operation::AllReduce, table.all_reduce),
            (Operation::Reduce, table.reduce),
            (Operation::ReduceScatter, table.reduce_scatter),
            (Operation::AllGather, table.all_gather),
            (Operation::Broadcast, table.broadcast),
            (Operation::AllToAll, table.all_to_all),
            (Operation::Send, table.send),
            (Operation::Receive, table.receive),
            (Operation::Barrier, table.barrier),
        ] {
            callbacks[operation as usize] = callback;
        }
        Ok(HostTable {
            user: User(table.user),
            rank: table.rank,
            world: table.world,
            deterministic: boolean("deterministic", table.deterministic)?,
            callbacks,
            abort: table.abort,
            release: OnceLock::new(),
        })
    }
}

impl HostCommunicator for HostTable {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn world(&self) -> u32 {
        self.world
    }

    fn deterministic(&self) -> bool {
        self.deterministic
    }

    fn offers(&self, operation: Operation) -> bool {
        self.callbacks[operation as usize].is_some()
    }

    unsafe fn call(&self, call: &HostCall) -> Result<(), HostFailure> {
        let Some(callback) = self.callbacks[call.operation as usize] else {
            return Err(HostFailure { code: -1, message: "there is no such callback".into() });
        };
        let mut message = [0 as c_char; 512];
        let request = Call {
            struct_size: size_of::<Call>(),
            input: call.input,
            output: call.output,
            count: call.count,
            dtype: call.dtype as i32,
            reduction: call.reduction.map_or(0, |reduction| reduction as i32),
            peer: call.peer,
            // The last byte stays zero, whatever the host writes.
            message_bytes: message.len() as u32 - 1,
            message: message.as_mut_ptr(),
            native_stream: call.stream,
        };
        // SAFETY: the host's callback, called as the header says, with memory that the caller promised.
        let code = unsafe { callback(self.user.0, &request) };
        if code == 0 {
            return Ok(());
        }
        // SAFETY: its last byte is zero.
        let message = unsafe { CStr::from_ptr(message.as_ptr()) };
        Err(HostFailure { code, message: message.to_string_lossy().into_owned() })
    }

    fn abort(&self) {
        if let Some(abort) = self.abort {
            // SAFETY: the host's callback, called as the header says.
            unsafe { abort(self.user.0) };
        }
    }
}

impl Drop for HostTable {
    fn drop(&mut self) {
        if let Some(Some(release)) = self.release.get() {
            // SAFETY: the host's callback, called as the header says, when nothing uses the table any more.
            unsafe { release(self.user.0) };
        }
    }
}

export! {
    /// A group of one rank.
    fn scalert_comm_create_single(runtime: Live<Runtime>, out: OutHandle<Comm>) {
        out.give(Comm::single(runtime));
        Ok(())
    }

    /// A group of ranks that are threads of this process.
    fn scalert_comm_create_local(
        runtimes: Many<*const Handle<Runtime>>,
        world: u32,
        desc: In<Desc>,
        comms: OutHandles<Comm>,
    ) {
        Comm::check_local(world as usize)?;
        let mut ranks = Vec::new();
        for runtime in runtimes.first(world as usize)? {
            // SAFETY: the header asks the caller for handles of runtimes.
            ranks.push(unsafe { Live::<Runtime>::accept("runtimes", *runtime) }?.clone());
        }
        comms.give(Comm::local(&ranks, &described(&desc)?)?);
        Ok(())
    }

    /// The host's own communicator.
    fn scalert_comm_create_from_vtable(
        runtime: Live<Runtime>,
        vtable: In<Vtable>,
        desc: In<Desc>,
        out: OutHandle<Comm>,
    ) {
        let desc = described(&desc)?;
        let host = Arc::new(HostTable::new(&vtable)?);
        let comm = Comm::host(runtime, Arc::<HostTable>::clone(&host), &desc)?;
        // Only now does the table belong to a communicator, and not to the host.
        let _ = host.release.set(vtable.release);
        out.give(comm);
        Ok(())
    }

    /// An id for the ranks of a group of NCCL.
    fn scalert_comm_nccl_id(id: Out<[u8; nccl::UNIQUE_ID_BYTES]>) {
        id.write(nccl::unique_id()?);
        Ok(())
    }

    /// A rank of NCCL.
    fn scalert_comm_create_nccl(
        runtime: Live<Runtime>,
        id: Array<u8, { nccl::UNIQUE_ID_BYTES }>,
        rank: u32,
        world: u32,
        desc: In<Desc>,
        out: OutHandle<Comm>,
    ) {
        out.give(Comm::nccl(runtime, id, rank, world, &described(&desc)?)?);
        Ok(())
    }

    /// Leaves the group.
    fn scalert_comm_destroy(comm: Doomed<Comm>) -> (), else (); {
        drop(comm);
        Ok(())
    }

    /// This rank.
    fn scalert_comm_rank(comm: Live<Comm>, rank: Out<u32>) {
        rank.write(comm.rank());
        Ok(())
    }

    /// The number of ranks.
    fn scalert_comm_world(comm: Live<Comm>, world: Out<u32>) {
        world.write(comm.world());
        Ok(())
    }

    /// Whether sums are in the order of ranks.
    fn scalert_comm_deterministic(comm: Live<Comm>, deterministic: Out<u8>) {
        deterministic.write(comm.is_deterministic() as u8);
        Ok(())
    }

    /// Names the calls of this rank.
    fn scalert_comm_set_tag(comm: Live<Comm>, tag: Text) {
        let tag = tag.to_str().map_err(|_| Error::invalid("tag", "must be UTF-8"))?;
        comm.set_tag(tag)
    }

    /// Every rank gets the reduction.
    fn scalert_comm_all_reduce(comm: Live<Comm>, stream: Live<Stream>, x: TensorView, reduction: Enum<Reduction>) {
        comm.all_reduce(stream, x, reduction)
    }

    /// The root gets the reduction.
    fn scalert_comm_reduce(
        comm: Live<Comm>,
        stream: Live<Stream>,
        input: TensorView,
        output: AtRoot,
        reduction: Enum<Reduction>,
        root: u32,
    ) {
        let output = if root == comm.rank() { output.view()? } else { None };
        comm.reduce(stream, input, output, reduction, root)
    }

    /// Every rank gets its part of the reduction.
    fn scalert_comm_reduce_scatter(
        comm: Live<Comm>,
        stream: Live<Stream>,
        input: TensorView,
        output: TensorView,
        reduction: Enum<Reduction>,
    ) {
        comm.reduce_scatter(stream, input, output, reduction)
    }

    /// Every rank gets what all have.
    fn scalert_comm_all_gather(comm: Live<Comm>, stream: Live<Stream>, input: TensorView, output: TensorView) {
        comm.all_gather(stream, input, output)
    }

    /// Every rank gets what the root has.
    fn scalert_comm_broadcast(comm: Live<Comm>, stream: Live<Stream>, x: TensorView, root: u32) {
        comm.broadcast(stream, x, root)
    }

    /// Every rank gets a part of what each has.
    fn scalert_comm_all_to_all(comm: Live<Comm>, stream: Live<Stream>, input: TensorView, output: TensorView) {
        comm.all_to_all(stream, input, output)
    }

    /// Gives a tensor to another rank.
    fn scalert_comm_send(comm: Live<Comm>, stream: Live<Stream>, x: TensorView, to: u32) {
        comm.send(stream, x, to)
    }

    /// Gets a tensor of another rank.
    fn scalert_comm_receive(comm: Live<Comm>, stream: Live<Stream>, x: TensorView, from: u32) {
        comm.receive(stream, x, from)
    }

    /// Waits for every rank.
    fn scalert_comm_barrier(comm: Live<Comm>, stream: Live<Stream>) {
        comm.barrier(stream)
    }

    /// Requires the same words of every rank.
    fn scalert_comm_agree(comm: Live<Comm>, stream: Live<Stream>, what: Text, words: Many<u64>, count: u64) {
        let fits = usize::try_from(count).ok().filter(|n| *n <= isize::MAX as usize / size_of::<u64>());
        let count = fits.ok_or_else(|| Error::invalid("count", format_args!("{count} words exceed the address space")))?;
        comm.agree(stream, &what.to_string_lossy(), words.first(count)?)
    }

    /// Gives the group up.
    fn scalert_comm_abort(comm: Live<Comm>) {
        comm.abort();
        Ok(())
    }

    /// What has gone wrong.
    fn scalert_comm_async_error(comm: Live<Comm>) {
        comm.async_error()
    }
}

/// A tensor argument that only the root looks at.
pub enum AtRoot {}

/// What was given for an [`AtRoot`].
pub struct Given(*const Tensor);

impl Given {
    fn view<'a>(&self) -> Result<Option<scalert_runtime::View<'a>>, Error> {
        // SAFETY: the header asks the root for NULL or a tensor.
        unsafe { crate::tensor::optional_view("output", self.0) }
    }
}

impl Argument for AtRoot {
    type Raw = *const Tensor;
    type Value<'a> = Given;
    unsafe fn accept<'a>(_: &'static str, raw: *const Tensor) -> Result<Self::Value<'a>, Error> {
        Ok(Given(raw))
    }
}
