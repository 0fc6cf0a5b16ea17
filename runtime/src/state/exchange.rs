//! The memory through which gradients and weights go from rank to rank. None where there is one rank.

use super::Inner;
use super::lane::Ticket;
use super::parameter::Parameter;
use crate::memory::{Block, Charge, Purpose};
use crate::shard::Stage;
use crate::shard::bucket::Bucket;
use crate::shard::forecast::Forecast;
use crate::shard::gathered::{Gathered, room};
use scalert_kernels::dtype::DType;
use scalert_kernels::view::View;
use std::collections::VecDeque;
use std::ops::Range;

/// What a bucket has at least, if its size is given.
pub(super) const LEAST_BUCKET_BYTES: u64 = 1024;

/// What is meant where no size is given.
const DEFAULT_BYTES: u64 = 16 << 20;

/// How much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Buckets: with overlap a second one fills while the first is summed.
    buckets: usize,
    /// Elements of a bucket.
    bucket: usize,
    dtype: DType,
    /// Bytes for gathered weights.
    gathered: usize,
}

impl Plan {
    /// One charge for each block.
    pub(super) fn charges(&self) -> impl Iterator<Item = Charge> + use<> {
        let bytes = [self.buckets * self.bucket * self.dtype.size(), self.gathered];
        bytes.into_iter().map(|bytes| Charge { purpose: Purpose::Workspace, bytes: bytes as u64 })
    }
}

/// That memory, and what is where in it.
#[derive(Default)]
pub(super) struct Exchange {
    /// The bucket that fills is the first; each with the job that it is the memory of.
    buckets: VecDeque<(Bucket, usize, Ticket)>,
    pub(super) gathered: Gathered,
    /// The job that brings each parameter's weights, and that of each group.
    pub(super) arrivals: Vec<Ticket>,
    pub(super) group_arrivals: Vec<Ticket>,
    pub(super) forecast: Forecast,
    memory: Option<[Block; 2]>,
    /// Of the buckets.
    dtype: Option<DType>,
}

impl Exchange {
    /// Over the blocks that the charges asked for.
    pub(super) fn new(
        plan: &Plan,
        groups: usize,
        parameters: usize,
        blocks: &mut impl Iterator<Item = Block>,
    ) -> Exchange {
        let mut next = || blocks.next().expect("one block for each charge");
        Exchange {
            buckets: (0..plan.buckets)
                .map(|i| (Bucket::new(plan.bucket), i * plan.bucket, Ticket::default()))
                .collect(),
            gathered: Gathered::new(plan.gathered),
            arrivals: vec![Ticket::default(); parameters],
            group_arrivals: vec![Ticket::default(); groups],
            forecast: Forecast::default(),
            memory: Some([next(), next()]),
            dtype: Some(plan.dtype),
        }
    }

    /// The bucket that fills.
    pub(super) fn bucket(&self) -> &Bucket {
        &self.buckets[0].0
    }

    /// Whether something waits in the bucket that fills.
    pub(super) fn fills(&self) -> bool {
        self.buckets.front().is_some_and(|(bucket, ..)| bucket.used() > 0)
    }

    /// The bucket that fills, where there is one.
    pub(super) fn bucket_mut(&mut self) -> Option<&mut Bucket> {
        self.buckets.front_mut().map(|(bucket, ..)| bucket)
    }

    /// Leaves the bucket to a job, and begins the next one; gives the job that must be over before.
    pub(super) fn turn(&mut self, job: Ticket) -> Ticket {
        self.buckets[0].2 = job;
        self.buckets.rotate_left(1);
        self.buckets[0].0.clear();
        self.buckets[0].2
    }

    fn view<'a>(&self, block: usize, byte: usize, dtype: DType, shape: &[usize], stride: &[usize]) -> View<'a> {
        let memory = self.memory.as_ref().expect("the machine lets no one here before seal");
        let data = memory[block].data().as_ptr().wrapping_add(byte);
        // SAFETY: bucket and places lie inside their blocks; the state lends its memory to one call or job at a time, and to
        // the host by acquire, for reading.
        unsafe { View::new("exchange", data, dtype, shape, stride) }.expect("a valid view")
    }

    /// Dtype of the buckets, and where an element of the one that fills is.
    fn element(&self, at: usize) -> (usize, DType) {
        let dtype = self.dtype.expect("the machine lets no one here before seal");
        ((self.buckets[0].1 + at) * dtype.size(), dtype)
    }

    /// Elements of the bucket that fills.
    pub(super) fn span<'a>(&self, place: Range<usize>) -> View<'a> {
        let (byte, dtype) = self.element(place.start);
        self.view(0, byte, dtype, &[place.len()], &[1])
    }

    /// A gradient in the bucket that fills, in its shape.
    pub(super) fn gradient<'a>(&self, at: usize, parameter: &Parameter) -> View<'a> {
        let (byte, dtype) = self.element(at);
        self.view(0, byte, dtype, &parameter.info.shape, &parameter.stride)
    }

    /// Weights in their place, in their shape.
    pub(super) fn weights<'a>(&self, place: &Range<usize>, parameter: &Parameter) -> View<'a> {
        self.view(1, place.start, parameter.info.dtype, &parameter.info.shape, &parameter.stride)
    }
}

impl Inner {
    /// What the exchange will take, as the parameters are now.
    pub(super) fn exchange_plan(&self) -> Plan {
        let mut plan = Plan { buckets: 0, bucket: 0, dtype: self.reduction_dtype, gathered: 0 };
        if self.sharding.world == 1 {
            return plan;
        }
        if self.each_micro {
            // A gradient's place in the bucket is aligned: with room for the gaps, all of them fit.
            let all: usize = self.trained().map(|(_, group)| group.layout.len()).sum();
            let bytes = if self.bucket_bytes == 0 { DEFAULT_BYTES } else { self.bucket_bytes };
            plan.buckets = if self.overlap { 2 } else { 1 };
            plan.bucket = usize::try_from(bytes / plan.dtype.size() as u64).unwrap_or(usize::MAX).min(all);
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
