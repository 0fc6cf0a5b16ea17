//! The memory through which gradients and weights go from rank to rank. None where there is one rank.

use super::Inner;
use super::parameter::Parameter;
use crate::memory::{Block, Charge, Purpose};
use crate::shard::Stage;
use crate::shard::bucket::Bucket;
use crate::shard::gathered::{Gathered, room};
use scalert_kernels::dtype::DType;
use scalert_kernels::view::View;
use std::ops::Range;

/// What a bucket has at least, if its size is given.
pub(super) const LEAST_BUCKET_BYTES: u64 = 1024;

/// What is meant where no size is given.
const DEFAULT_BYTES: u64 = 16 << 20;

/// How much of it there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Elements of the bucket; f32.
    bucket: usize,
    /// Bytes for gathered weights.
    gathered: usize,
}

impl Plan {
    /// One charge for each block.
    pub(super) fn charges(&self) -> impl Iterator<Item = Charge> + use<> {
        let bytes = [self.bucket * size_of::<f32>(), self.gathered];
        bytes.into_iter().map(|bytes| Charge { purpose: Purpose::Workspace, bytes: bytes as u64 })
    }
}

/// That memory, and what is where in it.
#[derive(Default)]
pub(super) struct Exchange {
    pub(super) bucket: Bucket,
    pub(super) gathered: Gathered,
    memory: Option<[Block; 2]>,
}

impl Exchange {
    /// Over the blocks that the charges asked for.
    pub(super) fn new(plan: &Plan, blocks: &mut impl Iterator<Item = Block>) -> Exchange {
        let mut next = || blocks.next().expect("one block for each charge");
        let memory = Some([next(), next()]);
        Exchange { bucket: Bucket::new(plan.bucket), gathered: Gathered::new(plan.gathered), memory }
    }

    fn view<'a>(&self, block: usize, byte: usize, dtype: DType, shape: &[usize], stride: &[usize]) -> View<'a> {
        let memory = self.memory.as_ref().expect("the machine lets no one here before seal");
        let data = memory[block].data().as_ptr().wrapping_add(byte);
        // SAFETY: bucket and places lie inside their blocks; the state lends its memory to one call at a time, and to the
        // host by acquire, for reading.
        unsafe { View::new("exchange", data, dtype, shape, stride) }.expect("a valid view")
    }

    /// Elements of the bucket.
    pub(super) fn span<'a>(&self, place: Range<usize>) -> View<'a> {
        self.view(0, place.start * size_of::<f32>(), DType::F32, &[place.len()], &[1])
    }

    /// A gradient in the bucket, in its shape.
    pub(super) fn gradient<'a>(&self, at: usize, parameter: &Parameter) -> View<'a> {
        self.view(0, at * size_of::<f32>(), DType::F32, &parameter.info.shape, &parameter.stride)
    }

    /// Weights in their place, in their shape.
    pub(super) fn weights<'a>(&self, place: &Range<usize>, parameter: &Parameter) -> View<'a> {
        self.view(1, place.start, parameter.info.dtype, &parameter.info.shape, &parameter.stride)
    }
}

impl Inner {
    /// What the exchange will take, as the parameters are now.
    pub(super) fn exchange_plan(&self) -> Plan {
        if self.sharding.world == 1 {
            return Plan::default();
        }
        let mut plan = Plan::default();
        if self.each_micro {
            // A gradient's place in the bucket is aligned: with room for the gaps, all of them fit.
            let all: usize = self.trained().map(|(_, group)| group.layout.len()).sum();
            let bytes = if self.bucket_bytes == 0 { DEFAULT_BYTES } else { self.bucket_bytes };
            plan.bucket = usize::try_from(bytes / size_of::<f32>() as u64).unwrap_or(usize::MAX).min(all);
        }
        if self.sharding.stage == Stage::Parameters {
            let rooms = self.parameters.iter().map(|parameter| room(parameter.weight_bytes()));
            let (all, largest) = rooms.fold((0, 0), |(all, largest), room| (all + room, room.max(largest)));
            plan.gathered = match usize::try_from(self.gather_bytes).unwrap_or(usize::MAX) {
                0 => (2 * largest).max(DEFAULT_BYTES as usize),
                bytes => bytes,
            };
            plan.gathered = plan.gathered.min(all);
        }
        plan
    }
}
