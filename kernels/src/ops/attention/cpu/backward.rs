//! The backward pass: a task is a key head with some of the blocks of queries that read it. It accumulates `dk` and
//! `dv` of all keys over its blocks, and `dq` of a block over the tiles of keys.
//!
//! With few key heads the blocks are dealt to several tasks, whose sums are added in order at the end.

use super::gradient_tile::{Meet, Scratch, element};
use super::pack::{across_rows, all_finite, along_rows, load_row, store_row, store_transposed, transpose, words};
use super::product::{Pair, Product, Single};
use super::{MOST_QUERIES, ROWS, Rows, Sizes, Tiles, accumulate_visible, queries};
use crate::backend::cpu::{Cpu, Element, Kernel, Level, Simd, plain_nan};
use crate::dtype::{DType, bf16};
use crate::ops::attention::AttentionBackward;
use crate::with_float;
use std::marker::PhantomData;

/// Tasks that are enough to keep the workers busy; with fewer key heads, a head's queries are dealt to several.
const TASKS: usize = 32;
/// Keys of a task that adds the sums of several.
const ADDED_KEYS: usize = 64;

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
                cpu,
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
    cpu: &'a Cpu<'a>,
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
        let KeyHead { op, cpu, sizes, scratch, sums, head, part, parts, .. } = self;
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
                cpu,
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
    cpu: &'a Cpu<'a>,
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
        let Block { op, cpu, sizes, scratch, n, h, query, .. } = *self;
        let (d, padded, width) = (sizes.d, sizes.padded(), queries::<S>());
        let live = width.min(sizes.t - query);
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
                let keys = along_rows::<S, P, E>(s, k, tile.keys, d, scratch.keys, padded);
                let values = along_rows::<S, P, E>(s, v, tile.keys, d, scratch.values, padded);
                let keys_across = if P::PAIR == 1 {
                    keys.across()
                } else {
                    across_rows::<S, P, E>(s, k, tile.keys, d, scratch.keys, padded)
                };
                let strict_keys = tile.masked && !finite;
                let strict_queries = tile.masked && !all_finite(s, k, tile.keys, d);
                let (dk, dv) = (self.dk.add(tile.key * padded), self.dv.add(tile.key * padded));
                // A call, so that it is compiled once for all element types.
                P::dispatch(
                    cpu,
                    Meet::<P> {
                        sizes,
                        scratch,
                        tile,
                        live,
                        keys,
                        values,
                        keys_across,
                        dk,
                        dv,
                        strict_keys,
                        strict_queries,
                        product: PhantomData,
                    },
                );
                let value = |rows: Rows<E>, i: usize, c: usize| (*rows.row(i).add(c)).to_f32();
                let (weights, gradients) = (scratch.weights::<P>(width, 0), scratch.score_gradients::<P>(width, 0));
                if strict_keys {
                    let place = |sum: *mut f32| move |j: usize, _: usize, c: usize| sum.add(j * padded + c);
                    let term = |j, i, c| element::<P>(weights, j, i) * value(dout, i, c);
                    accumulate_visible(&tile, live, d, place(dv), term);
                    let term = |j, i, c| element::<P>(gradients, j, i) * value(q, i, c);
                    accumulate_visible(&tile, live, d, place(dk), term);
                }
                if strict_queries {
                    let sum = |_, i: usize, c: usize| scratch.dq.add(c * width + i);
                    let term = |j, i, c| element::<P>(gradients, j, i) * value(k, j, c);
                    accumulate_visible(&tile, live, d, sum, term);
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
                log_sum2 = plain_nan(unsafe { *log_sum.add(query + i) } * std::f32::consts::LOG2_E);
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
