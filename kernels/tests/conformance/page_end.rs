//! No operation reads past its arguments: every tensor ends where the next page may not be touched.

use crate::harness::{Rng, levels, run_with};
use scalert_kernels::dtype::{DType, bf16, f16};
use scalert_kernels::dynamic_map::Sign;
use scalert_kernels::ops::accumulate::Accumulate;
use scalert_kernels::ops::adamw::AdamW;
use scalert_kernels::ops::attention::{AttentionBackward, AttentionForward, Implementation};
use scalert_kernels::ops::bias_gradient::BiasGradient;
use scalert_kernels::ops::blockwise::{Dequantize, Quantize};
use scalert_kernels::ops::cast::{Cast, Rounding};
use scalert_kernels::ops::cross_entropy::CrossEntropy;
use scalert_kernels::ops::embedding::{EmbeddingBackward, EmbeddingForward};
use scalert_kernels::ops::gemm::{Activation, Gemm};
use scalert_kernels::ops::layer_norm::{LayerNormBackward, LayerNormForward};
use scalert_kernels::ops::linear_cross_entropy::LinearCrossEntropy;
use scalert_kernels::ops::optimizer::{Master, Moment, Random};
use scalert_kernels::ops::rotary::{Rotary, RotaryLayout};
use scalert_kernels::ops::split16::{Join, Split};
use scalert_kernels::philox::Key;
use scalert_kernels::view::View;
use std::ffi::{c_int, c_void};

unsafe extern "C" {
    fn mmap(address: *mut c_void, bytes: usize, protection: c_int, flags: c_int, file: c_int, at: i64) -> *mut c_void;
    fn mprotect(address: *mut c_void, bytes: usize, protection: c_int) -> c_int;
    fn munmap(address: *mut c_void, bytes: usize) -> c_int;
}

/// At least a page wherever Linux runs.
const PAGE: usize = 64 * 1024;

/// A tensor whose last element ends a page that none follows.
struct Edge {
    pages: *mut u8,
    bytes: usize,
    data: *mut u8,
    dtype: DType,
    shape: Vec<usize>,
    stride: Vec<usize>,
}

impl Edge {
    /// With rows padded by `padding` elements; small values.
    fn new(dtype: DType, shape: &[usize], padding: usize) -> Edge {
        let mut stride = vec![1; shape.len()];
        for d in (0..shape.len().saturating_sub(1)).rev() {
            stride[d] = stride[d + 1] * shape[d + 1] + if d + 2 == shape.len() { padding } else { 0 };
        }
        let span = shape.iter().zip(&stride).map(|(n, s)| (n - 1) * s).sum::<usize>() + 1;
        let inside = (span * dtype.size()).next_multiple_of(PAGE);
        let bytes = inside + PAGE;
        // Readable, writable; private, of no file.
        // SAFETY: a new mapping; its result is checked.
        let pages = unsafe { mmap(std::ptr::null_mut(), bytes, 1 | 2, 0x02 | 0x20, -1, 0) }.cast::<u8>();
        assert_ne!(pages as isize, -1, "mmap");
        // SAFETY: the last page of the mapping just made.
        assert_eq!(unsafe { mprotect(pages.add(inside).cast(), PAGE, 0) }, 0, "mprotect");
        // SAFETY: the elements end where the last page begins, and fit before it.
        let data = unsafe { pages.add(inside - span * dtype.size()) };
        let edge = Edge { pages, bytes, data, dtype, shape: shape.to_vec(), stride };
        let (view, mut rng) = (edge.view(), Rng(span as u64));
        for i in 0..view.numel() {
            let x = rng.normal() as f32;
            // SAFETY: element i lies inside the readable part, as its address says.
            unsafe {
                match dtype {
                    DType::F32 => view.element_ptr::<f32>(i).write(x),
                    DType::BF16 => view.element_ptr::<bf16>(i).write(bf16::from_f32(x)),
                    DType::F16 => view.element_ptr::<f16>(i).write(f16::from_f32(x)),
                    DType::I32 => view.element_ptr::<i32>(i).write(0),
                    DType::I64 => view.element_ptr::<i64>(i).write(0),
                    DType::I16 => view.element_ptr::<i16>(i).write(0),
                    DType::U8 => view.element_ptr::<u8>(i).write(0),
                }
            }
        }
        edge
    }

    fn view(&self) -> View<'_> {
        // SAFETY: every element lies inside the mapping, which lives as long as the edge.
        unsafe { View::new("edge", self.data, self.dtype, &self.shape, &self.stride) }.unwrap()
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, unmapped once.
        assert_eq!(unsafe { munmap(self.pages.cast(), self.bytes) }, 0, "munmap");
    }
}

const FLOATS: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

#[test]
fn products() {
    for dtype in FLOATS {
        for (m, n, k) in [(1, 1, 1), (1, 3, 2), (5, 1, 33), (3, 5, 7), (17, 35, 19), (15, 9, 31)] {
            for padding in [0, 3] {
                for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
                    let a = Edge::new(dtype, &if ta { [k, m] } else { [m, k] }, padding);
                    let b = Edge::new(dtype, &if tb { [n, k] } else { [k, n] }, padding);
                    let (c, pre) = (Edge::new(dtype, &[m, n], padding), Edge::new(dtype, &[m, n], padding));
                    let bias = Edge::new(dtype, &[n], 0);
                    for level in levels() {
                        let plain = Gemm { beta: 0.5, ..Gemm::new(ta, tb, a.view(), b.view(), c.view()) };
                        let pre_activation = Some(pre.view());
                        let (activation, bias) = (Activation::GeluTanh, Some(bias.view()));
                        run_with(&Gemm { bias, activation, pre_activation, ..plain }, level, 1);
                        let activation = Activation::GeluTanhBackward;
                        run_with(&Gemm { activation, pre_activation, ..plain }, level, 1);
                    }
                }
            }
        }
    }
}

#[test]
fn attention() {
    for dtype in FLOATS {
        for (t, s, hq, hk, d) in [(1, 1, 1, 1, 16), (3, 5, 4, 2, 24), (19, 67, 2, 1, 40), (65, 65, 1, 1, 56)] {
            for (causal, padding) in [(false, 0), (true, 0), (true, 3)] {
                let queries = || Edge::new(dtype, &[1, t, hq, d], padding);
                let keys = || Edge::new(dtype, &[1, s, hk, d], padding);
                let (q, out, dout, dq) = (queries(), queries(), queries(), queries());
                let (k, v, dk, dv) = (keys(), keys(), keys(), keys());
                let sums = Edge::new(DType::F32, &[1, hq, t], 0);
                let (q, k, v, out) = (q.view(), k.view(), v.view(), out.view());
                let (dout, dq, dk, dv, scale) = (dout.view(), dq.view(), dk.view(), dv.view(), -0.5);
                for level in levels() {
                    let (log_sum_exp, implementation) = (Some(sums.view()), Implementation::Auto);
                    run_with(&AttentionForward { q, k, v, causal, scale, out, log_sum_exp, implementation }, level, 1);
                    let log_sum_exp = sums.view();
                    let backward = AttentionBackward {
                        q,
                        k,
                        v,
                        out,
                        log_sum_exp,
                        dout,
                        causal,
                        scale,
                        dq,
                        dk,
                        dv,
                        implementation,
                    };
                    run_with(&backward, level, 1);
                }
            }
        }
    }
}

#[test]
fn rows() {
    for dtype in FLOATS {
        for (rows, width, padding) in [(1, 1, 0), (3, 2, 1), (5, 19, 3), (2, 130, 0), (300, 34, 1)] {
            let like = || Edge::new(dtype, &[rows, width], padding);
            let (x, y, z) = (like(), like(), like());
            let (w, b) = (Edge::new(dtype, &[width], 0), Edge::new(DType::F32, &[width], 0));
            let (one, two) = (Edge::new(DType::F32, &[rows], 0), Edge::new(DType::F32, &[rows], 0));
            let (ids, table) = (Edge::new(DType::I32, &[rows], 0), Edge::new(dtype, &[7, width], padding));
            let (positions, sums) =
                (Edge::new(dtype, &[rows, width], padding), Edge::new(DType::F32, &[rows, width], 0));
            let (count, square) = (Edge::new(DType::I64, &[1], 0), Edge::new(DType::I64, &[68], 0));
            let (x, y, z, w, b) = (x.view(), y.view(), z.view(), w.view(), b.view());
            for level in levels() {
                let (weight, bias, mean, rstd) = (Some(w), Some(b), one.view(), two.view());
                let epsilon = 1e-5;
                let statistics = (Some(mean), Some(rstd));
                let (mean_out, rstd_out) = statistics;
                run_with(&LayerNormForward { x, weight, bias, epsilon, y, mean: mean_out, rstd: rstd_out }, level, 1);
                let (dweight, dbias) = (Some(b), None);
                let backward =
                    LayerNormBackward { dy: y, x, weight, mean, rstd, dx: z, dweight, dbias, accumulate: true };
                run_with(&backward, level, 1);
                run_with(&BiasGradient { dy: x, dbias: w, accumulate: true }, level, 1);
                let (targets, losses, dlogits) = (ids.view(), one.view(), Some(y));
                let (ignore_index, gradient_scale, loss_scale) = (0, 1.0, None);
                let loss =
                    CrossEntropy { logits: x, targets, ignore_index, gradient_scale, loss_scale, losses, dlogits };
                run_with(&loss, level, 1);
                let linear = LinearCrossEntropy {
                    x,
                    weight: table.view(),
                    targets,
                    ignore_index,
                    gradient_scale,
                    loss_scale,
                    losses,
                    dx: None,
                    dweight: None,
                    accumulate_dweight: false,
                };
                run_with(&linear, level, 1);
                let (tokens, token_table, position_table) = (ids.view(), table.view(), Some(positions.view()));
                run_with(&EmbeddingForward { tokens, token_table, position_table, y }, level, 1);
                let (dtoken_table, dposition_table) = (table.view(), Some(positions.view()));
                let backward = EmbeddingBackward { tokens, dy: x, dtoken_table, dposition_table, accumulate: true };
                run_with(&backward, level, 1);
                let key = Key { seed: 1, step: 2, tensor: 3 };
                let rounding = Rounding::Stochastic { key, first_index: 5 };
                run_with(&Cast { x, rounding, y: sums.view() }, level, 1);
                run_with(&Cast { x: sums.view(), rounding, y }, level, 1);
                let (nonfinite, square_sum) = (count.view(), Some(square.view()));
                run_with(
                    &Accumulate {
                        x,
                        overwrite: false,
                        y: sums.view(),
                        nonfinite,
                        square_sum,
                        overflow: None,
                        overflow_mark: 0,
                    },
                    level,
                    1,
                );
            }
        }
    }
}

#[test]
fn heads() {
    for dtype in FLOATS {
        for (t, d, padding) in [(1, 2, 0), (3, 6, 1), (17, 22, 0), (2, 64, 3)] {
            let (x, y) = (Edge::new(dtype, &[t, 2, d], padding), Edge::new(dtype, &[t, 2, d], padding));
            let positions = Edge::new(DType::I32, &[t], 0);
            for layout in [RotaryLayout::Halves, RotaryLayout::Interleaved] {
                for level in levels() {
                    let (x, positions, y) = (x.view(), Some(positions.view()), y.view());
                    run_with(&Rotary { x, positions, base: 1e4, layout, inverse: true, y }, level, 1);
                }
            }
        }
    }
}

#[test]
fn optimizer_state_in_compact_formats() {
    for n in [1, 3, 17, 255, 256, 261] {
        let tensor = |dtype| Edge::new(dtype, &[n], 0);
        let scales = || Edge::new(DType::F32, &[n.div_ceil(256)], 0);
        let (gradient, weight, remainder) = (tensor(DType::BF16), tensor(DType::BF16), tensor(DType::I16));
        let (codes, absmax) = ([tensor(DType::U8), tensor(DType::U8)], [scales(), scales()]);
        let plain = [tensor(DType::BF16), tensor(DType::BF16)];
        let int8 = |k: usize| Moment::Int8 { codes: codes[k].view(), absmax: absmax[k].view() };
        let split = AdamW {
            gradient: gradient.view(),
            gradient_scale: 1.0,
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
            bias_correction1: 1.0,
            bias_correction2: 1.0,
            master: Master::Split16 { weight: weight.view(), remainder: remainder.view() },
            moment1: int8(0),
            moment2: int8(1),
            random: Some(Random { seed: 1, step: 2, tensor: 3, first_index: 5 }),
            control: None,
        };
        let f32s = tensor(DType::F32);
        for level in levels() {
            run_with(&split, level, 1);
            let [moment1, moment2] = [Moment::Plain(plain[0].view()), Moment::Plain(plain[1].view())];
            run_with(&AdamW { master: Master::Absent { weight: weight.view() }, moment1, moment2, ..split }, level, 1);
            let (codes, absmax, sign) = (codes[0].view(), absmax[0].view(), Sign::Signed);
            run_with(&Quantize { x: f32s.view(), sign, codes, absmax }, level, 1);
            run_with(&Dequantize { codes, absmax, sign, y: f32s.view() }, level, 1);
            let (weight, remainder) = (weight.view(), remainder.view());
            run_with(&Split { x: f32s.view(), weight, remainder }, level, 1);
            run_with(&Join { weight, remainder, y: f32s.view() }, level, 1);
        }
    }
}
