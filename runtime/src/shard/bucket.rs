//! A bucket: gradients that wait, one behind the other as they came, for the sum over ranks.

use std::ops::Range;

/// Elements that the places of a bucket are aligned to: 64 bytes of any dtype of at least two bytes.
const ALIGNMENT: usize = 32;

/// Part of a parameter's gradient in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The parameter.
    pub(crate) parameter: u32,
    /// Group of the parameter.
    pub(crate) group: u32,
    /// Elements of the flat space of the group.
    pub(crate) range: Range<usize>,
    /// First element in the bucket.
    pub(crate) at: usize,
    /// Micro-batch that it is of.
    pub(crate) micro: u32,
}

impl Piece {
    /// Its elements in the bucket.
    pub(crate) fn place(&self) -> Range<usize> {
        self.at..self.at + self.range.len()
    }
}

/// What waits in a bucket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bucket {
    capacity: usize,
    used: usize,
    pieces: Vec<Piece>,
}

impl Bucket {
    /// A bucket of `capacity` elements.
    pub(crate) fn new(capacity: usize) -> Bucket {
        Bucket { capacity, used: 0, pieces: Vec::new() }
    }

    /// Elements that it has room for.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Elements used, gaps included.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Puts the first elements of `range` into the bucket, as many as there is room for, and gives their piece. None when
    /// the bucket must be emptied first: a gradient that fits a bucket is not divided, and a larger one begins a bucket.
    pub(crate) fn push(&mut self, parameter: u32, group: u32, range: Range<usize>, micro: u32) -> Option<Piece> {
        let at = self.used.next_multiple_of(ALIGNMENT);
        let len = range.len().min(self.capacity);
        if len == 0 || at + len > self.capacity {
            return None;
        }
        let piece = Piece { parameter, group, range: range.start..range.start + len, at, micro };
        self.used = at + len;
        self.pieces.push(piece.clone());
        Some(piece)
    }

    /// What waits, in order.
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Forgets what waited.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
        self.pieces.clear();
    }
}

/// Joins neighbours of one owner: each run is an owner and elements of the bucket, the gaps between its pieces
/// included. `owned` are pieces in order of their place.
pub(crate) fn runs(owned: impl Iterator<Item = (u32, Range<usize>)>) -> Vec<(u32, Range<usize>)> {
    let mut runs: Vec<(u32, Range<usize>)> = Vec::new();
    for (owner, place) in owned {
        match runs.last_mut() {
            Some((last, run)) if *last == owner => run.end = place.end,
            _ => runs.push((owner, place)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_whole_and_in_order(
            sizes in prop::collection::vec(1usize..3000, 1..40),
            capacity in 1usize..2000,
        ) {
            let mut bucket = Bucket::new(capacity);
            let mut out: Vec<Vec<Range<usize>>> = vec![Vec::new(); sizes.len()];
            let mut empty = |bucket: &mut Bucket| {
                let mut end = 0;
                for piece in bucket.pieces() {
                    assert!(piece.at >= end && piece.at.is_multiple_of(ALIGNMENT) && piece.place().end <= capacity);
                    end = piece.place().end;
                    out[piece.group as usize].push(piece.range.clone());
                }
                assert_eq!(bucket.used(), end);
                bucket.clear();
            };
            for (i, &n) in sizes.iter().enumerate() {
                let mut rest = 7..7 + n;
                let mut emptied = false;
                while !rest.is_empty() {
                    match bucket.push(0, i as u32, rest.clone(), 3) {
                        Some(piece) => (rest.start, emptied) = (piece.range.end, false),
                        None => {
                            prop_assert!(!emptied, "an empty bucket takes something");
                            empty(&mut bucket);
                            emptied = true;
                        }
                    }
                }
            }
            empty(&mut bucket);
            for (pieces, n) in out.iter().zip(&sizes) {
                prop_assert!(pieces.len() == n.div_ceil(capacity), "{} is divided no more than it must be", n);
                prop_assert!(pieces.windows(2).all(|w| w[0].end == w[1].start));
                prop_assert_eq!((pieces[0].start, pieces[pieces.len() - 1].end), (7, 7 + n));
            }
        }
    }

    #[test]
    fn neighbours_of_one_owner_are_one_run() {
        let owned = [(0, 0..5), (0, 32..40), (2, 64..65), (0, 96..97), (0, 97..99)];
        assert_eq!(runs(owned.into_iter()), [(0, 0..40), (2, 64..65), (0, 96..99)]);
        assert!(runs(std::iter::empty()).is_empty());
    }
}
