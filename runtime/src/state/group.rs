//! Groups of parameters: what they share, and the flat buffers that their elements lie in.

use super::Sharding;
use super::parameter::{Parameter, Part};
use super::storage::{Flat, Kept, Shards, Span, blocks};
use crate::error::{Error, Result};
use crate::memory::{Block, Charge, Purpose};
use crate::optim::{AdamWOptions, LionOptions, Optimizer, SgdOptions};
use crate::shard::Stage;
use crate::shard::layout::{Division, Layout};
use crate::stream::Queue;
use scalert_kernels::dtype::DType;
use scalert_kernels::dynamic_map::Sign;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::adamw::AdamW;
use scalert_kernels::ops::lion::Lion;
use scalert_kernels::ops::optimizer::{Master, Moment, Random};
use scalert_kernels::ops::sgd::Sgd;
use scalert_kernels::view::{Invalid, View};
use std::ops::Range;

/// Where the f32 master weights of a group are. The numbers are those of the C header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum MasterFormat {
    /// In f32; f32 weights are their own.
    #[default]
    F32 = 0,
    /// In the bf16 weight and a 16-bit remainder: the same bits in half the memory.
    Split16 = 1,
    /// Nowhere: weights are updated in f32 and rounded stochastically.
    None = 2,
}

/// How moments are kept. The numbers are those of the C header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum MomentFormat {
    /// In f32.
    #[default]
    F32 = 0,
    /// In bf16, rounded stochastically.
    Bf16 = 1,
    /// In 8-bit codes with a scale for each 256 of them (Dettmers 2022).
    Int8 = 2,
}

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
    /// Where master weights are.
    pub master: MasterFormat,
    /// How moments are kept.
    pub moments: MomentFormat,
    /// Of what is rounded stochastically.
    pub seed: u64,
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
        let empty = |dtype| unsafe { View::new("empty", std::ptr::null_mut(), dtype, &[0], &[1]) };
        let (f32s, weight) = (empty(DType::F32)?, empty(self.weight_dtype())?);
        if self.master == MasterFormat::Split16 && self.weight_dtype() != DType::BF16 {
            return Err(Error::invalid("weight_dtype", format!("{} must be bf16 with SPLIT16", self.weight_dtype())));
        }
        let master = match self.master {
            MasterFormat::F32 => Master::F32 { master: f32s, weight: None },
            MasterFormat::Split16 => Master::Split16 { weight, remainder: empty(DType::I16)? },
            MasterFormat::None => Master::Absent { weight },
        };
        let moment = match self.moments {
            MomentFormat::F32 => Moment::Plain(f32s),
            MomentFormat::Bf16 => Moment::Plain(empty(DType::BF16)?),
            MomentFormat::Int8 => Moment::Int8 { codes: empty(DType::U8)?, absmax: f32s },
        };
        let random = Some(Random::default());
        let buffers = Buffers { gradient: f32s, master, moments: [Some(moment); 2], random };
        self.update(&buffers, &Rates { learning_rate: 0.0, control: None }).check()?;
        Ok(())
    }

    /// Moments that the optimizer keeps.
    fn moments(&self) -> usize {
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
        let Buffers { gradient, master, moments, random } = *buffers;
        let moment = |i: usize| moments[i].expect("the group has the moments of its optimizer");
        match self.optimizer {
            Optimizer::AdamW => {
                let options = AdamWOptions { learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale, step };
                let op = options.op(gradient, master, moment(0), moment(1), random);
                Update::AdamW(AdamW { control, ..op })
            }
            Optimizer::Sgd => {
                let options = SgdOptions { learning_rate, momentum, weight_decay, gradient_scale, step, nesterov };
                let op = options.op(gradient, master, moments[0].filter(|_| momentum != 0.0), random);
                Update::Sgd(Sgd { control, ..op })
            }
            Optimizer::Lion => {
                let options = LionOptions { learning_rate, beta1, beta2, weight_decay, gradient_scale };
                let op = options.op(gradient, master, moment(0), random);
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
    master: Master<'a>,
    moments: [Option<Moment<'a>>; 2],
    random: Option<Random>,
}

/// One optimizer's operation.
#[expect(clippy::large_enum_variant, reason = "one lives at a time, on the stack: a step allocates nothing")]
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

/// A group of parameters.
pub(super) struct Group {
    number: u32,
    pub(super) desc: GroupDesc,
    pub(super) layout: Layout,
    sharding: Sharding,
    gradient_dtype: DType,
    storage: Option<Storage>,
}

/// The memory of a group.
struct Storage {
    shards: Shards,
    /// f32 master weights, where there are any.
    master: Option<Flat>,
    /// What bf16 weights lack of their master weights, where that is the format.
    remainder: Option<Flat>,
    moments: Vec<Flat>,
    /// A scale for each block of 256 elements of each 8-bit moment: what they cover is counted in blocks.
    scales: Vec<Flat>,
    gradient: Option<Flat>,
    /// None for f32 weights with master weights, which are then what the model reads.
    weight: Option<Flat>,
}

impl Group {
    pub(super) fn new(number: u32, desc: GroupDesc, sharding: Sharding, gradient_dtype: DType) -> Group {
        Group { number, desc, layout: Layout::default(), sharding, gradient_dtype, storage: None }
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

    /// What is kept in which memory, in the order that [`Group::seal`] takes the blocks.
    fn kept(&self, shards: &Shards) -> Vec<(Kept, DType, Range<usize>)> {
        let (weight, updated) = (self.desc.weight_dtype(), shards.updated());
        if self.desc.frozen {
            return vec![(Kept::Weight, weight, shards.weights())];
        }
        let mut kept = vec![(Kept::Gradient, self.gradient_dtype, shards.gradients())];
        match self.desc.master {
            // The model reads the master weights: they are where weights are.
            MasterFormat::F32 if weight == DType::F32 => kept.push((Kept::Master, DType::F32, shards.weights())),
            MasterFormat::F32 => {
                kept.extend([(Kept::Master, DType::F32, updated.clone()), (Kept::Weight, weight, shards.weights())]);
            }
            MasterFormat::Split16 => {
                kept.extend([(Kept::Remainder, DType::I16, updated.clone()), (Kept::Weight, weight, shards.weights())]);
            }
            MasterFormat::None => kept.push((Kept::Weight, weight, shards.weights())),
        }
        for _ in 0..self.desc.moments() {
            match self.desc.moments {
                MomentFormat::F32 => kept.push((Kept::Moment, DType::F32, updated.clone())),
                MomentFormat::Bf16 => kept.push((Kept::Moment, DType::BF16, updated.clone())),
                MomentFormat::Int8 => kept
                    .extend([(Kept::Moment, DType::U8, updated.clone()), (Kept::Scale, DType::F32, blocks(&updated))]),
            }
        }
        kept
    }

    /// What the group takes, one charge for each block.
    pub(super) fn charges(&self) -> Vec<Charge> {
        let charge = |(kept, dtype, range): (Kept, DType, Range<usize>)| {
            let purpose = match kept {
                Kept::Weight => Purpose::Weights,
                Kept::Master | Kept::Remainder => Purpose::Master,
                Kept::Moment | Kept::Scale => Purpose::Moments,
                Kept::Gradient => Purpose::Gradients,
            };
            Charge { purpose, bytes: range.len() as u64 * dtype.size() as u64 }
        };
        self.kept(&self.shards_now()).into_iter().map(charge).collect()
    }

    /// Takes the blocks that [`Group::charges`] asked for.
    pub(super) fn seal(&mut self, blocks: &mut impl Iterator<Item = Block>) {
        let shards = self.shards_now();
        let kept = self.kept(&shards);
        let (master, remainder, gradient, weight) = (None, None, None, None);
        let mut storage =
            Storage { shards, master, remainder, moments: Vec::new(), scales: Vec::new(), gradient, weight };
        for (kept, dtype, covers) in kept {
            let flat = Flat { block: blocks.next().expect("one block for each charge"), dtype, covers };
            match kept {
                Kept::Weight => storage.weight = Some(flat),
                Kept::Master => storage.master = Some(flat),
                Kept::Remainder => storage.remainder = Some(flat),
                Kept::Moment => storage.moments.push(flat),
                Kept::Scale => storage.scales.push(flat),
                Kept::Gradient => storage.gradient = Some(flat),
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
        let weight = storage.weight.as_ref().map(view);
        let master = match (&storage.master, &storage.remainder, weight) {
            (Some(master), ..) => Master::F32 { master: view(master), weight },
            (None, Some(remainder), Some(weight)) => Master::Split16 { weight, remainder: view(remainder) },
            (None, _, weight) => Master::Absent { weight: weight.expect("every group has weights") },
        };
        let moment = |i: usize| {
            let elements = view(storage.moments.get(i)?);
            Some(match storage.scales.get(i) {
                Some(scales) => Moment::Int8 { codes: elements, absmax: scales.view(blocks(&range)) },
                None => Moment::Plain(elements),
            })
        };
        // The step is that of the control block.
        let random = Random { seed: self.desc.seed, step: 0, tensor: self.number, first_index: range.start as u64 };
        let buffers = Buffers {
            gradient: self.gradients(range.clone()),
            master,
            moments: [moment(0), moment(1)],
            random: Some(random),
        };
        self.desc.update(&buffers, rates)
    }

    fn moment_index(part: Part) -> Option<usize> {
        match part {
            Part::Moment1 => Some(0),
            Part::Moment2 => Some(1),
            Part::Master | Part::Gradient => None,
        }
    }

    fn flat(&self, part: Part) -> Option<&Flat> {
        let storage = self.storage();
        match part {
            // Of a group without master weights the weights, which a remainder may add to.
            Part::Master => storage.master.as_ref().or(storage.weight.as_ref()),
            Part::Moment1 | Part::Moment2 => storage.moments.get(Self::moment_index(part)?),
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

    /// Whether a part is kept as the floats that it is, and not in pieces of them.
    pub(super) fn is_plain(&self, part: Part) -> bool {
        let storage = self.storage();
        match part {
            Part::Master => storage.remainder.is_none(),
            Part::Moment1 | Part::Moment2 => storage.scales.is_empty(),
            Part::Gradient => true,
        }
    }

    /// A part of a parameter as floats, in its shape; None when it is not [`Group::is_plain`], or not whole on this rank.
    pub(super) fn part<'a>(&self, parameter: &Parameter, part: Part) -> Option<View<'a>> {
        self.flat(part).filter(|_| self.is_plain(part))?.parameter(parameter)
    }

    /// How elements of a part that this rank keeps become floats, and floats them.
    pub(super) fn span<'a>(&self, part: Part, range: Range<usize>) -> Span<'a> {
        let storage = self.storage();
        let elements = self.flat(part).expect("the caller knows that it is kept").view(range.clone());
        if let (Part::Master, Some(remainder)) = (part, &storage.remainder) {
            return Span::Split { weight: elements, remainder: remainder.view(range) };
        }
        match Self::moment_index(part).and_then(|i| Some((i, storage.scales.get(i)?))) {
            Some((i, scales)) => Span::Codes {
                codes: elements,
                absmax: scales.view(blocks(&range)),
                // The second moments are of squares.
                sign: if i == 0 { Sign::Signed } else { Sign::Unsigned },
            },
            None => {
                let copy =
                    (part == Part::Master && storage.master.is_some()).then_some(storage.weight.as_ref()).flatten();
                Span::Floats { elements, copy: copy.map(|weight| weight.view(range)) }
            }
        }
    }

    /// The weight of a parameter, as the model reads it; None when this rank does not keep all of it.
    pub(super) fn weight<'a>(&self, parameter: &Parameter) -> Option<View<'a>> {
        self.weights().parameter(parameter)
    }

    /// The weight of a parameter where it is a rounded copy of master weights in f32.
    pub(super) fn weight_copy<'a>(&self, parameter: &Parameter) -> Option<View<'a>> {
        self.storage().master.as_ref()?;
        self.storage().weight.as_ref()?.parameter(parameter)
    }

    /// Elements of the weights that this rank keeps.
    pub(super) fn weight_span<'a>(&self, range: Range<usize>) -> View<'a> {
        self.weights().view(range)
    }
}
