//! Where parameters lie in their group: pure arithmetic.
//!
//! A group is one flat index space. Its parameters stand in registration order, each padded to a multiple of
//! [`BLOCK`] elements, so that a block of an exact sum or of a quantised format belongs to one parameter, and any
//! division of the space at multiples of [`BLOCK`] (over ranks, buckets or tiers) divides whole blocks.

use scalert_kernels::exact_sum;
use std::ops::Range;

/// Elements that a parameter is padded to.
pub(crate) const BLOCK: usize = exact_sum::BLOCK;

/// Largest number of elements of a group: the bytes of any buffer of it fit the address space.
const MAX_LEN: usize = isize::MAX as usize / size_of::<f64>();

/// The flat index space of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    len: usize,
}

impl Layout {
    /// Elements of the space, padding included.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Places a parameter behind the others and gives the range of its elements; None when there is no room.
    pub(crate) fn push(&mut self, numel: usize) -> Option<Range<usize>> {
        let start = self.len;
        let end = start.checked_add(numel.checked_next_multiple_of(BLOCK)?).filter(|end| *end <= MAX_LEN)?;
        self.len = end;
        Some(start..start + numel)
    }
}

/// A flat space divided over ranks: equal contiguous ranges, each a multiple of [`BLOCK`]. The last ones may reach beyond
/// the space, or be empty of it altogether: buffers that all ranks share have the division's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Division {
    world: usize,
    share: usize,
}

impl Division {
    /// Divides `len` elements over `world` ranks.
    pub(crate) fn new(len: usize, world: u32) -> Division {
        let world = world as usize;
        Division { world, share: len.div_ceil(BLOCK).div_ceil(world) * BLOCK }
    }

    /// Elements of all ranks' ranges.
    pub(crate) fn len(&self) -> usize {
        self.world * self.share
    }

    /// The range of a rank.
    pub(crate) fn of(&self, rank: u32) -> Range<usize> {
        let start = rank as usize * self.share;
        start..start + self.share
    }

    /// The parts of a range, in order, with the rank that each belongs to. An empty range has none.
    pub(crate) fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = (u32, Range<usize>)> {
        let Division { share, .. } = *self;
        let first = range.start / share.max(1);
        let last = range.end.div_ceil(share.max(1));
        let inside = move |rank: usize| range.start.max(rank * share)..range.end.min((rank + 1) * share);
        (first..last).map(move |rank| (rank as u32, inside(rank))).filter(|(_, piece)| !piece.is_empty())
    }
}

/// Elements of a shape; None when they do not fit the address space.
pub(crate) fn numel(shape: &[usize]) -> Option<usize> {
    // A shape with a zero must still have sizes that fit, so that strides over it do.
    shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent.max(1))).filter(|n| *n <= MAX_LEN)?;
    Some(shape.iter().product())
}

/// Strides in elements of a contiguous tensor.
pub(crate) fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d] * shape[d].max(1);
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parameters_stand_in_order_without_overlap_and_blocks_have_one_owner(
            sizes in prop::collection::vec(0usize..2000, 0..40),
        ) {
            let mut layout = Layout::default();
            let ranges: Vec<_> = sizes.iter().map(|n| layout.push(*n).unwrap()).collect();
            let mut end = 0;
            for (range, n) in ranges.iter().zip(&sizes) {
                prop_assert_eq!(range.len(), *n);
                prop_assert_eq!(range.start, end, "no gap but the padding");
                prop_assert!(range.start.is_multiple_of(BLOCK));
                end = range.end.next_multiple_of(BLOCK);
            }
            prop_assert_eq!(layout.len(), end);
            prop_assert!(layout.len() < sizes.iter().sum::<usize>() + BLOCK * sizes.len() + 1);
        }

        #[test]
        fn every_element_has_one_rank_and_every_block_too(
            len in 0usize..20_000,
            world in 1u32..9,
            cut in (0usize..20_000, 0usize..20_000),
        ) {
            let division = Division::new(len, world);
            let padded = len.next_multiple_of(BLOCK);
            prop_assert!(division.len() >= padded);
            prop_assert!(division.len() < padded + world as usize * BLOCK, "less than a block more for each rank");
            let mut end = 0;
            for rank in 0..world {
                let range = division.of(rank);
                prop_assert_eq!(range.start, end);
                prop_assert!(range.len().is_multiple_of(BLOCK));
                prop_assert_eq!(range.len(), division.of(0).len());
                end = range.end;
            }
            prop_assert_eq!(end, division.len());
            let range = cut.0.min(cut.1).min(len)..cut.0.max(cut.1).min(len);
            let mut at = range.start;
            for (rank, piece) in division.pieces(range.clone()) {
                let own = division.of(rank);
                prop_assert!(!piece.is_empty() && own.start <= piece.start && piece.end <= own.end);
                prop_assert_eq!(piece.start, at);
                at = piece.end;
            }
            prop_assert!(at == range.end || range.is_empty());
        }

        #[test]
        fn strides_reach_every_element_once(shape in prop::collection::vec(0usize..5, 0..6)) {
            let strides = contiguous_strides(&shape);
            let n = numel(&shape).unwrap();
            let mut seen = vec![false; n];
            for i in 0..n {
                let (mut rest, mut offset) = (i, 0);
                for d in (0..shape.len()).rev() {
                    offset += rest % shape[d] * strides[d];
                    rest /= shape[d];
                }
                prop_assert_eq!(offset, i);
                seen[offset] = true;
            }
            prop_assert!(seen.into_iter().all(|s| s));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let mut layout = Layout::default();
        layout.push(5).unwrap();
        for n in [usize::MAX, usize::MAX - BLOCK, MAX_LEN] {
            assert_eq!(layout.push(n), None);
            assert_eq!(layout.len(), BLOCK);
        }
        assert_eq!(numel(&[1 << 40, 1 << 40]), None);
        assert_eq!(numel(&[0, 1 << 40, 1 << 40]), None);
        assert_eq!(numel(&[]), Some(1));
        assert_eq!(numel(&[3, 0]), Some(0));
    }
}
