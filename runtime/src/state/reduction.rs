//! Gradients on their way into the accumulators: at once where there is one rank, else through the bucket, which sums
//! them over the ranks when it is full or its micro-batch is over.
//!
//! An element of the accumulators is ((R0 + R1) + R2) ..., with Rm the sum of its gradients of micro-batch m over the
//! ranks: the same bits at every stage and with any bucket, where the communicator sums in one order. Summed at the step,
//! it is the sum over the ranks of what each has added up.

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
        let divided = end - start > self.exchange.bucket.capacity();
        if divided && !gradient.is_contiguous() {
            return Err(Error::invalid(
                "gradient",
                format!("has strides {:?}; it must be contiguous as it is larger than a bucket", gradient.stride()),
            ));
        }
        // The largest piece says what they all need.
        let place = 0..(end - start).min(self.exchange.bucket.capacity());
        if divided {
            queue.prepare(&self.entry(gradient.span(place.clone()), true, self.exchange.span(place), i as u32))?;
        }
        if self.exchange.bucket.pieces().first().is_some_and(|piece| piece.micro != micro) {
            self.reduce(queue)?;
        }
        self.clear(queue)?;
        let mut rest = start..end;
        while !rest.is_empty() {
            let group = self.parameters[i].info.group;
            let Some(piece) = self.exchange.bucket.push(i as u32, group, rest.clone(), micro) else {
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

    /// Sums what waits in the bucket over the ranks, and adds it to the accumulators that this rank keeps.
    pub(super) fn reduce(&mut self, queue: &mut Queue<'_>) -> Result<()> {
        let Some(ranks) = self.ranks().filter(|_| self.exchange.bucket.used() > 0) else { return Ok(()) };
        let Inner { exchange, groups, sharding, .. } = &*self;
        let bucket = &exchange.bucket;
        let add = |queue: &mut Queue<'_>, group: u32, range: Range<usize>, place: Range<usize>, micro: u32| {
            queue.submit(&Accumulate {
                x: exchange.span(place),
                overwrite: micro == 0,
                y: groups[group as usize].gradients(range),
                nonfinite: self.decision().nonfinite(),
                square_sum: None,
                overflow: None,
                overflow_mark: 0,
            })
        };
        let named =
            Named::new(ranks, &format!("gradients of {}", numbers(bucket.pieces().iter().map(|p| p.parameter))))?;
        if sharding.stage < Stage::Gradients {
            ranks.all_reduce(queue, exchange.span(0..bucket.used()), Reduction::Sum)?;
            for piece in bucket.pieces() {
                add(queue, piece.group, piece.range.clone(), piece.place(), piece.micro)?;
            }
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
            for (owner, run) in runs(owned.iter().map(|(owner, .., place, _)| (*owner, place.clone()))) {
                let x = exchange.span(run);
                ranks.reduce(queue, x, (owner == sharding.rank).then_some(x), Reduction::Sum, owner)?;
            }
            for (owner, group, range, place, micro) in owned {
                if owner == sharding.rank {
                    add(queue, group, range, place, micro)?;
                }
            }
        }
        drop(named);
        self.exchange.bucket.clear();
        Ok(())
    }

    /// Makes the accumulators those of all ranks and micro-batches.
    pub(super) fn reduce_all(&mut self, queue: &mut Queue<'_>) -> Result<()> {
        self.reduce(queue)?;
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
