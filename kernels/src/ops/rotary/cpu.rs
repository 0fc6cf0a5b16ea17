//! A task turns a block of positions in some of the sequences: sines and cosines once for each position, then every
//! head of every sequence with them.

use super::{Rotary, RotaryLayout};
use crate::backend::cpu::{Cpu, Element, Kernel, Simd, math};
use crate::with_float;

/// Positions of a task.
const POSITIONS: usize = 16;
/// Elements of a task, about.
const ELEMENTS: usize = 1 << 16;

/// f32 values of a worker's table: for each position cosines and sines of the pairs, then both again as the layout
/// multiplies them with a row.
fn table_values(d: usize) -> usize {
    (POSITIONS * 3 * d).next_multiple_of(16)
}

/// Bytes of the frequencies, before the tables.
fn frequency_bytes(d: usize) -> usize {
    (d / 2 * size_of::<f64>()).next_multiple_of(Cpu::WORKSPACE_ALIGNMENT)
}

pub(super) fn workspace(op: &Rotary<'_>, workers: usize) -> usize {
    frequency_bytes(op.x.width()) + workers * table_values(op.x.width()) * size_of::<f32>()
}

pub(super) fn run(op: &Rotary<'_>, cpu: &Cpu<'_>) {
    if op.x.numel() == 0 {
        return;
    }
    let (d, t, batch) = (op.x.width(), op.t(), op.batch());
    let base = cpu.workspace(workspace(op, cpu.workers())) as usize;
    // SAFETY: the workspace begins with the frequencies, aligned, and no one else uses it now.
    let frequencies = unsafe { std::slice::from_raw_parts_mut(base as *mut f64, d / 2) };
    for (i, frequency) in frequencies.iter_mut().enumerate() {
        let power = f64::from(op.base).powf(-2.0 * i as f64 / d as f64);
        *frequency = power * std::f64::consts::FRAC_2_PI * if op.inverse { -1.0 } else { 1.0 };
    }
    let frequencies = &*frequencies;
    let sequences = (ELEMENTS / (POSITIONS * op.heads() * d)).clamp(1, batch);
    let blocks = t.div_ceil(POSITIONS);
    cpu.parallel_for(blocks * batch.div_ceil(sequences), |task, worker| {
        let (p, n) = (task % blocks * POSITIONS, task / blocks * sequences);
        // SAFETY: each worker has its own table after the frequencies.
        let table = unsafe { (base as *mut u8).add(frequency_bytes(d)).cast::<f32>().add(worker * table_values(d)) };
        with_float!(op.x.dtype(), E => cpu.dispatch(Turn::<'_, E> {
            op,
            frequencies,
            table,
            positions: p..(p + POSITIONS).min(t),
            sequences: n..(n + sequences).min(batch),
            element: std::marker::PhantomData,
        }));
    });
}

/// One task.
struct Turn<'a, E> {
    op: &'a Rotary<'a>,
    /// Quarter turns per position of each pair.
    frequencies: &'a [f64],
    table: *mut f32,
    positions: std::ops::Range<usize>,
    sequences: std::ops::Range<usize>,
    element: std::marker::PhantomData<E>,
}

impl<E: Element> Kernel for Turn<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let op = self.op;
        let (d, t, heads) = (op.x.width(), op.t(), op.heads());
        let lead = op.x.ndim() - 2;
        let head_stride = (op.x.stride()[lead], op.y.stride()[lead]);
        for (row, p) in self.positions.clone().enumerate() {
            let position = op.positions.map_or(p as f64, |positions| {
                // SAFETY: p < t; the dimension of one element may have any stride.
                f64::from(unsafe { positions.ptr::<i32>().add(p * positions.stride()[0]).read() })
            });
            // SAFETY: each position of the task has 3 d values of the worker's table.
            unsafe { fill(s, self.table.add(row * 3 * d), self.frequencies, position, op.layout) };
        }
        for n in self.sequences.clone() {
            for (row, p) in self.positions.clone().enumerate() {
                let token = (n * t + p) * heads;
                let (x, y) = (op.x.row_ptr::<E>(token), op.y.row_ptr::<E>(token));
                for h in 0..heads {
                    // SAFETY: rows of d elements of x and y, which are the same or apart, and the filled table.
                    unsafe {
                        let (x, y) = (x.add(h * head_stride.0), y.add(h * head_stride.1));
                        let table = self.table.add(row * 3 * d);
                        match op.layout {
                            RotaryLayout::Halves => turn_halves(s, x, y, table, d / 2),
                            RotaryLayout::Interleaved => turn_interleaved(s, x, y, table.add(d), d),
                        }
                    }
                }
            }
        }
    }
}

/// Cosines and sines of `position` for each pair, `[cos; d/2][sin; d/2]`; for the interleaved layout also
/// `[cos, cos; d/2][-sin, sin; d/2]` behind them.
///
/// # Safety
/// `table` is valid for writes of 3 d values, d = 2 frequencies.len().
#[inline(always)]
unsafe fn fill<S: Simd>(s: S, table: *mut f32, frequencies: &[f64], position: f64, layout: RotaryLayout) {
    /// Adding it rounds to an integer, which is then the low bits of the sum.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let pairs = frequencies.len();
    // SAFETY: pairs values of cosines, then as many sines, then 2 pairs of each are inside the table.
    unsafe {
        for (i, frequency) in frequencies.iter().enumerate() {
            let quarters = position * frequency;
            let rounded = quarters + ROUND;
            table.add(i).write((quarters - (rounded - ROUND)) as f32);
            table.add(pairs + i).cast::<i32>().write(rounded.to_bits() as i32);
        }
        let mut i = 0;
        while i + S::LANES <= pairs {
            let (sin, cos) = math::sin_cos_quarters(s, s.load(table.add(i)), s.load_i(table.add(pairs + i).cast()));
            s.store(table.add(i), cos);
            s.store(table.add(pairs + i), sin);
            i += S::LANES;
        }
        if i < pairs {
            let n = pairs - i;
            let quadrant = s.bits(s.load_partial(table.add(pairs + i), n));
            let (sin, cos) = math::sin_cos_quarters(s, s.load_partial(table.add(i), n), quadrant);
            s.store_partial(table.add(i), cos, n);
            s.store_partial(table.add(pairs + i), sin, n);
        }
        if layout == RotaryLayout::Interleaved {
            for i in 0..pairs {
                let (cos, sin) = (table.add(i).read(), table.add(pairs + i).read());
                table.add(2 * pairs + 2 * i).write(cos);
                table.add(2 * pairs + 2 * i + 1).write(cos);
                table.add(4 * pairs + 2 * i).write(-sin);
                table.add(4 * pairs + 2 * i + 1).write(sin);
            }
        }
    }
}

/// Turns a row of which elements `i` and `i + pairs` belong together.
///
/// # Safety
/// `x` and `y` are rows of 2 pairs elements, the same or apart; `table` holds as many values.
#[inline(always)]
unsafe fn turn_halves<S: Simd, E: Element>(s: S, x: *const E, y: *mut E, table: *const f32, pairs: usize) {
    let turned = |a, b, cos, sin| (s.fast_fma(a, cos, s.neg(s.mul(b, sin))), s.fast_fma(b, cos, s.mul(a, sin)));
    // SAFETY: i + LANES <= pairs, or i + n = pairs, inside each half.
    unsafe {
        let mut i = 0;
        while i + S::LANES <= pairs {
            let (a, b) = (E::load(s, x.add(i)), E::load(s, x.add(pairs + i)));
            let (first, second) = turned(a, b, s.load(table.add(i)), s.load(table.add(pairs + i)));
            E::store(s, y.add(i), first);
            E::store(s, y.add(pairs + i), second);
            i += S::LANES;
        }
        if i < pairs {
            let n = pairs - i;
            let (a, b) = (E::load_partial(s, x.add(i), n), E::load_partial(s, x.add(pairs + i), n));
            let (cos, sin) = (s.load_partial(table.add(i), n), s.load_partial(table.add(pairs + i), n));
            let (first, second) = turned(a, b, cos, sin);
            E::store_partial(s, y.add(i), first, n);
            E::store_partial(s, y.add(pairs + i), second, n);
        }
    }
}

/// Turns a row of which elements `2 i` and `2 i + 1` belong together.
///
/// # Safety
/// `x` and `y` are rows of d elements, the same or apart; `table` holds 2 d values.
#[inline(always)]
unsafe fn turn_interleaved<S: Simd, E: Element>(s: S, x: *const E, y: *mut E, table: *const f32, d: usize) {
    let turned = |a, cos, sin| s.fast_fma(a, cos, s.mul(s.swap_pairs(a), sin));
    // SAFETY: i + LANES <= d, or i + n = d; LANES and d are even, so no pair is split.
    unsafe {
        let mut i = 0;
        while i + S::LANES <= d {
            let a = E::load(s, x.add(i));
            E::store(s, y.add(i), turned(a, s.load(table.add(i)), s.load(table.add(d + i))));
            i += S::LANES;
        }
        if i < d {
            let n = d - i;
            let a = E::load_partial(s, x.add(i), n);
            let (cos, sin) = (s.load_partial(table.add(i), n), s.load_partial(table.add(d + i), n));
            E::store_partial(s, y.add(i), turned(a, cos, sin), n);
        }
    }
}
