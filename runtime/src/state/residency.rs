//! Where parameters are: reading and writing their parts, and the weights that the model uses.

use super::group::Group;
use super::lane::{Action, Job};
use super::machine::Machine;
use super::parameter::{Parameter, Part};
use super::{Inner, State};
use crate::comm::Communicator;
use crate::error::{Error, Result, Status};
use crate::shard::Stage;
use crate::shard::gathered::room;
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
        if sharded || !inner.group_of(i).is_plain(part) {
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
        inner.drain(&mut queue)?;
        let (group, parameter) = (inner.group_of(i), &inner.parameters[i]);
        match (inner.ranks().filter(|_| sharded), group.part(parameter, part)) {
            (Some(ranks), _) => collect(ranks, &mut queue, group, parameter, destination, |queue, range, y| {
                group.span(part, range).read(queue, y)
            }),
            (None, Some(x)) => queue.submit(&Cast { x, rounding: Rounding::NearestEven, y: destination }),
            (None, None) => {
                group.span(part, parameter.range.clone()).read(&mut queue, destination.span(0..destination.numel()))
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
        let (sharded, plain) = (inner.is_sharded(Part::Master), inner.group_of(i).is_plain(part));
        if !plain {
            source.expect_dtype("source", &[DType::F32])?;
        }
        if sharded || !plain {
            source.expect_contiguous("source")?;
        }
        let mut queue = self.begin(stream)?;
        inner.drain(&mut queue)?;
        let (group, parameter) = (inner.group_of(i), &inner.parameters[i]);
        if !sharded {
            let Some(destination) = group.part(parameter, part) else {
                let span = group.span(part, parameter.range.clone());
                return span.write(&mut queue, source.span(0..source.numel()));
            };
            let weight = group.weight_copy(parameter).filter(|_| part == Part::Master);
            let round = weight.map(|weight| WriteBack { master: destination, weight });
            let copy = Cast { x: source, rounding: Rounding::NearestEven, y: destination };
            queue.prepare(&copy)?;
            round.iter().try_for_each(|op| queue.prepare(op))?;
            queue.run(&copy)?;
            return round.iter().try_for_each(|op| queue.run(op));
        }
        let start = parameter.range.start;
        let own =
            group.shards().division.pieces(parameter.range.clone()).find(|(rank, _)| *rank == inner.sharding.rank);
        if let Some((_, range)) = own {
            let x = source.span(range.start - start..range.end - start);
            group.span(part, range).write(&mut queue, x)?;
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
        let weight = if inner.gathers() {
            inner.gather(&mut queue, i)?
        } else {
            if let Some(lane) = &inner.lane {
                lane.wait(&mut queue, inner.exchange.group_arrivals[inner.parameters[i].info.group as usize])?;
            }
            inner.group_of(i).weight(&inner.parameters[i]).expect("this rank has all weights")
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

    /// The weights of parameter `i`, from all ranks, and after them those that are expected next.
    fn gather<'a>(&mut self, queue: &mut Queue<'_>, i: usize) -> Result<View<'a>> {
        let busy = |machine: &Machine, p: usize| machine.acquisitions(p) > 0;
        let place = match self.exchange.gathered.find(i) {
            Some(place) => place,
            None => {
                let Some(place) = self.fetch(queue, i, busy)? else {
                    let (bytes, has) = (self.parameters[i].weight_bytes(), self.exchange.gathered.capacity());
                    let held = self.exchange.gathered.held(|p| busy(&self.machine, p));
                    return Err(Error::new(
                        Status::OutOfBudget,
                        format!(
                            "the weights of parameter {i} '{}' need {bytes} bytes of the memory for weights in use, of which \
                             acquired parameters hold {held} of {has}; release some, or create the state with larger \
                             gather_bytes",
                            self.parameters[i].name()
                        ),
                    ));
                };
                place
            }
        };
        self.exchange.forecast.acquired(i as u32);
        if self.overlap {
            self.prefetch(queue, i)?;
        }
        self.lane.as_ref().expect("there are other ranks").wait(queue, self.exchange.arrivals[i])?;
        Ok(self.exchange.weights(&place, &self.parameters[i]))
    }

    /// Gives the job that brings the weights of parameter `i` to a place, which none of the busy ones loses; None when there
    /// is no room.
    fn fetch(
        &mut self,
        queue: &mut Queue<'_>,
        i: usize,
        busy: impl Fn(&Machine, usize) -> bool,
    ) -> Result<Option<Range<usize>>> {
        let Inner { exchange, groups, parameters, machine, lane, sharding, .. } = self;
        let (parameter, group) = (&parameters[i], &groups[parameters[i].info.group as usize]);
        let Some(place) = exchange.gathered.place(i, parameter.weight_bytes(), |p| busy(machine, p)) else {
            return Ok(None);
        };
        let weights = exchange.weights(&place, parameter);
        let start = parameter.range.start;
        let mut actions = Vec::new();
        for (root, range) in group.shards().division.pieces(parameter.range.clone()) {
            let x = weights.span(range.start - start..range.end - start);
            if root == sharding.rank {
                actions.push(Action::Copy { from: group.weight_span(range), to: x });
            }
            actions.push(Action::Broadcast { x, root });
        }
        let name = format!("weights of {i} '{}'", parameter.name());
        match lane.as_mut().expect("there are other ranks").give(queue, Job { name, actions }) {
            Ok(ticket) => exchange.arrivals[i] = ticket,
            Err(error) => {
                exchange.gathered.forget(i);
                return Err(error);
            }
        }
        Ok(Some(place))
    }

    /// Fetches what is expected to be acquired after parameter `i`, up to half of the memory for it.
    fn prefetch(&mut self, queue: &mut Queue<'_>, i: usize) -> Result<()> {
        const FARTHEST: usize = 64;
        let next: Vec<usize> = self.exchange.forecast.next().iter().take(FARTHEST).map(|p| *p as usize).collect();
        let mut rest = self.exchange.gathered.capacity() / 2;
        for (n, &p) in next.iter().enumerate() {
            let Some(left) = rest.checked_sub(room(self.parameters[p].weight_bytes())) else { break };
            rest = left;
            if self.exchange.gathered.find(p).is_some() {
                continue;
            }
            let needed = |machine: &Machine, q: usize| machine.acquisitions(q) > 0 || q == i || next[..n].contains(&q);
            if self.fetch(queue, p, needed)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Makes the weights that the model reads those that their owners have updated.
    pub(super) fn share_weights(&mut self, queue: &mut Queue<'_>) -> Result<()> {
        let Inner { exchange, groups, lane, sharding, .. } = self;
        exchange.gathered.clear();
        let Some(lane) = lane else { return Ok(()) };
        if !matches!(sharding.stage, Stage::Optimizer | Stage::Gradients) {
            return Ok(());
        }
        for (g, group) in groups.iter().enumerate().filter(|(_, group)| !group.desc.frozen) {
            let shards = group.shards();
            let (input, output) = (group.weight_span(shards.own.clone()), group.weight_span(shards.all.clone()));
            let job = Job { name: format!("weights of group {g}"), actions: vec![Action::AllGather { input, output }] };
            exchange.group_arrivals[g] = lane.give(queue, job)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::{Comm, CommDesc};
    use crate::runtime::{Runtime, RuntimeDesc};
    use crate::state::{GroupDesc, StateDesc};

    /// Which of six parameters are there after the first has been acquired, in a step that follows one like it.
    fn fetched(runtime: &Runtime, comm: &Comm, overlap: bool) -> Vec<usize> {
        let stage = Stage::Parameters;
        let desc = StateDesc { comm: Some(comm), stage, overlap, gather_bytes: 4 * 2048, ..StateDesc::default() };
        let (state, stream) = (State::new(runtime, &desc).unwrap(), Stream::new(runtime).unwrap());
        state.add_group(&GroupDesc::default()).unwrap();
        for name in [c"0", c"1", c"2", c"3", c"4", c"5"] {
            state.add_parameter(0, name, &[1000]).unwrap();
        }
        state.seal().unwrap();
        let mut there = Vec::new();
        for _ in 0..2 {
            state.begin_step().unwrap();
            for p in [0, 3, 1, 5] {
                state.acquire(p, &stream).unwrap();
                if p == 0 {
                    let mut inner = state.take().unwrap();
                    there = (0..6).filter(|p| inner.exchange.gathered.find(*p).is_some()).collect();
                }
                state.release(p, &stream).unwrap();
            }
            state.abandon_step().unwrap();
            // Nothing but what is fetched from now on.
            state.take().unwrap().exchange.gathered.clear();
        }
        there
    }

    #[test]
    fn what_was_acquired_next_is_fetched_ahead() {
        for (overlap, expected) in [(false, &[0][..]), (true, &[0, 1, 3])] {
            let runtimes = [(); 2].map(|()| Runtime::new(&RuntimeDesc { threads: 1, ..Default::default() }).unwrap());
            let comms = Comm::local(&runtimes, &CommDesc::default()).unwrap();
            std::thread::scope(|scope| {
                for (runtime, comm) in runtimes.iter().zip(&comms) {
                    scope.spawn(move || assert_eq!(fetched(runtime, comm, overlap), expected));
                }
            });
        }
    }
}
