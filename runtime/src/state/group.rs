//! Groups of parameters: what they share, and the flat buffers that their elements lie in.

use super::layout::Layout;
use super::parameter::{Parameter, Part};
use crate::error::{Error, Result};
use crate::memory::{Block, Charge, Purpose};
use crate::optim::{AdamWOptions, LionOptions, Optimizer, SgdOptions};
use crate::stream::Queue;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::adamw::AdamW;
use scalert_kernels::ops::lion::Lion;
use scalert_kernels::ops::sgd::Sgd;
use scalert_kernels::view::{Invalid, View};

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
    pub(super) desc: GroupDesc,
    pub(super) layout: Layout,
    storage: Option<Storage>,
}

/// The memory of a group. Each block holds the flat space of the layout; padding is zero and stays so.
struct Storage {
    master: Block,
    moments: Vec<Block>,
    gradient: Block,
    /// None for f32 weights: the master weights are what the model reads.
    weight: Option<Block>,
}

impl Group {
    pub(super) fn new(desc: GroupDesc) -> Group {
        Group { desc, layout: Layout::default(), storage: None }
    }

    /// What the group takes, one charge for each block, in the order that [`Group::seal`] takes them.
    pub(super) fn charges(&self) -> Vec<Charge> {
        let len = self.layout.len() as u64;
        let charge = |purpose, size: usize| Charge { purpose, bytes: len * size as u64 };
        let mut charges = vec![charge(Purpose::Master, 4), charge(Purpose::Gradients, 4)];
        charges.extend((0..self.desc.moments()).map(|_| charge(Purpose::Moments, 4)));
        if self.desc.weight_dtype() != DType::F32 {
            charges.push(charge(Purpose::Weights, self.desc.weight_dtype().size()));
        }
        charges
    }

    /// Takes the blocks that [`Group::charges`] asked for.
    pub(super) fn seal(&mut self, blocks: &mut impl Iterator<Item = Block>) {
        let mut next = || blocks.next().expect("one block for each charge");
        self.storage = Some(Storage {
            master: next(),
            gradient: next(),
            moments: (0..self.desc.moments()).map(|_| next()).collect(),
            weight: (self.desc.weight_dtype() != DType::F32).then(&mut next),
        });
    }

    fn storage(&self) -> &Storage {
        self.storage.as_ref().expect("the machine lets no one here before seal")
    }

    /// A block's flat space as one tensor.
    fn flat(&self, block: &Block, dtype: DType) -> View<'_> {
        // SAFETY: the block has the layout's elements; the state lends its memory to one call at a time, and to the
        // host by acquire, for reading.
        unsafe { View::new("group", block.data().as_ptr(), dtype, &[self.layout.len()], &[1]) }.expect("a valid view")
    }

    /// All gradient accumulators.
    pub(super) fn gradients(&self) -> View<'_> {
        self.flat(&self.storage().gradient, DType::F32)
    }

    /// The optimizer's operation on the whole group.
    pub(super) fn update<'a>(&'a self, rates: &Rates<'a>) -> Update<'a> {
        let storage = self.storage();
        let buffers = Buffers {
            gradient: self.gradients(),
            master: self.flat(&storage.master, DType::F32),
            moments: [0, 1].map(|i| storage.moments.get(i).map(|block| self.flat(block, DType::F32))),
            weight: storage.weight.as_ref().map(|block| self.flat(block, self.desc.weight_dtype())),
        };
        self.desc.update(&buffers, rates)
    }

    /// A parameter's part of a block, in its shape.
    fn slice<'a>(&self, block: &Block, dtype: DType, parameter: &Parameter) -> View<'a> {
        let data = block.data().as_ptr().wrapping_add(parameter.range.start * dtype.size());
        // SAFETY: as in `flat`; the parameter's elements lie inside the layout.
        unsafe { View::new("parameter", data, dtype, &parameter.info.shape, &parameter.stride) }.expect("a valid view")
    }

    /// A part of a parameter, f32; None when the optimizer has no such moment.
    pub(super) fn part<'a>(&self, parameter: &Parameter, part: Part) -> Option<View<'a>> {
        let storage = self.storage();
        let block = match part {
            Part::Master => Some(&storage.master),
            Part::Moment1 => storage.moments.first(),
            Part::Moment2 => storage.moments.get(1),
            Part::Gradient => Some(&storage.gradient),
        };
        block.map(|block| self.slice(block, DType::F32, parameter))
    }

    /// The weight of a parameter where it is a copy of the master weights.
    pub(super) fn weight_copy<'a>(&self, parameter: &Parameter) -> Option<View<'a>> {
        self.storage().weight.as_ref().map(|block| self.slice(block, self.desc.weight_dtype(), parameter))
    }

    /// The weight of a parameter, as the model reads it.
    pub(super) fn weight<'a>(&self, parameter: &Parameter) -> View<'a> {
        let master = || self.slice(&self.storage().master, DType::F32, parameter);
        self.weight_copy(parameter).unwrap_or_else(master)
    }
}
