//! The training state: parameters in the dtype that the model reads, f32 master weights, optimizer moments and
//! gradient accumulators, and the step over all of them.
//!
//! ```text
//! new, add_group, add_parameter ..., seal
//! begin_step -> { begin_micro -> gradient_ready for each parameter -> end_micro } any number of times -> step
//!               -> step_result_wait (when the figures are wanted); abandon_step gives a begun step up
//! ```
//!
//! A call out of this order is `FAILED_PRECONDITION` and changes nothing.
//!
//! With a communicator the state is one of a group of ranks, which train one model: gradients are summed over them, and
//! each keeps its [`Stage`]'s share of the state. `exchange.rs` is the memory through which that goes, `reduction.rs` how
//! gradients take it, `residency.rs` how weights do.

mod agreement;
mod decision;
mod exchange;
mod group;
mod lane;
mod machine;
mod parameter;
mod reduction;
mod residency;
mod step;
mod storage;

pub use group::{GroupDesc, MasterFormat, MomentFormat};
pub use parameter::{ParameterInfo, Part};
pub use step::{StepDesc, StepResult};

use crate::comm::{Comm, Communicator};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::exclusive::Exclusive;
use crate::log::LogLevel;
use crate::memory::{Block, Charge, MemoryReport, Tier};
use crate::readback::Readback;
use crate::runtime::Runtime;
use crate::shard::Stage;
use crate::shard::layout;
use crate::stream::{Queue, Stream};
use decision::Decision;
use exchange::Exchange;
use group::Group;
use lane::Lane;
use machine::{Machine, Refusal};
use parameter::Parameter;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::step_control::Restart;
use scalert_kernels::view::MAX_DIMS;
use std::collections::HashSet;
use std::ffi::CStr;
use std::sync::{Arc, MutexGuard};
use step::Outcome;

/// When gradients are summed over the ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum GradientReduction {
    /// At each micro-batch where the communicator is deterministic, so that all stages have the same bits; else as late as
    /// the stage allows.
    #[default]
    Auto = 0,
    /// Those of each micro-batch, which are then added up.
    EachMicro = 1,
    /// Those of all micro-batches, added up on each rank; stages 0 and 1.
    AtStep = 2,
}

/// How a state is made.
#[derive(Clone, Copy, Default)]
pub struct StateDesc<'a> {
    /// Of gradient accumulators, F32 or BF16; None = F32.
    pub gradient_dtype: Option<DType>,
    /// The ranks that train one model; None = this one alone.
    pub comm: Option<&'a Comm>,
    /// What they divide among them.
    pub stage: Stage,
    /// When gradients are summed over them.
    pub gradient_reduction: GradientReduction,
    /// Of gradients on their way to that, F32 or BF16, which halves what goes between ranks; None = F32. Sums are in f32,
    /// rounded once.
    pub reduction_dtype: Option<DType>,
    /// Memory in which gradients wait for that; 0 = 16 MiB, or less where all gradients are less.
    pub bucket_bytes: u64,
    /// Stage 3: memory for weights in use; 0 = all of them up to 16 MiB, or twice the largest if that is more.
    pub gather_bytes: u64,
    /// Whether what goes between ranks goes while the host goes on: on the CPU device on a thread of the state, on a CUDA
    /// device on a stream of its own. There are then two buckets.
    pub overlap: bool,
}

/// This rank among those that share the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sharding {
    stage: Stage,
    rank: u32,
    world: u32,
}

/// The training state.
pub struct State {
    inner: Exclusive<Inner>,
    runtime: Runtime,
}

struct Inner {
    /// Where what goes between ranks is done; from seal on.
    lane: Option<Lane>,
    machine: Machine,
    groups: Vec<Group>,
    parameters: Vec<Parameter>,
    names: HashSet<Arc<CStr>>,
    /// None where there is one rank.
    comm: Option<Comm>,
    sharding: Sharding,
    gradient_dtype: DType,
    /// Whether gradients are summed over ranks at each micro-batch.
    each_micro: bool,
    reduction_dtype: DType,
    bucket_bytes: u64,
    gather_bytes: u64,
    overlap: bool,
    /// Where steps are decided; from seal on.
    decision: Option<Decision>,
    /// What goes from rank to rank goes through it; from seal on.
    exchange: Exchange,
    /// The number of steps taken, as the host last set it.
    restart: Restart,
    /// Whether the decision's memory has nothing yet that an earlier step left there.
    cleared: bool,
    outcome: Outcome,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What goes between ranks ends before the memory that it uses.
        self.lane = None;
        if self.ranks().is_some_and(Communicator::may_use_memory) {
            std::mem::forget((
                std::mem::take(&mut self.groups),
                std::mem::take(&mut self.exchange),
                self.decision.take(),
            ));
        }
    }
}

impl Inner {
    /// All that seal takes, in order: of the device the groups' blocks, the decision's and the exchange's, then of host
    /// memory.
    fn charges(&self, host: Tier) -> [(Tier, Vec<Charge>); 2] {
        let device = self.groups.iter().flat_map(Group::charges);
        let device = device.chain([Decision::device_charge(self.sharding.world as usize)]);
        let device = device.chain(self.exchange_plan().charges());
        [(Tier::Device, device.collect()), (host, Decision::host_charges(self.parameters.len()))]
    }

    /// Puts a refusal into words.
    fn refuse(&self, refusal: Refusal) -> Error {
        Error::precondition(match refusal {
            Refusal::Order(why) => why.to_owned(),
            Refusal::Parameter(i, why) => format!("parameter {i} '{}' {why}", self.parameters[i].name()),
        })
    }

    fn index(&self, parameter: u32) -> Result<usize> {
        let count = self.parameters.len();
        if (parameter as usize) < count {
            return Ok(parameter as usize);
        }
        Err(Error::invalid("parameter", format!("{parameter} must be below the number of parameters, {count}")))
    }

    fn group_of(&self, parameter: usize) -> &Group {
        &self.groups[self.parameters[parameter].info.group as usize]
    }

    /// The other ranks, where there are any.
    fn ranks(&self) -> Option<&dyn Communicator> {
        self.comm.as_ref().map(Comm::communicator)
    }

    /// Later work in `queue` comes after all that has been given to go between ranks.
    fn drain(&self, queue: &mut Queue<'_>) -> Result<()> {
        self.lane.as_ref().map_or(Ok(()), |lane| lane.drain(queue))
    }

    /// The groups that are trained, with their numbers.
    fn trained(&self) -> impl Iterator<Item = (usize, &Group)> {
        self.groups.iter().enumerate().filter(|(_, group)| !group.desc.frozen)
    }

    fn decision(&self) -> &Decision {
        self.decision.as_ref().expect("the machine lets no one here before seal")
    }
}

impl State {
    /// An empty state. Takes no memory of the ledger before [`State::seal`].
    pub fn new(runtime: &Runtime, desc: &StateDesc<'_>) -> Result<State> {
        let gradient_dtype = desc.gradient_dtype.unwrap_or(DType::F32);
        if ![DType::F32, DType::BF16].contains(&gradient_dtype) {
            return Err(Error::invalid("gradient_dtype", format!("{gradient_dtype} must be f32 or bf16")));
        }
        if let Some(comm) = desc.comm
            && !comm.runtime().is(runtime)
        {
            return Err(Error::invalid("comm", "must belong to the runtime of the state"));
        }
        if desc.gradient_reduction == GradientReduction::AtStep && desc.stage >= Stage::Gradients {
            let stage = desc.stage as i32;
            return Err(Error::invalid("gradient_reduction", format!("AT_STEP must be of stage 0 or 1, not {stage}")));
        }
        let reduction_dtype = desc.reduction_dtype.unwrap_or(DType::F32);
        if ![DType::F32, DType::BF16].contains(&reduction_dtype) {
            return Err(Error::invalid("reduction_dtype", format!("{reduction_dtype} must be f32 or bf16")));
        }
        if (1..exchange::LEAST_BUCKET_BYTES).contains(&desc.bucket_bytes) {
            let (bytes, least) = (desc.bucket_bytes, exchange::LEAST_BUCKET_BYTES);
            return Err(Error::invalid("bucket_bytes", format!("{bytes} must be 0 or at least {least}")));
        }
        let comm = desc.comm.filter(|comm| comm.communicator().world() > 1).cloned();
        let (rank, world) =
            comm.as_ref().map_or((0, 1), |comm| (comm.communicator().rank(), comm.communicator().world()));
        let deterministic = comm.as_ref().is_some_and(|comm| comm.communicator().deterministic());
        let each_micro = match desc.gradient_reduction {
            GradientReduction::Auto => {
                deterministic || desc.stage >= Stage::Gradients || desc.reduction_dtype.is_some()
            }
            GradientReduction::EachMicro => true,
            GradientReduction::AtStep => false,
        };
        if !each_micro && desc.reduction_dtype.is_some() {
            let dtype = format!("{reduction_dtype} is of gradients summed at each micro-batch, not of AT_STEP");
            return Err(Error::invalid("reduction_dtype", dtype));
        }
        let inner = Inner {
            lane: None,
            machine: Machine::new(),
            groups: Vec::new(),
            parameters: Vec::new(),
            names: HashSet::new(),
            sharding: Sharding { stage: desc.stage, rank, world },
            each_micro,
            reduction_dtype,
            comm,
            gradient_dtype,
            bucket_bytes: desc.bucket_bytes,
            gather_bytes: desc.gather_bytes,
            overlap: desc.overlap,
            exchange: Exchange::default(),
            decision: None,
            restart: Restart::default(),
            cleared: false,
            outcome: Outcome::None,
        };
        Ok(State { inner: Exclusive::new("state", inner), runtime: runtime.clone() })
    }

    /// The runtime that it belongs to.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn take(&self) -> Result<MutexGuard<'_, Inner>> {
        self.inner.take()
    }

    /// Takes a stream of this runtime.
    fn begin<'a>(&self, stream: &'a Stream) -> Result<Queue<'a>> {
        if !stream.runtime().is(&self.runtime) {
            return Err(Error::invalid("stream", "must belong to the runtime of the state"));
        }
        stream.begin()
    }

    /// Adds a group and gives its number. Before seal.
    pub fn add_group(&self, desc: &GroupDesc) -> Result<u32> {
        let mut inner = self.take()?;
        inner.machine.can_build().map_err(|r| inner.refuse(r))?;
        desc.check()?;
        let number = inner.groups.len() as u32;
        let group = Group::new(number, *desc, inner.sharding, inner.gradient_dtype);
        inner.groups.push(group);
        Ok(number)
    }

    /// Adds a parameter and gives its number over all groups. The name is unique, UTF-8 and not empty. Before seal.
    pub fn add_parameter(&self, group: u32, name: &CStr, shape: &[i64]) -> Result<u32> {
        let mut inner = self.take()?;
        inner.machine.can_build().map_err(|r| inner.refuse(r))?;
        if group as usize >= inner.groups.len() {
            let groups = inner.groups.len();
            return Err(Error::invalid("group", format!("{group} must be below the number of groups, {groups}")));
        }
        if name.is_empty() || name.to_str().is_err() {
            return Err(Error::invalid("name", format!("{name:?} must be UTF-8 and not empty")));
        }
        if inner.names.contains(name) {
            return Err(Error::invalid("name", format!("{name:?} is taken; names must be unique")));
        }
        if shape.len() > MAX_DIMS {
            return Err(Error::invalid("ndim", format!("{} must be 0 to {MAX_DIMS}", shape.len())));
        }
        let refused = || Error::invalid("shape", format!("{shape:?} must have no negative extent and fit memory"));
        let shape: Vec<usize> =
            shape.iter().map(|extent| usize::try_from(*extent).ok()).collect::<Option<_>>().ok_or_else(refused)?;
        let number = u32::try_from(inner.parameters.len()).ok().filter(|n| *n < u32::MAX);
        let number = number.ok_or_else(|| Error::precondition("the state has too many parameters"))?;
        let range = layout::numel(&shape)
            .and_then(|numel| inner.groups[group as usize].layout.push(numel))
            .ok_or_else(refused)?;
        let dtype = inner.groups[group as usize].desc.weight_dtype();
        let name: Arc<CStr> = Arc::from(name);
        inner.names.insert(Arc::clone(&name));
        inner.parameters.push(Parameter::new(ParameterInfo { name, group, dtype, shape }, range));
        Ok(number)
    }

    /// Exact bytes per tier that the state takes on this rank: what seal will take before it, what is held after it.
    pub fn memory(&self) -> Result<MemoryReport> {
        Ok(MemoryReport::of(&self.take()?.charges(Readback::tier(&self.runtime))))
    }

    /// Fixes the layout and allocates; all weights and moments are zero. A failure leaves the state as it was. All ranks
    /// call it, and it fails on all if it fails on one or if they have not added the same groups and parameters.
    pub fn seal(&self) -> Result<()> {
        let mut inner = self.take()?;
        inner.machine.can_build().map_err(|r| inner.refuse(r))?;
        let [(_, charges), (host, host_charges)] = inner.charges(Readback::tier(&self.runtime));
        let copied = Event::new(&self.runtime)?;
        let (lane, blocks, host_blocks) = self.agree(&inner, || {
            let memory = self.runtime.memory();
            let lane = inner.comm.as_ref().map(|comm| Lane::new(&self.runtime, comm, inner.overlap)).transpose()?;
            let blocks = Block::new_all(memory, Tier::Device, &charges, true)?;
            Ok((lane, blocks, Block::new_all(memory, host, &host_charges, true)?))
        })?;
        let mut blocks = blocks.into_iter();
        let host_blocks: [Block; 2] = host_blocks.try_into().ok().expect("one block for each charge");
        let world = inner.sharding.world as usize;
        let plan = inner.exchange_plan();
        let Inner { groups, parameters, decision, exchange, machine, .. } = &mut *inner;
        groups.iter_mut().for_each(|group| group.seal(&mut blocks));
        let words = blocks.next().expect("one block for each charge");
        *decision = Some(Decision::new(words, world, host_blocks, copied, groups, parameters));
        *exchange = Exchange::new(&plan, groups.len(), parameters.len(), &mut blocks);
        machine.seal(parameters.iter().map(|parameter| groups[parameter.info.group as usize].desc.frozen));
        let parameters = parameters.len();
        inner.lane = lane;
        self.runtime.log().write(LogLevel::Info, || {
            let bytes: u64 = charges.iter().map(|c| c.bytes).sum();
            format!("state of {parameters} parameters sealed: {bytes} bytes of {}", Tier::Device)
        });
        Ok(())
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> Result<u32> {
        Ok(self.take()?.parameters.len() as u32)
    }

    /// What a parameter is.
    pub fn parameter_info(&self, parameter: u32) -> Result<ParameterInfo> {
        let inner = self.take()?;
        Ok(inner.parameters[inner.index(parameter)?].info.clone())
    }

    /// Sets the number of steps taken, which bias corrections and momentum depend on. Outside of a step. The next call of
    /// [`State::step`] takes it to the device; graphs that were captured before it do not know of it.
    pub fn set_step(&self, step: u64) -> Result<()> {
        let mut inner = self.take()?;
        inner.machine.can_change().map_err(|r| inner.refuse(r))?;
        inner.restart = Restart { number: inner.restart.number + 1, step };
        Ok(())
    }
}
