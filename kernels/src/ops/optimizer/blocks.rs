//! One pass over state in any format, in blocks of 256 elements that stay in the first-level cache from when they are
//! read until they are written.

use super::{Master, Moment, Rule, Tensors};
use crate::backend::cpu::compact::{self, Half, Words};
use crate::backend::cpu::span::{Span, each_vector};
use crate::backend::cpu::{Bf16Away, Cpu, Element, Kernel, Simd, prefetch};
use crate::dtype::{DType, bf16, f16};
use crate::dynamic_map::{BLOCK, DynamicMap};
use crate::philox::Key;
use crate::with_float;
use std::ops::Range;

/// Elements from those that are updated to those that are asked for: the processor does not follow so many streams by
/// itself.
const AHEAD: usize = 4 * BLOCK;

/// Most tensors with the elements of an update: the gradient, the master, the weight, and two moments.
const STREAMS: usize = 6;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Elements that one task updates; results do not depend on it.
const TASK: usize = 64 * BLOCK;

pub(super) fn run<const N: usize>(cpu: &Cpu<'_>, tensors: &Tensors<'_, N>, rule: &impl Rule<N>) {
    let numel = tensors.gradient.numel();
    cpu.parallel_chunks(numel, TASK, |range, _| cpu.dispatch(Blocks { tensors, rule, range }));
}

struct Blocks<'a, const N: usize, R> {
    tensors: &'a Tensors<'a, N>,
    rule: &'a R,
    range: Range<usize>,
}

/// A block in f32.
#[repr(align(64))]
struct Values([f32; BLOCK]);

impl Values {
    const ZERO: Values = Values([0.0; BLOCK]);
}

impl<const N: usize, R: Rule<N>> Kernel for Blocks<'_, N, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mut master, mut moments, mut words) = (Values::ZERO, [Values::ZERO; N], Words::new());
        let (mut streams, mut count) = ([(std::ptr::null_mut(), 0); STREAMS], 0);
        self.tensors.visit(&mut |_, view| {
            if view.numel() == self.tensors.gradient.numel() && count < STREAMS {
                streams[count] = (view.data(), view.dtype().size());
                count += 1;
            }
        });
        let mut at = self.range.start;
        while at < self.range.end {
            let n = BLOCK.min(self.range.end - at);
            for (start, size) in &streams[..count] {
                let ahead = start.wrapping_add((at + AHEAD) * size);
                for line in 0..(BLOCK * size).div_ceil(LINE) {
                    prefetch(ahead.wrapping_add(line * LINE));
                }
            }
            // SAFETY: the check required contiguous tensors of these elements, and a scale for each block.
            unsafe { self.block(s, at, n, &mut master, &mut moments, &mut words) };
            at += n;
        }
    }
}

impl<const N: usize, R: Rule<N>> Blocks<'_, N, R> {
    /// Updates `n` elements from `at` on, a multiple of [`BLOCK`].
    ///
    /// # Safety
    /// The tensors have them.
    #[inline(always)]
    unsafe fn block<S: Simd>(
        &self,
        s: S,
        at: usize,
        n: usize,
        master: &mut Values,
        moments: &mut [Values; N],
        words: &mut Words,
    ) {
        let tensors = self.tensors;
        let maps = [&DynamicMap::SIGNED, &DynamicMap::UNSIGNED];
        let keys = tensors.random.map(|random| random.keys());
        let index = tensors.random.map_or(0, |random| random.first_index) + at as u64;
        let key = |stream: usize| -> Key { keys.expect("the check required it")[stream] };
        let mut moment = [std::ptr::null_mut(); N];
        let mut coded = false;
        // SAFETY: the caller's promise.
        unsafe {
            let master = match tensors.master.resolved() {
                Master::F32 { master, .. } => master.ptr::<f32>().add(at),
                Master::Split16 { weight, remainder } => {
                    let (weight, remainder) = (weight.ptr::<u16>().add(at), remainder.ptr::<i16>().add(at));
                    compact::join(s, weight, remainder, master.0.as_mut_ptr(), n);
                    master.0.as_mut_ptr()
                }
                Master::Absent { weight } => {
                    if weight.dtype() == DType::BF16 {
                        copy::<S, bf16, f32>(s, weight.ptr::<bf16>().add(at), master.0.as_mut_ptr(), n);
                    } else {
                        copy::<S, f16, f32>(s, weight.ptr::<f16>().add(at), master.0.as_mut_ptr(), n);
                    }
                    master.0.as_mut_ptr()
                }
            };
            for k in 0..N {
                let values = moments[k].0.as_mut_ptr();
                moment[k] = match tensors.moments[k].1 {
                    Moment::Plain(view) if view.dtype() == DType::F32 => view.ptr::<f32>().add(at),
                    Moment::Plain(view) => {
                        copy::<S, bf16, f32>(s, view.ptr::<bf16>().add(at), values, n);
                        values
                    }
                    Moment::Int8 { codes, absmax } => {
                        coded = true;
                        let scale = absmax.ptr::<f32>().add(at / BLOCK).read();
                        compact::decode(s, maps[k], codes.ptr::<u8>().add(at), scale, values, n);
                        values
                    }
                };
            }
            let largest = with_float!(tensors.gradient.dtype(), G => {
                let gradient = tensors.gradient.ptr::<G>().add(at);
                if coded {
                    self.update::<S, G, true>(s, gradient, master, &moment, n)
                } else {
                    self.update::<S, G, false>(s, gradient, master, &moment, n)
                }
            });
            match tensors.master.resolved() {
                Master::F32 { weight: None, .. } => {}
                Master::F32 { weight: Some(weight), .. } => match weight.dtype() {
                    DType::BF16 => copy::<S, f32, Bf16Away>(s, master, weight.ptr::<Bf16Away>().add(at), n),
                    DType::F16 => copy::<S, f32, f16>(s, master, weight.ptr::<f16>().add(at), n),
                    _ => copy::<S, f32, f32>(s, master, weight.ptr::<f32>().add(at), n),
                },
                Master::Split16 { weight, remainder } => {
                    compact::split(s, master, weight.ptr::<u16>().add(at), remainder.ptr::<i16>().add(at), n);
                }
                Master::Absent { weight } => {
                    let words = words.draw(s, key(0), index, n);
                    let to = weight.ptr::<u16>().add(at);
                    if weight.dtype() == DType::BF16 {
                        compact::store_bf16(s, master, words, Half::High, to, n);
                    } else {
                        compact::store_f16(s, master, words, to, n);
                    }
                }
            }
            let mut drawn = None;
            for k in 0..N {
                match tensors.moments[k].1 {
                    Moment::Plain(view) if view.dtype() == DType::F32 => {}
                    Moment::Plain(view) => {
                        let words = match drawn {
                            Some(words) => words,
                            None => words.draw(s, key(1), index, n),
                        };
                        drawn = Some(words);
                        let half = if k == 0 { Half::High } else { Half::Low };
                        compact::store_bf16(s, moment[k], words, half, view.ptr::<u16>().add(at), n);
                    }
                    Moment::Int8 { codes, absmax } => {
                        let (codes, absmax) = (codes.ptr::<u8>().add(at), absmax.ptr::<f32>().add(at / BLOCK));
                        compact::encode(s, maps[k], moment[k], largest[k], codes, absmax, n);
                    }
                }
            }
        }
    }

    /// Updates the master and the moments in f32; returns the largest magnitudes of moments that will be `CODED`, as
    /// integers.
    ///
    /// # Safety
    /// All are valid for `n` elements.
    #[inline(always)]
    unsafe fn update<S: Simd, G: Element, const CODED: bool>(
        &self,
        s: S,
        gradient: *const G,
        master: *mut f32,
        moment: &[*mut f32; N],
        n: usize,
    ) -> [i32; N] {
        let scale = s.splat(self.tensors.gradient_scale);
        let mut largest = [s.splat_i(0); N];
        each_vector!(S, n, |at, span| {
            // SAFETY: the caller's promise.
            unsafe {
                let g = s.mul(span.load(s, gradient.add(at)), scale);
                let x = span.load(s, master.add(at));
                let mut m = [s.splat(0.0); N];
                for k in 0..N {
                    m[k] = span.load(s, moment[k].add(at));
                }
                let (x, m) = self.rule.update(s, g, x, m);
                span.store(s, master.add(at), x);
                for k in 0..N {
                    span.store(s, moment[k].add(at), m[k]);
                    if CODED {
                        largest[k] = s.max_i(largest[k], s.bits(s.abs(span.keep(s, m[k], 0.0))));
                    }
                }
            }
        });
        let mut lanes = [0; N];
        if CODED {
            for k in 0..N {
                lanes[k] = s.max_lane_i(largest[k]);
            }
        }
        lanes
    }
}

/// y = x, rounded as Y is stored.
///
/// # Safety
/// Both are valid for `n` elements.
#[inline(always)]
unsafe fn copy<S: Simd, X: Element, Y: Element>(s: S, x: *const X, y: *mut Y, n: usize) {
    each_vector!(S, n, |at, span| {
        // SAFETY: the caller's promise.
        unsafe { span.store(s, y.add(at), span.load(s, x.add(at))) };
    });
}
