//! The gradients of a block of queries against a tile of keys.

use super::product::{Broadcast, Product, accumulate, accumulate_rows, scores};
use super::{KEYS, MOST_QUERIES, ROWS, Sizes, Tile, queries, with_vectors};
use crate::backend::cpu::{Kernel, Simd};
use crate::dtype::bf16;
use std::marker::PhantomData;

/// Parts of a worker's scratch.
#[derive(Clone, Copy)]
pub(super) struct Scratch {
    /// Queries and gradients of the result: transposed, then as words along the queries.
    pub(super) queries: *mut f32,
    pub(super) douts: *mut f32,
    pub(super) query_words: *mut f32,
    pub(super) dout_words: *mut f32,
    /// Gradients of the queries, transposed.
    pub(super) dq: *mut f32,
    /// Scores of a tile and gradients of its weights: a row for each key. With f32 products the weights and the
    /// gradients of the scores take their place.
    pub(super) scores: *mut f32,
    pub(super) gradients: *mut f32,
    /// Weights and gradients of the scores as bf16, a row for each key, and the latter as words along the keys.
    pub(super) weight_rows: *mut f32,
    pub(super) gradient_rows: *mut f32,
    pub(super) gradient_words: *mut f32,
    /// Keys and values of a tile.
    pub(super) keys: *mut f32,
    pub(super) values: *mut f32,
    /// For each query log_sum_exp in base 2, sum of dout out, and the factor of dq.
    pub(super) log_sum: *mut f32,
    pub(super) delta: *mut f32,
    pub(super) factor: *mut f32,
}

impl Scratch {
    /// f32 values of each part.
    fn parts(sizes: &Sizes) -> [usize; 15] {
        let (block, rows) = (sizes.d * MOST_QUERIES, sizes.padded() * MOST_QUERIES);
        let (tile, keys, one) = (KEYS * MOST_QUERIES, KEYS * sizes.padded(), MOST_QUERIES);
        [block, block, rows, rows, block, tile, tile, tile / 2, tile / 2, tile / 2, keys, keys, one, one, one]
    }

    /// The parts from `base`.
    pub(super) fn at(base: *mut f32, sizes: &Sizes) -> Scratch {
        let mut next = base;
        let [
            queries,
            douts,
            query_words,
            dout_words,
            dq,
            scores,
            gradients,
            weight_rows,
            gradient_rows,
            gradient_words,
            keys,
            values,
            log_sum,
            delta,
            factor,
        ] = Scratch::parts(sizes).map(|n| {
            let part = next;
            next = next.wrapping_add(n);
            part
        });
        Scratch {
            queries,
            douts,
            query_words,
            dout_words,
            dq,
            scores,
            gradients,
            weight_rows,
            gradient_rows,
            gradient_words,
            keys,
            values,
            log_sum,
            delta,
            factor,
        }
    }

    /// f32 values of all parts: a multiple of 64, as every part is.
    pub(super) fn values(sizes: &Sizes) -> usize {
        Scratch::parts(sizes).into_iter().sum()
    }

    /// Weights of a tile as the product for dv broadcasts them: rows of words along the queries, from query `at`.
    #[inline(always)]
    pub(super) fn weights<P: Product>(&self, width: usize, at: usize) -> Broadcast {
        if P::PAIR == 1 { broadcast::<P>(self.scores, width, at) } else { broadcast::<P>(self.weight_rows, width, at) }
    }

    /// Gradients of the scores, likewise, for dk.
    #[inline(always)]
    pub(super) fn score_gradients<P: Product>(&self, width: usize, at: usize) -> Broadcast {
        let rows = if P::PAIR == 1 { self.gradients } else { self.gradient_rows };
        broadcast::<P>(rows, width, at)
    }

    /// Gradients of the scores as the vectors of the product for dq: rows of words along the keys.
    #[inline(always)]
    fn score_gradient_words<P: Product>(&self) -> *mut f32 {
        if P::PAIR == 1 { self.gradients } else { self.gradient_words }
    }
}

/// Rows of `width` elements, as f32 or bf16, broadcast in words from element `at`.
#[inline(always)]
fn broadcast<P: Product>(rows: *const f32, width: usize, at: usize) -> Broadcast {
    let element = size_of::<f32>() / P::PAIR;
    Broadcast { first: rows.cast::<u8>().wrapping_add(at * element), row: width * element, step: 4 }
}

/// Element `i` of row `j` of a factor made by [`broadcast`].
///
/// # Safety
/// It is valid for reads.
#[inline(always)]
pub(super) unsafe fn element<P: Product>(factor: Broadcast, j: usize, i: usize) -> f32 {
    // SAFETY: the caller's promise; scratch is aligned to its elements.
    unsafe {
        let row = factor.first.add(j * factor.row);
        if P::PAIR == 1 { *row.cast::<f32>().add(i) } else { (*row.cast::<bf16>().add(i)).to_f32() }
    }
}

/// A block of queries meets a tile of keys: adds to dq (in the scratch), and to dk and dv of the tile.
pub(super) struct Meet<'a, P> {
    pub(super) sizes: &'a Sizes,
    pub(super) scratch: Scratch,
    pub(super) tile: Tile,
    pub(super) live: usize,
    /// Keys and values of the tile, along their elements, and the keys across them.
    pub(super) keys: Broadcast,
    pub(super) values: Broadcast,
    pub(super) keys_across: Broadcast,
    pub(super) dk: *mut f32,
    pub(super) dv: *mut f32,
    /// Whether to leave dk and dv to [`super::accumulate_visible`].
    pub(super) strict_keys: bool,
    /// Whether to leave dq to it.
    pub(super) strict_queries: bool,
    pub(super) product: PhantomData<P>,
}

impl<P: Product> Kernel for Meet<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Meet { sizes, scratch, tile, live, .. } = self;
        let (d, padded, width, at) = (sizes.d, sizes.padded(), queries::<S>(), tile.vector * S::LANES);
        let (vectors, words) = (live.div_ceil(S::LANES) - tile.vector, d / P::PAIR);
        // SAFETY: the factors are the tile's, the scratch is this worker's, and dk and dv have the tile's keys, rounded
        // up to ROWS.
        unsafe {
            let (q, w) = (scratch.queries.add(at), scratch.scores.add(at));
            let (g, dw) = (scratch.douts.add(at), scratch.gradients.add(at));
            let (ds, dq) = (scratch.score_gradient_words::<P>().add(at), scratch.dq.add(at));
            let count = if self.strict_queries { 0 } else { tile.keys.div_ceil(P::PAIR) };
            with_vectors!(S, vectors, N => {
                scores::<S, P, N>(s, tile.keys, words, self.keys, q, width, sizes.scale2(), w, width);
                scores::<S, P, N>(s, tile.keys, words, self.values, g, width, 1.0, dw, width);
                weigh::<S, P, N>(s, &tile, scratch, live);
                accumulate::<S, P, N>(s, d, count, self.keys_across, ds, width, dq, width, None);
            });
            if self.strict_keys {
                return;
            }
            let (rows, words) = (tile.keys.next_multiple_of(ROWS), (live - at).div_ceil(P::PAIR));
            for (factor, from, sum) in [
                (scratch.weights::<P>(width, at), scratch.dout_words, self.dv),
                (scratch.score_gradients::<P>(width, at), scratch.query_words, self.dk),
            ] {
                let from = from.add(at / P::PAIR * padded);
                accumulate_rows::<S, P>(s, rows, words, factor, from, padded, sum, padded, padded);
            }
        }
    }
}

/// Scores of a tile to weights, and gradients of the weights to gradients of the scores (without `scale`), both in the
/// forms that the products read. Rows past the tile's keys, up to a multiple of ROWS, become zero.
///
/// # Safety
/// The scratch holds the tile's products for N vectors of queries, and their statistics.
#[inline(always)]
unsafe fn weigh<S: Simd, P: Product, const N: usize>(s: S, tile: &Tile, scratch: Scratch, live: usize) {
    let width = queries::<S>();
    let masked = tile.masked || live < width;
    let zero = s.splat(0.0);
    // SAFETY: vectors of the tile and of the statistics.
    unsafe {
        let mut log_sum = [zero; N];
        let mut delta = [zero; N];
        for v in 0..N {
            log_sum[v] = s.load(scratch.log_sum.add((tile.vector + v) * S::LANES));
            delta[v] = s.load(scratch.delta.add((tile.vector + v) * S::LANES));
        }
        for first in (0..tile.keys.next_multiple_of(ROWS)).step_by(P::PAIR) {
            for v in 0..N {
                let mut gradients = [zero; 2];
                for (i, stored) in gradients.iter_mut().enumerate().take(P::PAIR) {
                    let (j, lane) = (first + i, (tile.vector + v) * S::LANES);
                    let at = j * width + lane;
                    let (mut weight, mut gradient) = (zero, zero);
                    if j < tile.keys {
                        weight = P::rough_exp2(s, s.sub(s.load(scratch.scores.add(at)), log_sum[v]));
                        gradient = s.mul(weight, s.sub(s.load(scratch.gradients.add(at)), delta[v]));
                    }
                    if masked && j < tile.keys {
                        let visible = tile.visible(s, j, tile.vector + v, live);
                        weight = s.select(visible, weight, zero);
                        gradient = s.select(visible, gradient, zero);
                    }
                    if P::PAIR == 1 {
                        s.store(scratch.scores.add(at), weight);
                        s.store(scratch.gradients.add(at), gradient);
                    } else {
                        s.store_dot_bf16(scratch.weight_rows.cast::<u16>().add(at), weight);
                        s.store_dot_bf16(scratch.gradient_rows.cast::<u16>().add(at), gradient);
                    }
                    *stored = gradient;
                }
                if P::PAIR == 2 {
                    let word = scratch.gradient_words.add(first / 2 * width + (tile.vector + v) * S::LANES);
                    s.store(word, s.pair_bf16(gradients[0], gradients[1]));
                }
            }
        }
    }
}
