//! The backward pass: a task is a key head with some of the blocks of queries that read it. It accumulates `dk` and
//! `dv` of all keys over its blocks, and `dq` of a block over the tiles of keys.
//!
//! With few key heads the blocks are dealt to several tasks, whose sums are added in order at the end.

use super::pack::{across_rows, all_finite, along_rows, load_row, store_row, store_transposed, transpose, words};
use super::product::{Broadcast, Pair, Product, Single, accumulate, accumulate_rows, scores};
use super::{KEYS, MOST_QUERIES, ROWS, Rows, Sizes, Tile, Tiles, accumulate_visible, queries, with_vectors};
use crate::backend::cpu::{Cpu, Element, Kernel, Level, Simd, math};
use crate::dtype::{DType, bf16};
use crate::ops::attention::AttentionBackward;
use crate::with_float;
use std::marker::PhantomData;

/// Tasks that are enough to keep the workers busy; with fewer key heads, a head's queries are dealt to several.
const TASKS: usize = 32;
/// Keys of a task that adds the sums of several.
const ADDED_KEYS: usize = 64;

/// Parts of a worker's scratch.
#[derive(Clone, Copy)]
struct Scratch {
    /// Queries and gradients of the result: transposed, then as words along the queries.
    queries: *mut f32,
    douts: *mut f32,
    query_words: *mut f32,
    dout_words: *mut f32,
    /// Gradients of the queries, transposed.
    dq: *mut f32,
    /// Scores of a tile and gradients of its weights: a row for each key. With f32 products the weights and the
    /// gradients of the scores take their place.
    scores: *mut f32,
    gradients: *mut f32,
    /// Weights and gradients of the scores as bf16, a row for each key, and the latter as words along the keys.
    weight_rows: *mut f32,
    gradient_rows: *mut f32,
    gradient_words: *mut f32,
    /// Keys and values of a tile.
    keys: *mut f32,
    values: *mut f32,
    /// For each query log_sum_exp in base 2, sum of dout out, and the factor of dq.
    log_sum: *mut f32,
    delta: *mut f32,
    factor: *mut f32,
}

impl Scratch {
    /// f32 values of each part.
    fn parts(sizes: &Sizes) -> [usize; 15] {
        let (block, rows) = (sizes.d * MOST_QUERIES, sizes.padded() * MOST_QUERIES);
        let (tile, keys, one) = (KEYS * MOST_QUERIES, KEYS * sizes.padded(), MOST_QUERIES);
        [block, block, rows, rows, block, tile, tile, tile / 2, tile / 2, tile / 2, keys, keys, one, one, one]
    }

    /// The parts from `base`.
    fn at(base: *mut f32, sizes: &Sizes) -> Scratch {
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
    fn values(sizes: &Sizes) -> usize {
        Scratch::parts(sizes).into_iter().sum()
    }

    /// Weights of a tile as the product for dv broadcasts them: rows of words along the queries, from query `at`.
    #[inline(always)]
    fn weights<P: Product>(&self, width: usize, at: usize) -> Broadcast {
        if P::PAIR == 1 { broadcast::<P>(self.scores, width, at) } else { broadcast::<P>(self.weight_rows, width, at) }
    }

    /// Gradients of the scores, likewise, for dk.
    #[inline(always)]
    fn score_gradients<P: Product>(&self, width: usize, at: usize) -> Broadcast {
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
unsafe fn element<P: Product>(factor: Broadcast, j: usize, i: usize) -> f32 {
    // SAFETY: the caller's promise; scratch is aligned to its elements.
    unsafe {
        let row = factor.first.add(j * factor.row);
        if P::PAIR == 1 { *row.cast::<f32>().add(i) } else { (*row.cast::<bf16>().add(i)).to_f32() }
    }
}

fn sizes(op: &AttentionBackward<'_>) -> Sizes {
    Sizes::new(&op.q, &op.k, op.causal, op.scale)
}

/// Tasks that share a key head.
fn tasks_of_head(sizes: &Sizes) -> usize {
    let blocks = sizes.group() * sizes.t.div_ceil(MOST_QUERIES);
    TASKS.div_ceil((sizes.b * sizes.hk).max(1)).min(blocks).max(1)
}

/// f32 values of one of a task's two sums, dk and dv of a head.
fn sum_values(sizes: &Sizes) -> usize {
    sizes.s.next_multiple_of(ROWS) * sizes.padded()
}

pub(in crate::ops::attention) fn workspace(op: &AttentionBackward<'_>, workers: usize) -> usize {
    let sizes = sizes(op);
    let shared = tasks_of_head(&sizes);
    let sums = if shared == 1 { workers } else { sizes.b * sizes.hk * shared };
    (workers * Scratch::values(&sizes) + sums * 2 * sum_values(&sizes)) * size_of::<f32>()
}

pub(in crate::ops::attention) fn run(op: &AttentionBackward<'_>, cpu: &Cpu<'_>) {
    if cpu.level() == Level::Avx512Bf16 && op.q.dtype() == DType::BF16 {
        run_as::<bf16, Pair>(op, cpu);
        return;
    }
    with_float!(op.q.dtype(), E => run_as::<E, Single>(op, cpu));
}

fn run_as<E: Element, P: Product>(op: &AttentionBackward<'_>, cpu: &Cpu<'_>) {
    let sizes = sizes(op);
    let base = cpu.workspace(workspace(op, cpu.workers())) as usize;
    let sums = (base as *mut f32).wrapping_add(cpu.workers() * Scratch::values(&sizes)) as usize;
    let sum = |i: usize| (sums as *mut f32).wrapping_add(i * 2 * sum_values(&sizes));
    let (heads, shared) = (sizes.b * sizes.hk, tasks_of_head(&sizes));
    cpu.parallel_for(heads * shared, |task, worker| {
        let first = (base as *mut f32).wrapping_add(worker * Scratch::values(&sizes));
        P::dispatch(
            cpu,
            KeyHead::<E, P> {
                op,
                sizes: &sizes,
                scratch: Scratch::at(first, &sizes),
                sums: sum(if shared == 1 { worker } else { task }),
                head: task / shared,
                part: task % shared,
                parts: shared,
                types: PhantomData,
            },
        );
    });
    if shared > 1 {
        let chunks = sizes.s.div_ceil(ADDED_KEYS);
        cpu.parallel_for(heads * chunks, |task, _| {
            let (head, key) = (task / chunks, task % chunks * ADDED_KEYS);
            let keys = key..(key + ADDED_KEYS).min(sizes.s);
            let sums = sum(head * shared);
            cpu.dispatch(Add::<E> { op, sizes: &sizes, sums, parts: shared, head, keys, types: PhantomData });
        });
    }
}

/// One task: the blocks `part`, `part + parts`, … of the queries that read key head `head`.
struct KeyHead<'a, E, P> {
    op: &'a AttentionBackward<'a>,
    sizes: &'a Sizes,
    scratch: Scratch,
    sums: *mut f32,
    head: usize,
    part: usize,
    parts: usize,
    types: PhantomData<(E, P)>,
}

impl<E: Element, P: Product> Kernel for KeyHead<'_, E, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let KeyHead { op, sizes, scratch, sums, head, part, parts, .. } = self;
        // SAFETY: the task's sums.
        unsafe {
            for i in (0..2 * sum_values(sizes)).step_by(S::LANES) {
                s.store(sums.add(i), s.splat(0.0));
            }
        }
        let blocks = sizes.t.div_ceil(queries::<S>());
        for unit in (part..sizes.group() * blocks).step_by(parts) {
            let h = head % sizes.hk * sizes.group() + unit / blocks;
            let block = Block::<E> {
                op,
                sizes,
                scratch,
                dk: sums,
                dv: sums.wrapping_add(sum_values(sizes)),
                n: head / sizes.hk,
                h,
                query: unit % blocks * queries::<S>(),
                types: PhantomData,
            };
            // SAFETY: the views are as the op's check accepted, the scratch is this worker's, the sums this task's.
            unsafe { block.run::<S, P>(s) };
        }
        if parts == 1 {
            Add::<E> { op, sizes, sums, parts, head, keys: 0..sizes.s, types: PhantomData }.run(s);
        }
    }
}

/// A block of queries of one head.
struct Block<'a, E> {
    op: &'a AttentionBackward<'a>,
    sizes: &'a Sizes,
    scratch: Scratch,
    dk: *mut f32,
    dv: *mut f32,
    n: usize,
    h: usize,
    query: usize,
    types: PhantomData<E>,
}

impl<E: Element> Block<'_, E> {
    /// Adds the block's part of dk and dv, and writes its dq.
    ///
    /// # Safety
    /// The views are as the op's check accepted, and the scratch and the sums are exclusive.
    #[inline(always)]
    unsafe fn run<S: Simd, P: Product>(&self, s: S) {
        let Block { op, sizes, scratch, n, h, query, .. } = *self;
        let (d, padded, width) = (sizes.d, sizes.padded(), queries::<S>());
        let live = width.min(sizes.t - query);
        let vectors = live.div_ceil(S::LANES);
        let rows = |view| Rows::<E>::of(view, n, h).from(query);
        let keys = |view| Rows::<E>::of(view, n, h / sizes.group());
        let (q, dout, k, v) = (rows(&op.q), rows(&op.dout), keys(&op.k), keys(&op.v));
        // SAFETY: rows of the views, and scratch of the sizes that `parts` gives.
        unsafe {
            transpose::<S, P, E>(s, q, live, d, scratch.queries);
            transpose::<S, P, E>(s, dout, live, d, scratch.douts);
            words::<S, P, E>(s, q, live, d, scratch.query_words, padded);
            words::<S, P, E>(s, dout, live, d, scratch.dout_words, padded);
            self.statistics(s, live);
            for i in (0..d * width).step_by(S::LANES) {
                s.store(scratch.dq.add(i), s.splat(0.0));
            }
            let finite = !sizes.causal || all_finite(s, q, live, d) && all_finite(s, dout, live, d);
            for tile in Tiles::new::<S>(sizes, query, live) {
                let (k, v) = (k.from(tile.key), v.from(tile.key));
                let at = tile.vector * S::LANES;
                let a = along_rows::<S, P, E>(s, k, tile.keys, d, scratch.keys, padded);
                let values = along_rows::<S, P, E>(s, v, tile.keys, d, scratch.values, padded);
                let words = d / P::PAIR;
                let (qt, w) = (scratch.queries.add(at), scratch.scores.add(at));
                let (gt, dw) = (scratch.douts.add(at), scratch.gradients.add(at));
                with_vectors!(S, vectors - tile.vector, N => {
                    scores::<S, P, N>(s, tile.keys, words, a, qt, width, sizes.scale2(), w, width);
                    scores::<S, P, N>(s, tile.keys, words, values, gt, width, 1.0, dw, width);
                    weigh::<S, P, N>(s, &tile, scratch, live);
                });
                let (weights, gradients) = (scratch.weights::<P>(width, at), scratch.score_gradients::<P>(width, at));
                let (dk, dv) = (self.dk.add(tile.key * padded), self.dv.add(tile.key * padded));
                if tile.masked && !finite {
                    let place = |sum: *mut f32| move |j: usize, _: usize, c: usize| sum.add(j * padded + c);
                    let value = |rows: Rows<E>, i: usize, c: usize| (*rows.row(i).add(c)).to_f32();
                    let whole = scratch.weights::<P>(width, 0);
                    let term = |j, i, c| element::<P>(whole, j, i) * value(dout, i, c);
                    accumulate_visible(&tile, live, d, place(dv), term);
                    let whole = scratch.score_gradients::<P>(width, 0);
                    let term = |j, i, c| element::<P>(whole, j, i) * value(q, i, c);
                    accumulate_visible(&tile, live, d, place(dk), term);
                } else {
                    let count = tile.keys.next_multiple_of(ROWS);
                    let words = (live - at).div_ceil(P::PAIR);
                    let from = |words: *mut f32| words.add(at / P::PAIR * padded).cast_const();
                    let (g, q) = (from(scratch.dout_words), from(scratch.query_words));
                    accumulate_rows::<S, P>(s, count, words, weights, g, padded, dv, padded, padded);
                    accumulate_rows::<S, P>(s, count, words, gradients, q, padded, dk, padded, padded);
                }
                if tile.masked && !all_finite(s, k, tile.keys, d) {
                    let whole = scratch.score_gradients::<P>(width, 0);
                    let sum = |_, i: usize, c: usize| scratch.dq.add(c * width + i);
                    let term = |j, i, c| element::<P>(whole, j, i) * (*k.row(j).add(c)).to_f32();
                    accumulate_visible(&tile, live, d, sum, term);
                } else {
                    let a = if P::PAIR == 1 {
                        a.across()
                    } else {
                        across_rows::<S, P, E>(s, k, tile.keys, d, scratch.keys, padded)
                    };
                    let (b, c) = (scratch.score_gradient_words::<P>().add(at), scratch.dq.add(at));
                    with_vectors!(S, vectors - tile.vector, N => {
                        accumulate::<S, P, N>(s, d, tile.keys.div_ceil(P::PAIR), a, b, width, c, width, None);
                    });
                }
            }
            store_transposed(s, scratch.dq, scratch.factor, rows(&op.dq), live, d);
        }
    }

    /// Fills `log_sum`, `delta` and `factor`.
    ///
    /// # Safety
    /// As for [`Block::run`].
    #[inline(always)]
    unsafe fn statistics<S: Simd>(&self, s: S, live: usize) {
        let Block { op, sizes, scratch, n, h, query, .. } = *self;
        let (out, dout) = (Rows::<E>::of(&op.out, n, h).from(query), Rows::<E>::of(&op.dout, n, h).from(query));
        let log_sum = op.log_sum_exp.row_ptr::<f32>(n * sizes.hq + h);
        for i in 0..queries::<S>() {
            let (mut delta, mut log_sum2) = (0.0, 0.0);
            if i < live {
                let mut sum = s.splat(0.0);
                for c in (0..sizes.d).step_by(S::LANES) {
                    // SAFETY: elements of a live row.
                    unsafe {
                        let (a, b) = (out.row(i).add(c), dout.row(i).add(c));
                        sum = s.fast_fma(load_row(s, a, sizes.d - c), load_row(s, b, sizes.d - c), sum);
                    }
                }
                delta = s.sum(sum);
                // SAFETY: a live row.
                log_sum2 = unsafe { *log_sum.add(query + i) } * std::f32::consts::LOG2_E;
            }
            // SAFETY: a query of the block.
            unsafe {
                scratch.log_sum.add(i).write(log_sum2);
                scratch.delta.add(i).write(delta);
                scratch.factor.add(i).write(sizes.scale);
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
                        weight = math::exp2(s, s.sub(s.load(scratch.scores.add(at)), log_sum[v]));
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

/// Adds the `parts` sums of a key head in order, and writes `keys` of dk and dv.
struct Add<'a, E> {
    op: &'a AttentionBackward<'a>,
    sizes: &'a Sizes,
    sums: *mut f32,
    parts: usize,
    head: usize,
    keys: std::ops::Range<usize>,
    types: PhantomData<E>,
}

impl<E: Element> Kernel for Add<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Add { op, sizes, sums, parts, head, .. } = self;
        let (n, h, size) = (head / sizes.hk, head % sizes.hk, sum_values(sizes));
        let outputs = [(Rows::<E>::of(&op.dk, n, h), sizes.scale), (Rows::<E>::of(&op.dv, n, h), 1.0)];
        for (which, (rows, factor)) in outputs.into_iter().enumerate() {
            for key in self.keys.clone() {
                for c in (0..sizes.d).step_by(S::LANES) {
                    let at = which * size + key * sizes.padded() + c;
                    // SAFETY: the padded row of a key in each of the head's sums, and its elements in the output.
                    unsafe {
                        let mut sum = s.load(sums.add(at));
                        for part in 1..parts {
                            sum = s.add(sum, s.load(sums.add(part * 2 * size + at)));
                        }
                        store_row(s, rows.row(key).add(c), s.mul(sum, s.splat(factor)), sizes.d - c);
                    }
                }
            }
        }
    }
}
