//! The forward pass: a task is a block of queries of one head, which meets the tiles of keys with a running maximum.

use super::pack::{across_rows, all_finite, along_rows, store_transposed, transpose};
use super::product::{Broadcast, Pair, Product, Single, accumulate, scores};
use super::{BlockQueries, KEYS, MOST_QUERIES, Rows, Sizes, Tile, Tiles, accumulate_visible, queries, with_vectors};
use crate::backend::cpu::{Cpu, Element, Kernel, Level, Simd, math};
use crate::dtype::{DType, bf16};
use crate::ops::attention::AttentionForward;
use crate::with_float;
use std::marker::PhantomData;

/// Parts of a worker's scratch.
#[derive(Clone, Copy)]
struct Scratch {
    /// Queries, transposed.
    queries: *mut f32,
    /// Sums of weighted values, transposed.
    sums: *mut f32,
    /// Scores, then weights, of a tile: a row for each key.
    weights: *mut f32,
    /// Keys of a tile.
    keys: *mut f32,
    /// Values of a tile.
    values: *mut f32,
    /// Largest score so far (in base 2), sum of weights so far, and the factor of older sums, for each query.
    max: *mut f32,
    total: *mut f32,
    decay: *mut f32,
}

impl Scratch {
    /// f32 values of each part.
    fn parts(sizes: &Sizes) -> [usize; 8] {
        let (block, tile) = (sizes.d * MOST_QUERIES, KEYS * sizes.padded());
        [block, block, KEYS * MOST_QUERIES, tile, tile, MOST_QUERIES, MOST_QUERIES, MOST_QUERIES]
    }

    /// The parts from `base`.
    fn at(base: *mut f32, sizes: &Sizes) -> Scratch {
        let mut next = base;
        let [queries, sums, weights, keys, values, max, total, decay] = Scratch::parts(sizes).map(|n| {
            let part = next;
            next = next.wrapping_add(n);
            part
        });
        Scratch { queries, sums, weights, keys, values, max, total, decay }
    }

    /// f32 values of all parts: a multiple of 64, as every part is.
    fn values(sizes: &Sizes) -> usize {
        Scratch::parts(sizes).into_iter().sum()
    }
}

fn sizes(op: &AttentionForward<'_>) -> Sizes {
    Sizes::new(&op.q, &op.k, op.causal, op.scale)
}

pub(in crate::ops::attention) fn workspace(op: &AttentionForward<'_>, workers: usize) -> usize {
    workers * Scratch::values(&sizes(op)) * size_of::<f32>()
}

pub(in crate::ops::attention) fn run(op: &AttentionForward<'_>, cpu: &Cpu<'_>) {
    if cpu.level() == Level::Avx512Bf16 && op.q.dtype() == DType::BF16 {
        run_as::<bf16, Pair>(op, cpu);
        return;
    }
    with_float!(op.q.dtype(), E => run_as::<E, Single>(op, cpu));
}

fn run_as<E: Element, P: Product>(op: &AttentionForward<'_>, cpu: &Cpu<'_>) {
    let sizes = sizes(op);
    let base = cpu.workspace(workspace(op, cpu.workers())) as usize;
    let width = cpu.dispatch(BlockQueries);
    let (blocks, heads) = (sizes.t.div_ceil(width), sizes.b * sizes.hq);
    cpu.parallel_for(heads * blocks, |task, worker| {
        // Blocks of one head follow each other, so that its keys and values stay in the second-level cache; of causal blocks
        // the last have most to do, so they go first.
        let (head, block) = (task / blocks, blocks - 1 - task % blocks);
        let first = (base as *mut f32).wrapping_add(worker * Scratch::values(&sizes));
        P::dispatch(
            cpu,
            Block::<E, P> {
                op,
                cpu,
                sizes: &sizes,
                scratch: Scratch::at(first, &sizes),
                n: head / sizes.hq,
                h: head % sizes.hq,
                query: block * width,
                types: PhantomData,
            },
        );
    });
}

/// One task.
struct Block<'a, E, P> {
    op: &'a AttentionForward<'a>,
    cpu: &'a Cpu<'a>,
    sizes: &'a Sizes,
    scratch: Scratch,
    n: usize,
    h: usize,
    query: usize,
    types: PhantomData<(E, P)>,
}

impl<E: Element, P: Product> Kernel for Block<'_, E, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Block { op, cpu, sizes, scratch, n, h, query, .. } = self;
        let (d, width) = (sizes.d, queries::<S>());
        let live = width.min(sizes.t - query);
        let q: Rows<E> = Rows::of(&op.q, n, h);
        let (k, v): (Rows<E>, Rows<E>) = (Rows::of(&op.k, n, h / sizes.group()), Rows::of(&op.v, n, h / sizes.group()));
        // SAFETY: rows of the views that the op's check accepted, and this worker's scratch.
        unsafe {
            transpose::<S, P, E>(s, q.from(query), live, d, scratch.queries);
            for i in (0..d * width).step_by(S::LANES) {
                s.store(scratch.sums.add(i), s.splat(0.0));
            }
            for i in (0..width).step_by(S::LANES) {
                s.store(scratch.max.add(i), s.splat(f32::NEG_INFINITY));
                s.store(scratch.total.add(i), s.splat(0.0));
            }
            for tile in Tiles::new::<S>(sizes, query, live) {
                let (k, v) = (k.from(tile.key), v.from(tile.key));
                let keys = along_rows::<S, P, E>(s, k, tile.keys, d, scratch.keys, sizes.padded());
                let values = across_rows::<S, P, E>(s, v, tile.keys, d, scratch.values, sizes.padded());
                let strict = tile.masked && !all_finite(s, v, tile.keys, d);
                // A call, so that it is compiled once for all element types.
                P::dispatch(cpu, Meet::<P> { sizes, scratch, tile, live, keys, values, strict, product: PhantomData });
                if strict {
                    let sum = |_, i: usize, c: usize| scratch.sums.add(c * width + i);
                    accumulate_visible(&tile, live, d, sum, |j, i, c| {
                        let word = scratch.weights.add(j / P::PAIR * width + i);
                        let weight = if P::PAIR == 1 { *word } else { (*word.cast::<bf16>().add(j % 2)).to_f32() };
                        weight * (*v.row(j).add(c)).to_f32()
                    });
                }
            }
            finish::<S, E>(s, op, sizes, scratch, n, h, query, live);
        }
    }
}

/// A block of queries meets a tile of keys, which `keys` and `values` are.
struct Meet<'a, P> {
    sizes: &'a Sizes,
    scratch: Scratch,
    tile: Tile,
    live: usize,
    keys: Broadcast,
    values: Broadcast,
    /// Whether to leave the values to [`accumulate_visible`].
    strict: bool,
    product: PhantomData<P>,
}

impl<P: Product> Kernel for Meet<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Meet { sizes, scratch, tile, live, keys, values, strict, .. } = self;
        let (d, width, at) = (sizes.d, queries::<S>(), tile.vector * S::LANES);
        let words = if strict { 0 } else { tile.keys.div_ceil(P::PAIR) };
        // SAFETY: the factors are the tile's, and the scratch is this worker's.
        unsafe {
            let (q, w, sums) = (scratch.queries.add(at), scratch.weights.add(at), scratch.sums.add(at));
            let decay = Some(scratch.decay.add(at).cast_const());
            with_vectors!(S, live.div_ceil(S::LANES) - tile.vector, N => {
                scores::<S, P, N>(s, tile.keys, d / P::PAIR, keys, q, width, sizes.scale2(), w, width);
                softmax::<S, P, N>(s, &tile, scratch, live);
                accumulate::<S, P, N>(s, d, words, values, w, width, sums, width, decay);
            });
        }
    }
}

/// Scores of a tile to weights relative to the largest score so far, in words for the product with the values.
///
/// # Safety
/// The scratch holds the tile's scores of N vectors of queries.
#[inline(always)]
unsafe fn softmax<S: Simd, P: Product, const N: usize>(s: S, tile: &Tile, scratch: Scratch, live: usize) {
    let width = queries::<S>();
    let at = |j: usize, v: usize| scratch.weights.wrapping_add(j * width + (tile.vector + v) * S::LANES);
    let statistic = |part: *mut f32, v: usize| part.wrapping_add((tile.vector + v) * S::LANES);
    let lowest = s.splat(f32::NEG_INFINITY);
    // SAFETY: vectors of the tile and of the statistics.
    unsafe {
        let mut max = [lowest; N];
        for (v, max) in max.iter_mut().enumerate() {
            *max = s.load(statistic(scratch.max, v));
        }
        for j in 0..tile.keys {
            for (v, max) in max.iter_mut().enumerate() {
                let mut score = s.load(at(j, v));
                if tile.masked {
                    score = s.select(tile.visible(s, j, tile.vector + v, live), score, lowest);
                    s.store(at(j, v), score);
                }
                // A NaN score leaves the maximum, and makes its weight and so the total NaN.
                *max = s.max(score, *max);
            }
        }
        let mut base = [lowest; N];
        let mut total = [lowest; N];
        for v in 0..N {
            // A query that has seen only -infinity keeps weights of 0.
            base[v] = s.select(s.lt(lowest, max[v]), max[v], s.splat(0.0));
            let decay = P::exp2(s, s.sub(s.load(statistic(scratch.max, v)), base[v]));
            s.store(statistic(scratch.max, v), max[v]);
            s.store(statistic(scratch.decay, v), decay);
            total[v] = s.mul(s.load(statistic(scratch.total, v)), decay);
        }
        for word in 0..tile.keys.div_ceil(P::PAIR) {
            for (v, total) in total.iter_mut().enumerate() {
                let first = P::exp2(s, s.sub(s.load(at(word * P::PAIR, v)), base[v]));
                if P::PAIR == 1 {
                    *total = s.add(*total, first);
                    s.store(at(word, v), first);
                    continue;
                }
                let mut second = s.splat(0.0);
                if 2 * word + 1 < tile.keys {
                    second = P::exp2(s, s.sub(s.load(at(2 * word + 1, v)), base[v]));
                }
                *total = s.add(*total, s.add(first, second));
                // Row `word` was read before or just now: words never overtake scores.
                s.store(at(word, v), s.pair_bf16(first, second));
            }
        }
        for (v, total) in total.into_iter().enumerate() {
            s.store(statistic(scratch.total, v), total);
        }
    }
}

/// Writes the block's rows of `out` and `log_sum_exp`.
///
/// # Safety
/// The scratch holds the block's sums and statistics, and the views are as the op's check accepted.
#[inline(always)]
unsafe fn finish<S: Simd, E: Element>(
    s: S,
    op: &AttentionForward<'_>,
    sizes: &Sizes,
    scratch: Scratch,
    n: usize,
    h: usize,
    query: usize,
    live: usize,
) {
    // SAFETY: vectors of the block, and rows of the views.
    unsafe {
        for i in (0..queries::<S>()).step_by(S::LANES) {
            let total = s.load(scratch.total.add(i));
            // Without keys the sums are 0 and stay 0.
            let factor = if sizes.s == 0 { s.splat(0.0) } else { s.div(s.splat(1.0), total) };
            s.store(scratch.decay.add(i), factor);
        }
        let out: Rows<E> = Rows::of(&op.out, n, h).from(query);
        store_transposed(s, scratch.sums, scratch.decay, out, live, sizes.d);
        if let Some(log_sum_exp) = op.log_sum_exp {
            for i in (0..queries::<S>()).step_by(S::LANES) {
                let (max, total) = (s.load(scratch.max.add(i)), s.load(scratch.total.add(i)));
                s.store(scratch.max.add(i), s.fast_fma(max, s.splat(std::f32::consts::LN_2), math::log(s, total)));
            }
            let row = log_sum_exp.row_ptr::<f32>(n * sizes.hq + h).add(query);
            std::ptr::copy_nonoverlapping(scratch.max, row, live);
        }
    }
}
