//! Splitting and joining: every pair of halves that matters, and the layouts.

use crate::harness::*;
use scalert_kernels::dtype::{DType, bf16_bits_nearest_away};
use scalert_kernels::ops::Op;
use scalert_kernels::ops::split16::{Join, Split, reference};

fn f32s(bits: impl ExactSizeIterator<Item = u32>) -> Tensor {
    let mut tensor = Tensor::new(DType::F32, &[bits.len()]);
    tensor.set_bits32(bits);
    tensor
}

/// Splits and joins `bits` everywhere; returns weights, remainders and what they join to.
fn there_and_back(bits: impl ExactSizeIterator<Item = u32>) -> [Vec<u64>; 3] {
    let x = f32s(bits);
    let n = x.numel();
    let outputs = run_identically(|target, threads| {
        let outputs = [DType::BF16, DType::I16, DType::F32].map(|dtype| Tensor::with_layout(dtype, &[n], 0, 1));
        let [weight, remainder, y] = &outputs;
        let (weight, remainder) = (weight.view(), remainder.view());
        run_with(&Split { x: x.view(), weight, remainder }, target, threads);
        run_with(&Join { weight, remainder, y: y.view() }, target, threads);
        outputs.into()
    });
    [outputs[0].bits(), outputs[1].bits(), outputs[2].bits()]
}

#[test]
fn what_was_split_is_joined_to_the_same_bits() {
    // Zeros, denormals, ordinary numbers, the largest finite ones and infinity, of both signs, with all low halves: the low
    // half of the largest finite high half rounds to infinity, and infinity has no low half.
    let highs = [0x0000u32, 0x0001, 0x007f, 0x0080, 0x0081, 0x3f7f, 0x3f80, 0x4000, 0x42c8, 0x7f7e, 0x7f7f];
    for high in highs.into_iter().flat_map(|high| [high, high | 0x8000]) {
        let [weights, remainders, joined] = there_and_back((0..1u32 << 16).map(|low| high << 16 | low));
        for low in 0..1u32 << 16 {
            let (bits, i) = (high << 16 | low, low as usize);
            let (weight, remainder) = reference::split(bits);
            assert_eq!((weights[i] as u16, remainders[i] as i16), (weight, remainder), "{bits:#x}");
            assert_eq!(weight, bf16_bits_nearest_away(bits), "{bits:#x}");
            assert_eq!((joined[i] as u32, reference::join(weight, remainder)), (bits, bits), "{bits:#x}");
        }
    }
    let [weights, remainders, joined] = there_and_back([0x7f80_0000, 0xff80_0000, 0x7f7f_ffff].into_iter());
    assert_eq!(weights, [0x7f80, 0xff80, 0x7f80]);
    assert_eq!(remainders, [0, 0, 0xffff]);
    assert_eq!(joined, [0x7f80_0000, 0xff80_0000, 0x7f7f_ffff]);
}

#[test]
fn nan_stays_nan_in_the_weight_and_in_what_is_joined() {
    let nan = |bits: u64| bits & 0x7fff_ffff > 0x7f80_0000;
    for high in [0x7f80u32, 0x7f81, 0x7fbf, 0x7fc0, 0x7fff, 0xff80, 0xffff] {
        let [weights, _, joined] = there_and_back((1..1u32 << 16).map(|low| high << 16 | low));
        assert!(weights.iter().all(|weight| nan(weight << 16)), "{high:#x}");
        assert!(joined.iter().all(|bits| nan(*bits)), "{high:#x}");
    }
}

#[test]
fn refuses_bad_arguments() {
    let tensor = |dtype| Tensor::new(dtype, &[2, 3]);
    let (x, weight, remainder) = (tensor(DType::F32), tensor(DType::BF16), tensor(DType::I16));
    let (x, weight, remainder) = (x.view(), weight.view(), remainder.view());
    let good = Split { x, weight, remainder };
    assert!(good.check().is_ok());
    let refused = |op: Split<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(Split { x: weight, ..good }), "x");
    assert_eq!(refused(Split { weight: remainder, ..good }), "weight");
    assert_eq!(refused(Split { remainder: weight, ..good }), "remainder");
    let (short, gaps) = (Tensor::new(DType::I16, &[5]), Tensor::with_layout(DType::I16, &[2, 3], 1, 0));
    assert_eq!(refused(Split { remainder: short.view(), ..good }), "remainder");
    assert_eq!(refused(Split { remainder: gaps.view(), ..good }), "remainder");
    assert_eq!(Join { weight, remainder, y: remainder }.check().unwrap_err().argument, "y");
    let empty = Tensor::new(DType::F32, &[0]);
    assert_eq!(Join { weight, remainder, y: empty.view() }.check().unwrap_err().argument, "weight");
}
