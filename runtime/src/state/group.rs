//! Groups of parameters: what they share, and the flat buffers that their elements lie in.

use super::Sharding;
use super::parameter::{Parameter, Part};
use crate::error::{Error, Result};
use crate::memory::{Block, Charge, Purpose};
use crate::optim::{AdamWOptions, LionOptions, Optimizer, SgdOptions};
use crate::shard::Stage;
use crate::shard::layout::{Division, Layout};
use crate::stream::Queue;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::adamw::AdamW;
use scalert_kernels::ops::lion::Lion;
use scalert_kernels::ops::sgd::Sgd;
use scalert_kernels::view::{Invalid, View};
use std::ops::Range;

/// Hyper-parameters and formats that a group of parameters shares. 0 is always the default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GroupDesc {
    /// The optimizer.
    pub optimizer: Optimizer,
    /// What the model reads; None = BF16.
    pub weight_dtype: Option<DType>,
    /// Multiplies the step's learning rate; 0 = 1.
    pub learning_rate_scale: f32,
    /// 0 = the optimizer's default.
    pub beta1: f32,
    /// 0 = the optimizer's default.
    pub beta2: f32,
    /// AdamW; 0 = 1e-8.
    pub epsilon: f32,
    /// Weight decay.
    pub weight_decay: f32,
    /// SGD; 0 = none.
    pub momentum: f32,
    /// SGD.
    pub nesterov: bool,
    /// Whether the weights never change: no master weights, moments and gradients are kept.
    pub frozen: bool,
}

impl GroupDesc {
    pub(super) fn weight_dtype(&self) -> DType {
        self.weight_dtype.unwrap_or(DType::BF16)
    }

    /// Checks formats and hyper-parameters, the latter as the optimizer's operation does.
    pub(super) fn check(&self) -> Result<()> {
        if !DType::FLOATS.contains(&self.weight_dtype()) {
            return Err(Error::invalid("weight_dtype", format!("{} must be a float", self.weight_dtype())));
        }
        let scale = self.learning_rate_scale;
        if !(scale.is_finite() && scale >= 0.0) {
            return Err(Error::invalid("learning_rate_scale", format!("{scale} must be finite and at least 0")));
        }
        // SAFETY: a tensor without elements reaches no memory.
        let empty = unsafe { View::new("empty", std::ptr::null_mut(), DType::F32, &[0], &[1]) }?;
        let buffers = Buffers { gradient: empty, master: empty, moments: [Some(empty); 2], weight: None };
        self.update(&buffers, &Rates { learning_rate: 0.0, control: None }).check()?;
        Ok(())
    }

    /// Moments that the optimizer keeps.
    pub(super) fn moments(&self) -> usize {
        match self.optimizer {
            _ if self.frozen => 0,
            Optimizer::AdamW => 2,
            Optimizer::Lion => 1,
            Optimizer::Sgd => usize::from(self.momentum != 0.0),
        }
    }

    /// The optimizer's operation on these buffers.
    fn update<'a>(&self, buffers: &Buffers<'a>, rates: &Rates<'a>) -> Update<'a> {
        let scale = if self.learning_rate_scale == 0.0 { 1.0 } else { self.learning_rate_scale };
        let learning_rate = rates.learning_rate * scale;
        // The defaults: the control block has the step's.
        let (gradient_scale, step, control) = (0.0, 0, rates.control);
        let GroupDesc { beta1, beta2, epsilon, weight_decay, momentum, nesterov, .. } = *self;
        let Buffers { gradient, master, moments, weight } = *buffers;
        let moment = |i: usize| moments[i].expect("the group has the moments of its optimizer");
        match self.optimizer {
            Optimizer::AdamW => {
                let options = AdamWOptions { learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale, step };
                let op = options.op(gradient, master, moment(0), moment(1), weight);
                Update::AdamW(AdamW { control, ..op })
            }
            Optimizer::Sgd => {
                let options = SgdOptions { learning_rate, momentum, weight_decay, gradient_scale, step, nesterov };
                let op = options.op(gradient, master, moments[0].filter(|_| momentum != 0.0), weight);
                Update::Sgd(Sgd { control, ..op })
            }
            Optimizer::Lion => {
                let options = LionOptions { learning_rate, beta1, beta2, weight_decay, gradient_scale };
                let op = options.op(gradient, master, moment(0), weight);
                Update::Lion(Lion { control, ..op })
            }
        }
    }
}

/// What changes from step to step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates<'a> {
    pub(super) learning_rate: f32,
    /// What the device decides.
    pub(super) control: Option<View<'a>>,
}

/// The flat buffers of a group.
struct Buffers<'a> {
    gradient: View<'a>,
    master: View<'a>,
    moments: [Option<View<'a>>; 2],
    weight: Option<View<'a>>,
}

/// One optimizer's operation.
pub(super) enum Update<'a> {
    AdamW(AdamW<'a>),
    Sgd(Sgd<'a>),
    Lion(Lion<'a>),
}

impl Update<'_> {
    fn check(&self) -> std::result::Result<(), Invalid> {
        match self {
            Update::AdamW(op) => op.check(),
            Update::Sgd(op) => op.check(),
            Update::Lion(op) => op.check(),
        }
    }

    pub(super) fn prepare(&self, queue: &mut Queue<'_>) -> Result<()> {
        match self {
            Update::AdamW(op) => queue.prepare(op),
            Update::Sgd(op) => queue.prepare(op),
            Update::Lion(op) => queue.prepare(op),
        }
    }

    pub(super) fn run(&self, queue: &mut Queue<'_>) -> Result<()> {
        match self {
            Update::AdamW(op) => queue.run(op),
            Update::Sgd(op) => queue.run(op),
            Update::Lion(op) => queue.run(op),
        }
    }
}

/// A part of the flat space in memory; padding is zero and stays so.
struct Flat {
    block: Block,
    dtype: DType,
    covers: Range<usize>,
}

impl Flat {
    fn at(&self, element: usize) -> *mut u8 {
        self.block.data().as_ptr().wrapping_add((element - self.covers.start) * self.dtype.size())
    }

    /// Elements of the flat space, which it covers.
    fn view<'a>(&self, range: Range<usize>) -> View<'a> {
        assert!(self.covers.start <= range.start && range.end <= self.covers.end);
        // SAFETY: the block has the elements that it covers; the state lends its memory to one call at a time, and to the
        // host by acquire, for reading.
        unsafe { View::new("group", self.at(range.start), self.dtype, &[range.len()], &[1]) }.expect("a valid view")
    }

    /// A parameter in its shape; None when it is not covered whole.
    fn parameter<'a>(&self, parameter: &Parameter) -> Option<View<'a>> {
        let Range { start, end } = parameter.range;
        if start < self.covers.start || end > self.covers.end {
            return None;
        }
        // SAFETY: as in `view`.
        let view =
            unsafe { View::new("parameter", self.at(start), self.dtype, &parameter.info.shape, &parameter.stride) };
        Some(view.expect("a valid view"))
    }
}

/// Which part of the flat space a rank keeps of each kind of state.
#[derive(Clone, Debug)]
pub(super) struct Shards {
    pub(super) division: Division,
    /// All of it.
    pub(super) all: Range<usize>,
    /// The rank's own range.
    pub(super) own: Range<usize>,
    stage: Stage,
}

impl Shards {
    fn from(&self, stage: Stage) -> Range<usize> {
        if self.stage >= stage { self.own.clone() } else { self.all.clone() }
    }

    /// Weights that the model reads.
    pub(super) fn weights(&self) -> Range<usize> {
        self.from(Stage::Parameters)
    }

    /// What the optimizer updates, and keeps state for.
    pub(super) fn updated(&self) -> Range<usize> {
        self.from(Stage::Optimizer)
    }

    /// Gradient accumulators.
    pub(super) fn gradients(&self) -> Range<usize> {
        self.from(Stage::Gradients)
    }
}

/// A group of parameters.
pub(super) struct Group {
    pub(super) desc: GroupDesc,
    pub(super) layout: Layout,
    sharding: Sharding,
    gradient_dtype: DType,
    storage: Option<Storage>,
}

/// The memory of a group.
struct Storage {
    shards: Shards,
    /// None for frozen groups, whose weights are all there is.
    master: Option<Flat>,
    moments: Vec<Flat>,
    gradient: Option<Flat>,
    /// None for f32 weights with master weights, which are then what the model reads.
    weight: Option<Flat>,
}

impl Group {
    pub(super) fn new(desc: GroupDesc, sharding: Sharding, gradient_dtype: DType) -> Group {
        Group { desc, layout: Layout::default(), sharding, gradient_dtype, storage: None }
    }

    /// Which rank keeps what, as the layout is now.
    fn shards_now(&self) -> Shards {
        let Sharding { stage, rank, world } = self.sharding;
        let division = Division::new(self.layout.len(), world);
        // A group of one rank has all of everything.
        let stage = if world == 1 { Stage::Replicated } else { stage };
        Shards { division, all: 0..division.len(), own: division.of(rank), stage }
    }

    /// Which rank keeps what.
    pub(super) fn shards(&self) -> &Shards {
        &self.storage().shards
    }

    /// What is kept in which memory, in the order that [`Group::seal`] takes the blocks: purpose, dtype and range.
    fn kept(&self, shards: &Shards) -> Vec<(Purpose, DType, Range<usize>)> {
        let weight = self.desc.weight_dtype();
        if self.desc.frozen {
            return vec![(Purpose::Weights, weight, shards.weights())];
        }
        let has_copy = weight != DType::F32;
        // Where the model reads the master weights, they are where weights are.
        let master = if has_copy { shards.updated() } else { shards.weights() };
        let mut kept =
            vec![(Purpose::Master, DType::F32, master), (Purpose::Gradients, self.gradient_dtype, shards.gradients())];
        kept.extend((0..self.desc.moments()).map(|_| (Purpose::Moments, DType::F32, shards.updated())));
        kept.extend(has_copy.then(|| (Purpose::Weights, weight, shards.weights())));
        kept
    }

    /// What the group takes, one charge for each block.
    pub(super) fn charges(&self) -> Vec<Charge> {
        let kept = self.kept(&self.shards_now()).into_iter();
        kept.map(|(purpose, dtype, range)| Charge { purpose, bytes: range.len() as u64 * dtype.size() as u64 })
            .collect()
    }

    /// Takes the blocks that [`Group::charges`] asked for.
    pub(super) fn seal(&mut self, blocks: &mut impl Iterator<Item = Block>) {
        let shards = self.shards_now();
        let mut storage = Storage { master: None, moments: Vec::new(), gradient: None, weight: None, shards };
        for (purpose, dtype, covers) in self.kept(&storage.shards) {
            let flat = Flat { block: blocks.next().expect("one block for each charge"), dtype, covers };
            match purpose {
                Purpose::Master => storage.master = Some(flat),
                Purpose::Gradients => storage.gradient = Some(flat),
                Purpose::Moments => storage.moments.push(flat),
                _ => storage.weight = Some(flat),
            }
        }
        self.storage = Some(storage);
    }

    fn storage(&self) -> &Storage {
        self.storage.as_ref().expect("the machine lets no one here before seal")
    }

    /// Gradient accumulators of a range that this rank keeps.
    pub(super) fn gradients<'a>(&self, range: Range<usize>) -> View<'a> {
        self.storage().gradient.as_ref().expect("a frozen group has no gradients").view(range)
    }

    /// The optimizer's operation on all that this rank updates.
    pub(super) fn update<'a>(&self, rates: &Rates<'a>) -> Update<'a> {
        let storage = self.storage();
        let range = storage.shards.updated();
        let view = |flat: &Flat| flat.view(range.clone());
        let buffers = Buffers {
            gradient: self.gradients(range.clone()),
            master: view(storage.master.as_ref().expect("a frozen group is not updated")),
            moments: [0, 1].map(|i| storage.moments.get(i).map(view)),
            weight: storage.weight.as_ref().map(view),
        };
        self.desc.update(&buffers, rates)
    }

    fn flat(&self, part: Part) -> Option<&Flat> {
        let storage = self.storage();
        match part {
            // Of a frozen group the weights.
            Part::Master => storage.master.as_ref().or(storage.weight.as_ref()),
            Part::Moment1 => storage.moments.first(),
            Part::Moment2 => storage.moments.get(1),
            Part::Gradient => storage.gradient.as_ref(),
        }
    }

    /// What the model reads.
    fn weights(&self) -> &Flat {
        let storage = self.storage();
        storage.weight.as_ref().or(storage.master.as_ref()).expect("every group has weights")
    }

    /// Whether the group keeps such a part.
    pub(super) fn has(&self, part: Part) -> bool {
        self.flat(part).is_some()
    }

    /// A part of a parameter, in its shape; None when the group does not keep it, or this rank not all of it.
    pub(super) fn part<'a>(&self, parameter: &Parameter, part: Part) -> Option<View<'a>> {
        self.flat(part)?.parameter(parameter)
    }

    /// Elements of a part that this rank keeps.
    pub(super) fn span<'a>(&self, part: Part, range: Range<usize>) -> View<'a> {
        self.flat(part).expect("the caller knows that it is kept").view(range)
    }

    /// The weight of a parameter, as the model reads it; None when this rank does not keep all of it.
    pub(super) fn weight<'a>(&self, parameter: &Parameter) -> Option<View<'a>> {
        self.weights().parameter(parameter)
    }

    /// Elements of the weights that this rank keeps.
    pub(super) fn weight_span<'a>(&self, range: Range<usize>) -> View<'a> {
        self.weights().view(range)
    }

    /// Whether weights are kept beside the master weights, which are rounded into them.
    pub(super) fn has_weight_copy(&self) -> bool {
        self.storage().weight.is_some() && self.storage().master.is_some()
    }
}
