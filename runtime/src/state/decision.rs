//! The memory in which the device decides what becomes of a step.
//!
//! On the device, 64-bit words: the accumulator of the squared norm, the count of elements that are not finite, the
//! record of the first overflow, the control block, and what the ranks tell each other: the record of each, and what each
//! has found. The first three are of one step. On the host, where the device reads and writes it: the range of each
//! parameter in what this rank sums, group by group, and a copy of the control block.

use super::group::Group;
use super::parameter::Parameter;
use crate::error::Result;
use crate::event::Event;
use crate::memory::{Block, Charge, Purpose};
use crate::readback::Readback;
use crate::stream::Queue;
use scalert_kernels::dtype::DType;
use scalert_kernels::exact_sum;
use scalert_kernels::ops::choose_overflow::FOUND_WORDS;
use scalert_kernels::ops::first_overflow::RANGE_WORDS;
use scalert_kernels::ops::step_control::Control;
use scalert_kernels::view::View;
use std::ops::Range;

const ACCUMULATOR: usize = 0;
const COUNT: usize = ACCUMULATOR + exact_sum::WORDS;
const OVERFLOW: usize = COUNT + 1;
/// The words before it are of one step.
const CONTROL: usize = OVERFLOW + 1;
const MARKS: usize = CONTROL + Control::WORDS;

/// All words of a group of ranks; a single one tells nobody.
fn words(world: usize) -> usize {
    MARKS + if world == 1 { 0 } else { world * (1 + FOUND_WORDS) + 1 }
}

/// The memory of a state's decisions.
pub(super) struct Decision {
    words: Block,
    world: usize,
    ranges: Block,
    figures: Readback,
    /// Rows of the ranges of each group.
    rows: Vec<Range<usize>>,
}

impl Decision {
    /// What it takes of the device.
    pub(super) fn device_charge(world: usize) -> Charge {
        Charge { purpose: Purpose::Other, bytes: (words(world) * size_of::<i64>()) as u64 }
    }

    /// What it takes of [`Readback::tier`].
    pub(super) fn host_charges(parameters: usize) -> Vec<Charge> {
        let charge = |words: usize| Charge { purpose: Purpose::Other, bytes: (words * size_of::<i64>()) as u64 };
        vec![charge(parameters * RANGE_WORDS), charge(Control::WORDS)]
    }

    /// Over the blocks that the charges asked for.
    pub(super) fn new(
        words: Block,
        world: usize,
        [ranges, figures]: [Block; 2],
        copied: Event,
        groups: &[Group],
        parameters: &[Parameter],
    ) -> Decision {
        let mut rows = Vec::with_capacity(groups.len());
        let mut next = 0;
        for (g, group) in groups.iter().enumerate() {
            let own = &group.shards().own;
            let first = next;
            for (number, parameter) in parameters.iter().enumerate().filter(|(_, p)| p.info.group as usize == g) {
                let (start, end) = (parameter.range.start.max(own.start), parameter.range.end.min(own.end));
                if start >= end && world > 1 {
                    continue;
                }
                let range = [number as i64, (start - own.start) as i64, (end - start) as i64];
                // SAFETY: the block has a range for each parameter, and no one else knows it yet.
                unsafe { ranges.data().cast::<[i64; RANGE_WORDS]>().add(next).write(range) };
                next += 1;
            }
            rows.push(first..next);
        }
        Decision { words, world, ranges, figures: Readback::new(figures, copied), rows }
    }

    fn view<'a>(&self, word: usize, words: usize) -> View<'a> {
        let data = self.words.data().cast::<i64>().as_ptr().wrapping_add(word);
        // SAFETY: the words lie inside the block; the state lends them to one call at a time.
        unsafe { View::new("decision", data.cast(), DType::I64, &[words], &[1]) }.expect("a valid view")
    }

    /// The accumulator of the squared norm.
    pub(super) fn square_sum<'a>(&self) -> View<'a> {
        self.view(ACCUMULATOR, exact_sum::WORDS)
    }

    /// The count of elements that are not finite.
    pub(super) fn nonfinite<'a>(&self) -> View<'a> {
        self.view(COUNT, 1)
    }

    /// The record of the first overflow.
    pub(super) fn overflow<'a>(&self) -> View<'a> {
        self.view(OVERFLOW, 1)
    }

    /// The records of all ranks.
    pub(super) fn marks<'a>(&self) -> View<'a> {
        if self.world == 1 { self.overflow() } else { self.view(MARKS, self.world) }
    }

    /// What this rank has found.
    pub(super) fn found<'a>(&self) -> View<'a> {
        self.view(CONTROL + Control::OVERFLOW_WORD, FOUND_WORDS)
    }

    /// What all ranks have found, one behind the other.
    pub(super) fn all_found<'a>(&self) -> View<'a> {
        self.view(MARKS + self.world, self.world * FOUND_WORDS)
    }

    /// A count that nobody reads: what is not finite in sums over ranks.
    pub(super) fn nonfinite_sums<'a>(&self) -> View<'a> {
        self.view(MARKS + self.world * (1 + FOUND_WORDS), 1)
    }

    /// The control block.
    pub(super) fn control<'a>(&self) -> View<'a> {
        self.view(CONTROL, Control::WORDS)
    }

    /// Whether the step is skipped: a word of the control block.
    pub(super) fn skipped<'a>(&self) -> View<'a> {
        self.view(CONTROL + Control::SKIPPED_WORD, 1)
    }

    /// The ranges of a group's parameters.
    pub(super) fn ranges<'a>(&self, group: usize) -> View<'a> {
        let Range { start, end } = self.rows[group];
        let data = self.ranges.data().cast::<[i64; RANGE_WORDS]>().as_ptr().wrapping_add(start);
        // SAFETY: the rows lie inside the block, which is written no more.
        unsafe { View::new("ranges", data.cast(), DType::I64, &[end - start, RANGE_WORDS], &[RANGE_WORDS, 1]) }
            .expect("a valid view")
    }

    /// Forgets the sums and the overflow of an earlier step.
    pub(super) fn clear(&self, queue: &mut Queue<'_>) -> Result<()> {
        // SAFETY: the words lie inside the block, which work on the stream alone uses.
        unsafe { queue.zero(self.words.data().as_ptr(), CONTROL * size_of::<i64>()) }
    }

    /// Copies the control block for [`Decision::figures_wait`].
    pub(super) fn enqueue_figures(&self, queue: &mut Queue<'_>) -> Result<()> {
        self.figures.enqueue(queue, &self.control())
    }

    /// Waits for the control block of the last step.
    pub(super) fn figures_wait(&self) -> Result<Control> {
        // SAFETY: a control block is plain words: zeros at first, then copies of what the device has.
        unsafe { self.figures.wait() }
    }
}
