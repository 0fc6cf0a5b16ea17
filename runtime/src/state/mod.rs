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

mod decision;
mod group;
mod layout;
mod machine;
mod parameter;
mod step;

pub use group::GroupDesc;
pub use parameter::{ParameterInfo, Part};
pub use step::{StepDesc, StepResult};

use crate::error::{Error, Result};
use crate::event::Event;
use crate::exclusive::Exclusive;
use crate::log::LogLevel;
use crate::memory::{Block, Charge, MemoryReport, Tier};
use crate::readback::Readback;
use crate::runtime::Runtime;
use crate::stream::{Queue, Stream};
use decision::Decision;
use group::Group;
use machine::{Machine, Refusal};
use parameter::Parameter;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::cast::{Cast, Rounding};
use scalert_kernels::ops::fill::Fill;
use scalert_kernels::ops::step_control::Restart;
use scalert_kernels::ops::write_back::WriteBack;
use scalert_kernels::view::{MAX_DIMS, View};
use std::collections::HashSet;
use std::ffi::CStr;
use std::sync::{Arc, MutexGuard};
use step::Outcome;

/// How a state is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateDesc {
    /// Of accumulation; None = F32, the only one so far.
    pub gradient_dtype: Option<DType>,
}

/// The training state.
pub struct State {
    inner: Exclusive<Inner>,
    runtime: Runtime,
}

struct Inner {
    machine: Machine,
    groups: Vec<Group>,
    parameters: Vec<Parameter>,
    names: HashSet<Arc<CStr>>,
    /// Where steps are decided; from seal on.
    decision: Option<Decision>,
    /// The number of steps taken, as the host last set it.
    restart: Restart,
    /// Whether the decision's memory has nothing yet that an earlier step left there.
    cleared: bool,
    outcome: Outcome,
}

impl Inner {
    /// All that seal takes, in order: of the device the groups' blocks and the decision's, then of host memory.
    fn charges(&self, host: Tier) -> [(Tier, Vec<Charge>); 2] {
        let device = self.groups.iter().flat_map(Group::charges).chain([Decision::device_charge()]);
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

    fn decision(&self) -> &Decision {
        self.decision.as_ref().expect("the machine lets no one here before seal")
    }
}

impl State {
    /// An empty state. Takes no memory of the ledger before [`State::seal`].
    pub fn new(runtime: &Runtime, desc: &StateDesc) -> Result<State> {
        if let Some(dtype) = desc.gradient_dtype
            && dtype != DType::F32
        {
            return Err(Error::invalid("gradient_dtype", format!("{dtype} must be f32, the only one so far")));
        }
        let inner = Inner {
            machine: Machine::new(),
            groups: Vec::new(),
            parameters: Vec::new(),
            names: HashSet::new(),
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
        inner.groups.push(Group::new(*desc));
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

    /// Exact bytes per tier that the state takes: what seal will take before it, what is held after it.
    pub fn memory(&self) -> Result<MemoryReport> {
        Ok(MemoryReport::of(&self.take()?.charges(Readback::tier(&self.runtime))))
    }

    /// Fixes the layout and allocates; all weights and moments are zero. A failure leaves the state as it was.
    pub fn seal(&self) -> Result<()> {
        let mut inner = self.take()?;
        inner.machine.can_build().map_err(|r| inner.refuse(r))?;
        let [(_, charges), (host, host_charges)] = inner.charges(Readback::tier(&self.runtime));
        let copied = Event::new(&self.runtime)?;
        let mut blocks = Block::new_all(self.runtime.memory(), Tier::Device, &charges, true)?.into_iter();
        let host_blocks = Block::new_all(self.runtime.memory(), host, &host_charges, true)?;
        let host_blocks: [Block; 2] = host_blocks.try_into().ok().expect("one block for each charge");
        inner.groups.iter_mut().for_each(|group| group.seal(&mut blocks));
        let words = blocks.next().expect("one block for each charge");
        inner.decision = Some(Decision::new(words, host_blocks, copied, inner.groups.len(), &inner.parameters));
        let parameters = inner.parameters.len();
        inner.machine.seal(parameters);
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

    /// Copies a part of a parameter out; `destination` is f32 of the parameter's shape. The gradient within a step
    /// alone.
    pub fn read(&self, stream: &Stream, parameter: u32, part: Part, destination: View<'_>) -> Result<()> {
        let inner = self.take()?;
        let i = inner.index(parameter)?;
        inner.machine.can_use().map_err(|r| inner.refuse(r))?;
        if part == Part::Gradient && !inner.machine.in_step() {
            return Err(Error::precondition("no step has been begun, so there is no gradient"));
        }
        let (group, parameter) = (inner.group_of(i), &inner.parameters[i]);
        let source = part_of(group, parameter, part)?;
        destination.expect_dtype("destination", &[DType::F32])?;
        destination.expect_shape("destination", &parameter.info.shape, "the parameter's shape")?;
        destination.expect_writable_rows("destination")?;
        let mut queue = self.begin(stream)?;
        if part == Part::Gradient && !inner.machine.has_gradient(i) {
            // What the accumulator holds is of an earlier step; the first micro-batch overwrites it.
            return queue.submit(&Fill { value: 0.0, y: destination });
        }
        queue.submit(&Cast { x: source, rounding: Rounding::NearestEven, y: destination })
    }

    /// Copies a part of a parameter in; `source` is a float tensor of the parameter's shape. Outside of a step, while
    /// the parameter is not acquired. Writing the master weights also rounds them into the weight, as a step does.
    pub fn write(&self, stream: &Stream, parameter: u32, part: Part, source: View<'_>) -> Result<()> {
        let inner = self.take()?;
        let i = inner.index(parameter)?;
        inner.machine.can_write(i).map_err(|r| inner.refuse(r))?;
        if part == Part::Gradient {
            return Err(Error::invalid("part", "GRADIENT is read only"));
        }
        let (group, parameter) = (inner.group_of(i), &inner.parameters[i]);
        let destination = part_of(group, parameter, part)?;
        source.expect_dtype("source", &DType::FLOATS)?;
        source.expect_shape("source", &parameter.info.shape, "the parameter's shape")?;
        source.expect_rows("source")?;
        let mut queue = self.begin(stream)?;
        let copy = Cast { x: source, rounding: Rounding::NearestEven, y: destination };
        let round = group.weight_copy(parameter).filter(|_| part == Part::Master);
        let round = round.map(|weight| WriteBack { master: destination, weight });
        queue.prepare(&copy)?;
        round.iter().try_for_each(|op| queue.prepare(op))?;
        queue.run(&copy)?;
        round.iter().try_for_each(|op| queue.run(op))?;
        Ok(())
    }

    /// Sets the number of steps taken, which bias corrections and momentum depend on. Outside of a step. The next call of
    /// [`State::step`] takes it to the device; graphs that were captured before it do not know of it.
    pub fn set_step(&self, step: u64) -> Result<()> {
        let mut inner = self.take()?;
        inner.machine.can_change().map_err(|r| inner.refuse(r))?;
        inner.restart = Restart { number: inner.restart.number + 1, step };
        Ok(())
    }

    /// The current weights of a parameter for work on `stream` until release: read only, contiguous, in the group's
    /// weight dtype.
    pub fn acquire(&self, parameter: u32, stream: &Stream) -> Result<View<'_>> {
        let mut inner = self.take()?;
        let i = inner.index(parameter)?;
        inner.machine.can_acquire(i).map_err(|r| inner.refuse(r))?;
        self.begin(stream)?;
        inner.machine.acquire(i);
        Ok(inner.group_of(i).weight(&inner.parameters[i]))
    }

    /// Gives one acquisition back.
    pub fn release(&self, parameter: u32, stream: &Stream) -> Result<()> {
        let mut inner = self.take()?;
        let i = inner.index(parameter)?;
        inner.machine.can_release(i).map_err(|r| inner.refuse(r))?;
        self.begin(stream)?;
        inner.machine.release(i);
        Ok(())
    }
}

fn part_of<'a>(group: &Group, parameter: &Parameter, part: Part) -> Result<View<'a>> {
    group.part(parameter, part).ok_or_else(|| {
        Error::invalid("part", format!("{} is not kept by the optimizer of the parameter's group", part.name()))
    })
}
