//! Ranks that are threads of one process, on the CPU: each works on its own share of every rank's memory.

use super::call::{Call, Operation, Tag};
use super::rendezvous::{Inside, Memory, Place, Published, Rendezvous};
use super::{Communicator, Reduction};
use crate::error::Result;
use crate::exclusive::Exclusive;
use crate::stream::Queue;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::rank_reduce::RankReduce;
use scalert_kernels::view::View;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a rank's share that it works on before it looks whether the group has failed.
const PIECE: usize = 4 << 20;

/// Shares begin at multiples of these elements, so that no two ranks write to one cache line.
const SHARE: usize = 64;

pub(super) struct Local {
    rank: u32,
    rendezvous: Arc<Rendezvous>,
    scratch: Exclusive<Scratch>,
}

/// What an operation needs, allocated once.
struct Scratch {
    tag: Tag,
    ranks: Vec<Published>,
    /// Views of the ranks' memory; empty between operations, so that they outlive none.
    inputs: Vec<View<'static>>,
    outputs: Vec<View<'static>>,
}

impl Local {
    /// The ranks of a new group.
    pub(super) fn group(world: u32, timeout: Duration) -> Vec<Local> {
        let rendezvous = Arc::new(Rendezvous::new(world, timeout));
        let ranks = world as usize;
        (0..world)
            .map(|rank| {
                let scratch = Scratch {
                    tag: Tag::default(),
                    ranks: Vec::with_capacity(ranks),
                    inputs: Vec::with_capacity(ranks),
                    outputs: Vec::with_capacity(ranks),
                };
                let scratch = Exclusive::new("communicator", scratch);
                Local { rank, rendezvous: Arc::clone(&rendezvous), scratch }
            })
            .collect()
    }

    /// Meets the others and does this rank's part of the work while it is inside.
    fn meet(
        &self,
        (place, guest): (Place, usize),
        call: Call,
        (input, output): (Memory, Memory),
        work: impl FnOnce(&mut Scratch, &Inside<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut scratch = self.scratch.take()?;
        let call = Call { tag: scratch.tag, ..call };
        let inside = self.rendezvous.enter(place, guest, Published::new(call, input, output), &mut scratch.ranks)?;
        let outcome = work(&mut scratch, &inside);
        scratch.inputs.clear();
        scratch.outputs.clear();
        inside.leave(outcome)
    }

    fn meet_all(
        &self,
        call: Call,
        memory: (Memory, Memory),
        work: impl FnOnce(&mut Scratch, &Inside<'_>) -> Result<()>,
    ) -> Result<()> {
        self.meet((Place::All, self.rank as usize), call, memory, work)
    }

    /// This rank's share of n elements.
    fn share(&self, n: usize) -> Range<usize> {
        let share = n.div_ceil(self.rendezvous.world() as usize).next_multiple_of(SHARE);
        let start = share.saturating_mul(self.rank as usize).min(n);
        start..(start + share).min(n)
    }
}

fn memory(view: &View<'_>) -> Memory {
    Memory { data: view.data(), bytes: view.numel() * view.dtype().size() }
}

/// Where element `at` of memory lies.
fn element(memory: Memory, dtype: DType, at: usize) -> *mut u8 {
    memory.data.wrapping_add(at * dtype.size())
}

/// A view of n elements of a rank's memory.
///
/// # Safety
/// They lie in memory of a rank that is inside the same operation as this one, which is there while the view is used; what is
/// written is no other rank's to touch.
unsafe fn view(data: *mut u8, dtype: DType, n: usize) -> Result<View<'static>> {
    // SAFETY: the caller's promise.
    Ok(unsafe { View::new("a rank's memory", data, dtype, &[n], &[1])? })
}

/// The parts of a range that are worked on one after another, while the group goes on.
fn pieces<'a>(range: Range<usize>, dtype: DType, inside: &'a Inside<'_>) -> impl Iterator<Item = Range<usize>> + 'a {
    let piece = PIECE / dtype.size();
    let starts = range.clone().step_by(piece).take_while(|_| inside.goes_on());
    starts.map(move |start| start..(start + piece).min(range.end))
}

/// Copies n elements between memories that are apart or the same.
///
/// # Safety
/// As [`view`], of both.
unsafe fn copy(
    queue: &mut Queue<'_>,
    inside: &Inside<'_>,
    (to, from): (*mut u8, *mut u8),
    dtype: DType,
    n: usize,
) -> Result<()> {
    if to == from {
        return Ok(());
    }
    for piece in pieces(0..n, dtype, inside) {
        let (at, bytes) = (piece.start * dtype.size(), piece.len() * dtype.size());
        // SAFETY: the caller's promise; the piece lies in both.
        unsafe { queue.copy(to.add(at), from.add(at), bytes) }?;
    }
    Ok(())
}

impl Scratch {
    /// Reduces the elements of the ranks' inputs that `range` says into the memory that `output` gives for some of them.
    ///
    /// # Safety
    /// Every input has those elements, and every output as many, which no other rank touches.
    unsafe fn reduce(
        &mut self,
        queue: &mut Queue<'_>,
        inside: &Inside<'_>,
        (range, dtype): (Range<usize>, DType),
        reduction: Reduction,
        output: impl Fn(usize, &Published) -> Option<*mut u8>,
    ) -> Result<()> {
        let first = range.start;
        for piece in pieces(range, dtype, inside) {
            self.inputs.clear();
            self.outputs.clear();
            for (rank, published) in self.ranks.iter().enumerate() {
                let input = element(published.input, dtype, piece.start);
                // SAFETY: the caller's promise.
                self.inputs.push(unsafe { view(input, dtype, piece.len()) }?);
                if let Some(output) = output(rank, published) {
                    let output = output.wrapping_add((piece.start - first) * dtype.size());
                    // SAFETY: the caller's promise.
                    self.outputs.push(unsafe { view(output, dtype, piece.len()) }?);
                }
            }
            queue.submit(&RankReduce { inputs: &self.inputs, reduction, outputs: &self.outputs })?;
        }
        Ok(())
    }
}

impl Communicator for Local {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn world(&self) -> u32 {
        self.rendezvous.world()
    }

    fn deterministic(&self) -> bool {
        true
    }

    fn all_reduce(&self, queue: &mut Queue<'_>, x: View<'_>, reduction: Reduction) -> Result<()> {
        let call = Call::new(Operation::AllReduce, Some(&x)).reducing(reduction);
        let share = self.share(x.numel());
        self.meet_all(call, (memory(&x), memory(&x)), |scratch, inside| {
            let to = |_: usize, rank: &Published| Some(element(rank.output, x.dtype(), share.start));
            // SAFETY: every rank brought as many elements; this rank alone touches its share of them, everywhere.
            unsafe { scratch.reduce(queue, inside, (share.clone(), x.dtype()), reduction, to) }
        })
    }

    fn reduce(
        &self,
        queue: &mut Queue<'_>,
        input: View<'_>,
        output: Option<View<'_>>,
        reduction: Reduction,
        root: u32,
    ) -> Result<()> {
        let call = Call::new(Operation::Reduce, Some(&input)).reducing(reduction).rooted(root);
        let share = self.share(input.numel());
        let output = output.map_or(Memory::NONE, |output| memory(&output));
        self.meet_all(call, (memory(&input), output), |scratch, inside| {
            let to = |rank: usize, published: &Published| {
                (rank == root as usize).then(|| element(published.output, input.dtype(), share.start))
            };
            // SAFETY: every rank brought as many elements, root also where they go; this rank alone touches its share.
            unsafe { scratch.reduce(queue, inside, (share.clone(), input.dtype()), reduction, to) }
        })
    }

    fn reduce_scatter(
        &self,
        queue: &mut Queue<'_>,
        input: View<'_>,
        output: View<'_>,
        reduction: Reduction,
    ) -> Result<()> {
        let call = Call::new(Operation::ReduceScatter, Some(&output)).reducing(reduction);
        let (n, me) = (output.numel(), self.rank as usize);
        self.meet_all(call, (memory(&input), memory(&output)), |scratch, inside| {
            let to = |rank: usize, published: &Published| (rank == me).then_some(published.output.data);
            // SAFETY: every rank brought a part of n elements for each; this one alone touches those for itself.
            unsafe { scratch.reduce(queue, inside, (me * n..(me + 1) * n, input.dtype()), reduction, to) }
        })
    }

    fn all_gather(&self, queue: &mut Queue<'_>, input: View<'_>, output: View<'_>) -> Result<()> {
        let call = Call::new(Operation::AllGather, Some(&input));
        let (n, dtype) = (input.numel(), input.dtype());
        self.meet_all(call, (memory(&input), memory(&output)), |scratch, inside| {
            for (rank, published) in scratch.ranks.iter().enumerate() {
                let to = element(memory(&output), dtype, rank * n);
                // SAFETY: every rank brought n elements, and this one a place for those of each.
                unsafe { copy(queue, inside, (to, published.input.data), dtype, n) }?;
            }
            Ok(())
        })
    }

    fn broadcast(&self, queue: &mut Queue<'_>, x: View<'_>, root: u32) -> Result<()> {
        let call = Call::new(Operation::Broadcast, Some(&x)).rooted(root);
        let is_root = self.rank == root;
        let brought = if is_root { (memory(&x), Memory::NONE) } else { (Memory::NONE, memory(&x)) };
        self.meet_all(call, brought, |scratch, inside| {
            if is_root {
                return Ok(());
            }
            let from = scratch.ranks[root as usize].input.data;
            // SAFETY: root brought as many elements as this rank has.
            unsafe { copy(queue, inside, (x.data(), from), x.dtype(), x.numel()) }
        })
    }

    fn all_to_all(&self, queue: &mut Queue<'_>, input: View<'_>, output: View<'_>) -> Result<()> {
        let call = Call::new(Operation::AllToAll, Some(&input));
        let (n, dtype) = (input.numel() / self.rendezvous.world() as usize, input.dtype());
        self.meet_all(call, (memory(&input), memory(&output)), |scratch, inside| {
            for (rank, published) in scratch.ranks.iter().enumerate() {
                let to = element(memory(&output), dtype, rank * n);
                let from = element(published.input, dtype, self.rank as usize * n);
                // SAFETY: every rank brought n elements for each, and this one a place for those of each.
                unsafe { copy(queue, inside, (to, from), dtype, n) }?;
            }
            Ok(())
        })
    }

    fn send(&self, _: &mut Queue<'_>, x: View<'_>, to: u32) -> Result<()> {
        let place = Place::Message { from: self.rank, to };
        let call = Call::new(Operation::Send, Some(&x));
        self.meet((place, 0), call, (memory(&x), Memory::NONE), |_, _| Ok(()))
    }

    fn receive(&self, queue: &mut Queue<'_>, x: View<'_>, from: u32) -> Result<()> {
        let place = Place::Message { from, to: self.rank };
        let call = Call::new(Operation::Receive, Some(&x));
        self.meet((place, 1), call, (Memory::NONE, memory(&x)), |scratch, inside| {
            let sent = scratch.ranks[0].input.data;
            // SAFETY: the sender brought as many elements as this rank has.
            unsafe { copy(queue, inside, (x.data(), sent), x.dtype(), x.numel()) }
        })
    }

    fn barrier(&self, _: &mut Queue<'_>) -> Result<()> {
        self.meet_all(Call::new(Operation::Barrier, None), (Memory::NONE, Memory::NONE), |_, _| Ok(()))
    }

    fn abort(&self) {
        self.rendezvous.abort(self.rank);
    }

    fn async_error(&self) -> Result<()> {
        self.rendezvous.async_error()
    }

    fn set_tag(&self, tag: Tag) -> Result<Tag> {
        Ok(std::mem::replace(&mut self.scratch.take()?.tag, tag))
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.rendezvous.depart(self.rank);
    }
}
