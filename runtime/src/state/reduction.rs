//! Gradients on their way into the accumulators: at once where there is one rank, else through the bucket, which sums
//! them over the ranks when it is full or its micro-batch is over.
//!
//! An element of the accumulators is ((R0 + R1) + R2) ..., with Rm the sum of its gradients of micro-batch m over the
//! ranks: the same bits at every stage and with any bucket, where the communicator sums in one order. Summed at the step,
//! it is the sum over the ranks of what each has added up.

use super::lane::{Action, Job};
use super::{Inner, Part};
use crate::comm::{Named, Reduction};
use crate::error::{Error, Result};
use crate::shard::Stage;
use crate::shard::bucket::runs;
use crate::stream::Queue;
use scalert_kernels::ops::accumulate::Accumulate;
use scalert_kernels::ops::step_control::overflow_mark;
use scalert_kernels::view::View;
use std::ops::Range;

impl Inner {
    /// The operation by which x enters y, the gradient of a parameter of the host.
    fn entry<'a>(&self, x: View<'a>, overwrite: bool, y: View<'a>, parameter: u32) -> Accumulate<'a> {
        let decision = self.decision();
        Accumulate {
            x,
            overwrite,
            y,
            nonfinite: decision.nonfinite(),
            square_sum: None,
            overflow: Some(decision.overflow()),
            overflow_mark: overflow_mark(self.machine.micros(), parameter),
        }
    }

    /// Takes the gradient of parameter `i`, whose dtype, shape and rows have been checked.
    pub(super) fn take_gradient(&mut self, queue: &mut Queue<'_>, i: usize, gradient: View<'_>) -> Result<()> {
        let micro = self.machine.micros();
        if self.comm.is_none() || !self.each_micro {
            let y = self.group_of(i).part(&self.parameters[i], Part::Gradient).expect("this rank has all gradients");
            let op = self.entry(gradient, micro == 0, y, i as u32);
            queue.prepare(&op)?;
            self.clear(queue)?;
            return queue.run(&op);
        }
        let Range { start, end } = self.parameters[i].range;
        let divided = end - start > self.exchange.bucket().capacity();
        if divided && !gradient.is_contiguous() {
            return Err(Error::invalid(
                "gradient",
                format!("has strides {:?}; it must be contiguous as it is larger than a bucket", gradient.stride()),
            ));
        }
        // What is refused is refused before the bucket knows of it. The largest piece says what they all need.
        queue.prepare(&if divided {
            let place = 0..self.exchange.bucket().capacity();
            self.entry(gradient.span(place.clone()), true, self.exchange.span(place), i as u32)
        } else {
            self.entry(gradient, true, self.exchange.gradient(0, &self.parameters[i]), i as u32)
        })?;
        if self.exchange.bucket().pieces().first().is_some_and(|piece| piece.micro != micro) {
            self.reduce(queue)?;
        }
        self.clear(queue)?;
        let mut rest = start..end;
        while !rest.is_empty() {
            let group = self.parameters[i].info.group;
            let bucket = self.exchange.bucket_mut().expect("gradients are summed at each micro-batch");
            let Some(piece) = bucket.push(i as u32, group, rest.clone(), micro) else {
                self.reduce(queue)?;
                continue;
            };
            let op = if divided {
                let x = gradient.span(piece.range.start - start..piece.range.end - start);
                self.entry(x, true, self.exchange.span(piece.place()), i as u32)
            } else {
                self.entry(gradient, true, self.exchange.gradient(piece.at, &self.parameters[i]), i as u32)
            };
            queue.submit(&op)?;
            rest.start = piece.range.end;
        }
        Ok(())
    }

    /// Gives the job that sums what waits in the bucket over the ranks, and adds it to the accumulators that this rank keeps.
    pub(super) fn reduce(&mut self, queue: &mut Queue<'_>) -> Result<()> {
        let Inner { exchange, groups, sharding, lane, decision, .. } = self;
        let (Some(lane), Some(decision), true) = (lane, decision, exchange.fills()) else { return Ok(()) };
        let (bucket, nonfinite) = (exchange.bucket(), decision.nonfinite_sums());
        let mut actions = Vec::new();
        let add = |group: u32, range: Range<usize>, place: Range<usize>, micro: u32| {
            Action::Accumulate(Box::new(Accumulate {
                x: exchange.span(place),
                overwrite: micro == 0,
                y: groups[group as usize].gradients(range),
                nonfinite,
                square_sum: None,
                overflow: None,
                overflow_mark: 0,
            }))
        };
        if sharding.stage < Stage::Gradients {
            actions.push(Action::AllReduce(exchange.span(0..bucket.used())));
            let pieces = bucket.pieces().iter();
            actions.extend(pieces.map(|piece| add(piece.group, piece.range.clone(), piece.place(), piece.micro)));
        } else {
            let owned: Vec<_> = bucket
                .pieces()
                .iter()
                .flat_map(|piece| {
                    let pieces = groups[piece.group as usize].shards().division.pieces(piece.range.clone());
                    pieces.map(move |(owner, range)| {
                        let at = piece.at + range.start - piece.range.start;
                        (owner, piece.group, range.clone(), at..at + range.len(), piece.micro)
                    })
                })
                .collect();
            let runs = runs(owned.iter().map(|(owner, .., place, _)| (*owner, place.clone())));
            actions.extend(runs.into_iter().map(|(root, run)| Action::Reduce { input: exchange.span(run), root }));
            let mine = owned.into_iter().filter(|(owner, ..)| *owner == sharding.rank);
            actions.extend(mine.map(|(_, group, range, place, micro)| add(group, range, place, micro)));
        }
        let name = format!("gradients of {}", numbers(bucket.pieces().iter().map(|piece| piece.parameter)));
        let ticket = lane.give(queue, Job { name, actions })?;
        let before = exchange.turn(ticket);
        lane.wait(queue, before)
    }

    /// Makes the accumulators those of all ranks and micro-batches.
    pub(super) fn reduce_all(&mut self, queue: &mut Queue<'_>) -> Result<()> {
        self.reduce(queue)?;
        self.drain(queue)?;
        if self.each_micro || self.machine.micros() == 0 {
            return Ok(());
        }
        let Some(ranks) = self.ranks() else { return Ok(()) };
        let _named = Named::new(ranks, "gradients of a step")?;
        for (_, group) in self.trained() {
            let shards = group.shards();
            let all = group.gradients(shards.all.clone());
            match self.sharding.stage {
                Stage::Replicated => ranks.all_reduce(queue, all, Reduction::Sum)?,
                // The rest of the gradients is not looked at before the next step overwrites it.
                _ => ranks.reduce_scatter(queue, all, group.gradients(shards.own.clone()), Reduction::Sum)?,
            }
        }
        Ok(())
    }
}

/// Numbers in words: neighbours, up or down, are a range.
fn numbers(numbers: impl Iterator<Item = u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((first, last)) if *first <= *last && number == *last + 1 => *last = number,
            Some((first, last)) if *first >= *last && number + 1 == *last => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let text = ranges.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}..{b}") });
    text.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn neighbours_are_ranges() {
        let text = |numbers: &[u32]| super::numbers(numbers.iter().copied());
        assert_eq!(text(&[9, 8, 7, 3, 4, 5, 5, 0]), "9..7 3..5 5 0");
        assert_eq!(text(&[]), "");
    }
}
