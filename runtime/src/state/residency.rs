//! Where parameters are: reading and writing their parts, and the weights that the model uses.

use super::group::Group;
use super::parameter::{Parameter, Part};
use super::{Inner, State};
use crate::comm::{Communicator, Named};
use crate::error::{Error, Result, Status};
use crate::shard::Stage;
use crate::stream::{Queue, Stream};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::cast::{Cast, Rounding};
use scalert_kernels::ops::fill::Fill;
use scalert_kernels::ops::write_back::WriteBack;
use scalert_kernels::view::View;
use std::ops::Range;

impl State {
    /// Copies a part of a parameter out; `destination` is f32 of the parameter's shape. The gradient within a step
    /// alone, where there are several ranks between micro-batches. What is sharded is collected: all ranks call it, and
    /// `destination` is contiguous.
    pub fn read(&self, stream: &Stream, parameter: u32, part: Part, destination: View<'_>) -> Result<()> {
        let mut inner = self.take()?;
        let i = inner.index(parameter)?;
        inner.machine.can_use().map_err(|r| inner.refuse(r))?;
        if part == Part::Gradient && !inner.machine.in_step() {
            return Err(Error::precondition("no step has been begun, so there is no gradient"));
        }
        expect_part(inner.group_of(i), part)?;
        destination.expect_dtype("destination", &[DType::F32])?;
        destination.expect_shape("destination", &inner.parameters[i].info.shape, "the parameter's shape")?;
        destination.expect_writable_rows("destination")?;
        let sharded = inner.is_sharded(part);
        if sharded {
            destination.expect_contiguous("destination")?;
        }
        if part == Part::Gradient && inner.comm.is_some() && inner.machine.is_in_micro() {
            return Err(Error::precondition(
                "a micro-batch has been begun; gradients of all ranks are known at its end",
            ));
        }
        let mut queue = self.begin(stream)?;
        if part == Part::Gradient && !inner.machine.has_gradient(i) {
            // What the accumulator holds is of an earlier step; the first micro-batch overwrites it.
            return queue.submit(&Fill { value: 0.0, y: destination });
        }
        if part == Part::Gradient {
            inner.reduce(&mut queue)?;
        }
        let (group, parameter) = (inner.group_of(i), &inner.parameters[i]);
        let copy = |x, y| Cast { x, rounding: Rounding::NearestEven, y };
        match inner.ranks().filter(|_| sharded) {
            Some(ranks) => collect(ranks, &mut queue, group, parameter, destination, |queue, range, y| {
                queue.submit(&copy(group.span(part, range), y))
            }),
            None => {
                let source = group.part(parameter, part).expect("this rank has everything");
                queue.submit(&copy(source, destination))
            }
        }
    }

    /// Copies a part of a parameter in; `source` is a float tensor of the parameter's shape. Outside of a step, while
    /// the parameter is not acquired. Writing the master weights also rounds them into the weight, as a step does. With
    /// several ranks all call it, with the same values; where the state is sharded, `source` is contiguous.
    pub fn write(&self, stream: &Stream, parameter: u32, part: Part, source: View<'_>) -> Result<()> {
        let mut inner = self.take()?;
        let i = inner.index(parameter)?;
        inner.machine.can_write(i).map_err(|r| inner.refuse(r))?;
        if part == Part::Gradient {
            return Err(Error::invalid("part", "GRADIENT is read only"));
        }
        expect_part(inner.group_of(i), part)?;
        source.expect_dtype("source", &DType::FLOATS)?;
        source.expect_shape("source", &inner.parameters[i].info.shape, "the parameter's shape")?;
        source.expect_rows("source")?;
        let sharded = inner.is_sharded(Part::Master);
        if sharded {
            source.expect_contiguous("source")?;
        }
        let mut queue = self.begin(stream)?;
        let (group, parameter) = (inner.group_of(i), &inner.parameters[i]);
        let round = part == Part::Master && group.has_weight_copy();
        let copy = |x, y| Cast { x, rounding: Rounding::NearestEven, y };
        if !sharded {
            let destination = group.part(parameter, part).expect("this rank has everything");
            let weight = group.weight(parameter).filter(|_| round);
            let round = weight.map(|weight| WriteBack { master: destination, weight });
            let copy = copy(source, destination);
            queue.prepare(&copy)?;
            round.iter().try_for_each(|op| queue.prepare(op))?;
            queue.run(&copy)?;
            return round.iter().try_for_each(|op| queue.run(op));
        }
        let start = parameter.range.start;
        let own =
            group.shards().division.pieces(parameter.range.clone()).find(|(rank, _)| *rank == inner.sharding.rank);
        if let Some((_, range)) = own {
            let destination = group.span(part, range.clone());
            queue.submit(&copy(source.span(range.start - start..range.end - start), destination))?;
            if round {
                queue.submit(&WriteBack { master: destination, weight: group.weight_span(range) })?;
            }
        }
        if part == Part::Master {
            match inner.ranks().filter(|_| !inner.gathers()) {
                // The weights that the model reads are whole on every rank: each has them from their owners.
                Some(ranks) => {
                    let weight = group.weight(parameter).expect("this rank has all weights");
                    collect(ranks, &mut queue, group, parameter, weight, |_, _, _| Ok(()))?;
                }
                None => inner.exchange.gathered.forget(i),
            }
        }
        Ok(())
    }

    /// The current weights of a parameter for work on `stream` until release: read only, contiguous, in the group's
    /// weight dtype. Where weights are sharded they are gathered, unless they still are: all ranks acquire the same
    /// parameters in the same order. `OUT_OF_BUDGET` when those that are acquired leave no room.
    pub fn acquire(&self, parameter: u32, stream: &Stream) -> Result<View<'_>> {
        let mut inner = self.take()?;
        let i = inner.index(parameter)?;
        inner.machine.can_acquire(i).map_err(|r| inner.refuse(r))?;
        let mut queue = self.begin(stream)?;
        let weight = match inner.group_of(i).weight(&inner.parameters[i]).filter(|_| !inner.gathers()) {
            Some(weight) => weight,
            None => inner.gather(&mut queue, i)?,
        };
        inner.machine.acquire(i);
        Ok(weight)
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

impl Inner {
    /// Whether ranks have different elements of a part.
    fn is_sharded(&self, part: Part) -> bool {
        let from = match part {
            Part::Master | Part::Moment1 | Part::Moment2 => Stage::Optimizer,
            Part::Gradient => Stage::Gradients,
        };
        self.comm.is_some() && self.sharding.stage >= from
    }

    /// Whether weights are sharded, so that they are gathered for use.
    fn gathers(&self) -> bool {
        self.comm.is_some() && self.sharding.stage == Stage::Parameters
    }

    /// The weights of parameter `i`, from all ranks.
    fn gather<'a>(&mut self, queue: &mut Queue<'_>, i: usize) -> Result<View<'a>> {
        let Inner { exchange, groups, parameters, machine, comm, .. } = self;
        let (parameter, group) = (&parameters[i], &groups[parameters[i].info.group as usize]);
        if let Some(place) = exchange.gathered.find(i) {
            return Ok(exchange.weights(&place, parameter));
        }
        let bytes = parameter.weight_bytes();
        let busy = |p: usize| machine.acquisitions(p) > 0;
        let Some(place) = exchange.gathered.place(i, bytes, busy) else {
            let (has, held) = (exchange.gathered.capacity(), exchange.gathered.held(busy));
            return Err(Error::new(
                Status::OutOfBudget,
                format!(
                    "the weights of parameter {i} '{}' need {bytes} bytes of the memory for weights in use, of which \
                     acquired parameters hold {held} of {has}; release some, or create the state with larger gather_bytes",
                    parameter.name()
                ),
            ));
        };
        let weights = exchange.weights(&place, parameter);
        let ranks = comm.as_ref().expect("weights are gathered from other ranks").communicator();
        let _named = Named::new(ranks, &format!("weights of {i} '{}'", parameter.name()))?;
        let gathered = collect(ranks, queue, group, parameter, weights, |queue, range, y| {
            let x = group.weight_span(range);
            // SAFETY: the same elements, in two memories of this state.
            unsafe { queue.copy(y.data(), x.data(), y.numel() * y.dtype().size()) }
        });
        if gathered.is_err() {
            exchange.gathered.forget(i);
        }
        gathered.map(|()| weights)
    }

    /// Makes the weights that the model reads those that their owners have updated.
    pub(super) fn share_weights(&mut self, queue: &mut Queue<'_>) -> Result<()> {
        self.exchange.gathered.clear();
        let Some(ranks) = self.ranks() else { return Ok(()) };
        if !matches!(self.sharding.stage, Stage::Optimizer | Stage::Gradients) {
            return Ok(());
        }
        let _named = Named::new(ranks, "weights of a step")?;
        for (_, group) in self.trained() {
            let shards = group.shards();
            ranks.all_gather(queue, group.weight_span(shards.own.clone()), group.weight_span(shards.all.clone()))?;
        }
        Ok(())
    }
}

/// Fills `whole`, which has the elements of a parameter, from the ranks that own them; `enter` puts the elements of the flat
/// space that this rank owns there.
fn collect<'a>(
    ranks: &dyn Communicator,
    queue: &mut Queue<'_>,
    group: &Group,
    parameter: &Parameter,
    whole: View<'a>,
    mut enter: impl FnMut(&mut Queue<'_>, Range<usize>, View<'a>) -> Result<()>,
) -> Result<()> {
    let start = parameter.range.start;
    for (owner, range) in group.shards().division.pieces(parameter.range.clone()) {
        let piece = whole.span(range.start - start..range.end - start);
        if owner == ranks.rank() {
            enter(queue, range, piece)?;
        }
        ranks.broadcast(queue, piece, owner)?;
    }
    Ok(())
}

fn expect_part(group: &Group, part: Part) -> Result<()> {
    if group.has(part) {
        return Ok(());
    }
    Err(Error::invalid("part", format!("{} is not kept by the optimizer of the parameter's group", part.name())))
}
