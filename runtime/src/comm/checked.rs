//! Any communicator, whose ranks compare their calls before an operation touches data.

use super::agreement;
use super::call::{Call, Operation, Tag, WORDS};
use super::{Communicator, Reduction};
use crate::error::{Error, Result};
use crate::exclusive::Exclusive;
use crate::stream::Queue;
use scalert_kernels::view::View;

/// Gathers a record of each rank's call before each operation but messages, which two ranks alone know of; waits for the
/// device to do so.
pub(super) struct Checked<C> {
    inner: C,
    calls: Exclusive<Calls>,
}

struct Calls {
    /// Operations so far.
    sequence: u64,
    tag: Tag,
}

impl<C: Communicator> Checked<C> {
    pub(super) fn new(inner: C) -> Checked<C> {
        Checked { inner, calls: Exclusive::new("communicator", Calls { sequence: 0, tag: Tag::default() }) }
    }

    /// Requires all ranks to make this call.
    fn compare(&self, queue: &mut Queue<'_>, call: Call) -> Result<()> {
        let mut calls = self.calls.take()?;
        calls.sequence += 1;
        let call = Call { tag: calls.tag, ..call };
        let all = agreement::gather(&self.inner, queue, &call.record(calls.sequence))?;
        let mut ranks = all.chunks_exact(WORDS).zip(0u32..);
        let (first, _) = ranks.next().expect("a group has a rank");
        let Some((other, rank)) = ranks.find(|(record, _)| *record != first) else { return Ok(()) };
        let words = |record: &[u64]| {
            let call = Call::of(record).map_or("something unknown".into(), |call| call.to_string());
            format!("{call} as operation {}", record[0])
        };
        Err(Error::precondition(format!(
            "rank 0 calls {}, rank {rank} calls {}; all must make the same calls in the same order",
            words(first),
            words(other)
        )))
    }
}

impl<C: Communicator> Communicator for Checked<C> {
    fn rank(&self) -> u32 {
        self.inner.rank()
    }
    fn world(&self) -> u32 {
        self.inner.world()
    }
    fn deterministic(&self) -> bool {
        self.inner.deterministic()
    }
    fn all_reduce(&self, queue: &mut Queue<'_>, x: View<'_>, reduction: Reduction) -> Result<()> {
        self.compare(queue, Call::new(Operation::AllReduce, Some(&x)).reducing(reduction))?;
        self.inner.all_reduce(queue, x, reduction)
    }
    fn reduce(
        &self,
        queue: &mut Queue<'_>,
        input: View<'_>,
        output: Option<View<'_>>,
        reduction: Reduction,
        root: u32,
    ) -> Result<()> {
        self.compare(queue, Call::new(Operation::Reduce, Some(&input)).reducing(reduction).rooted(root))?;
        self.inner.reduce(queue, input, output, reduction, root)
    }
    fn reduce_scatter(
        &self,
        queue: &mut Queue<'_>,
        input: View<'_>,
        output: View<'_>,
        reduction: Reduction,
    ) -> Result<()> {
        self.compare(queue, Call::new(Operation::ReduceScatter, Some(&output)).reducing(reduction))?;
        self.inner.reduce_scatter(queue, input, output, reduction)
    }
    fn all_gather(&self, queue: &mut Queue<'_>, input: View<'_>, output: View<'_>) -> Result<()> {
        self.compare(queue, Call::new(Operation::AllGather, Some(&input)))?;
        self.inner.all_gather(queue, input, output)
    }
    fn broadcast(&self, queue: &mut Queue<'_>, x: View<'_>, root: u32) -> Result<()> {
        self.compare(queue, Call::new(Operation::Broadcast, Some(&x)).rooted(root))?;
        self.inner.broadcast(queue, x, root)
    }
    fn all_to_all(&self, queue: &mut Queue<'_>, input: View<'_>, output: View<'_>) -> Result<()> {
        self.compare(queue, Call::new(Operation::AllToAll, Some(&input)))?;
        self.inner.all_to_all(queue, input, output)
    }
    fn send(&self, queue: &mut Queue<'_>, x: View<'_>, to: u32) -> Result<()> {
        self.inner.send(queue, x, to)
    }
    fn receive(&self, queue: &mut Queue<'_>, x: View<'_>, from: u32) -> Result<()> {
        self.inner.receive(queue, x, from)
    }
    fn barrier(&self, queue: &mut Queue<'_>) -> Result<()> {
        self.compare(queue, Call::new(Operation::Barrier, None))?;
        self.inner.barrier(queue)
    }
    fn abort(&self) {
        self.inner.abort();
    }
    fn async_error(&self) -> Result<()> {
        self.inner.async_error()
    }
    fn may_use_memory(&self) -> bool {
        self.inner.may_use_memory()
    }
    fn set_tag(&self, tag: Tag) -> Result<Tag> {
        Ok(std::mem::replace(&mut self.calls.take()?.tag, tag))
    }
}
