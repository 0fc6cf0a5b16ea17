//! 8-bit codes: the published map, golden values of bitsandbytes, and the nearest value by search.

use crate::harness::*;
use scalert_kernels::dtype::DType;
use scalert_kernels::dynamic_map::{BLOCK, DynamicMap, Sign};
use scalert_kernels::ops::Op;
use scalert_kernels::ops::blockwise::{Dequantize, Quantize, reference};

const SIGNS: [Sign; 2] = [Sign::Signed, Sign::Unsigned];

/// Codes and scales of `x`, the same everywhere.
fn quantize(x: &[f32], sign: Sign) -> (Vec<u8>, Vec<f32>) {
    let mut tensor = Tensor::new(DType::F32, &[x.len()]);
    tensor.set_bits32(x.iter().map(|x| x.to_bits()));
    let outputs = run_identically(|target, threads| {
        let codes = Tensor::with_layout(DType::U8, &[x.len()], 0, 3);
        let absmax = Tensor::new(DType::F32, &[x.len().div_ceil(BLOCK)]);
        let (codes_view, absmax_view) = (codes.view(), absmax.view());
        run_with(&Quantize { x: tensor.view(), sign, codes: codes_view, absmax: absmax_view }, target, threads);
        vec![codes, absmax]
    });
    let absmax = outputs[1].bits().iter().map(|bits| f32::from_bits(*bits as u32)).collect();
    (outputs[0].bits().iter().map(|code| *code as u8).collect(), absmax)
}

#[test]
fn the_map_is_the_published_one() {
    for sign in SIGNS {
        let (map, published) = (DynamicMap::of(sign), reference::map(sign));
        assert_eq!(published.len(), 256);
        for (code, value) in published.iter().enumerate() {
            let ours = f64::from(map.value(code as u8));
            assert!((ours - value).abs() <= value.abs() * 2f64.powi(-23), "{sign:?} {code}: {ours:e}, {value:e}");
        }
    }
}

/// `create_dynamic_map` of bitsandbytes 0.49.0, in f32: some of its entries.
const GOLDEN_VALUES: [(Sign, [(u8, f32); 10]); 2] = [
    (
        Sign::Signed,
        [
            (0, -0.992_968_74),
            (17, -0.753_906_25),
            (63, -0.107_031_256),
            (64, -0.098_593_75),
            (100, -0.007_468_75),
            (126, -5.5e-7),
            (127, 0.0),
            (130, 7.75e-6),
            (200, 0.233_593_75),
            (255, 1.0),
        ],
    ),
    (
        Sign::Unsigned,
        [
            (0, 0.0),
            (1, 3.25e-7),
            (5, 6.625e-6),
            (17, 0.000_240_625),
            (64, 0.012_109_376),
            (100, 0.062_734_38),
            (126, 0.099_296_875),
            (127, 0.103_515_625),
            (200, 0.616_796_85),
            (255, 1.0),
        ],
    ),
];

/// Codes of 2^(-i/5.1), i = 0, …, 63, every other one negative in the signed map: `cquantize_blockwise_cpu_fp32` of
/// bitsandbytes 0.49.0 in one block.
const GOLDEN_CODES: [(Sign, [u8; 64]); 2] = [(Sign::Signed, GOLDEN_SIGNED), (Sign::Unsigned, GOLDEN_UNSIGNED)];
const GOLDEN_SIGNED: [u8; 64] = [
    255, 9, 238, 23, 225, 35, 215, 43, 207, 50, 202, 55, 197, 58, 194, 61, 191, 64, 186, 72, 178, 79, 173, 83, 169, 87,
    165, 90, 163, 92, 161, 94, 160, 95, 158, 98, 154, 102, 151, 104, 148, 107, 147, 108, 145, 109, 144, 110, 143, 111,
    143, 112, 141, 114, 139, 115, 138, 117, 137, 117, 136, 118, 136, 119,
];
const GOLDEN_UNSIGNED: [u8; 64] = [
    255, 236, 221, 207, 195, 184, 175, 167, 160, 154, 149, 144, 140, 137, 133, 131, 128, 126, 117, 109, 102, 96, 91,
    87, 83, 79, 76, 74, 71, 69, 67, 66, 65, 63, 62, 57, 54, 50, 47, 45, 42, 40, 39, 37, 36, 35, 34, 33, 32, 32, 31, 30,
    28, 26, 24, 23, 22, 20, 19, 19, 18, 17, 17, 16,
];

#[test]
fn values_and_codes_are_those_of_bitsandbytes() {
    for (sign, values) in GOLDEN_VALUES {
        for (code, value) in values {
            let ours = DynamicMap::of(sign).value(code);
            assert!((ours - value).abs() <= value.abs() * f32::EPSILON, "{sign:?} {code}: {ours:e}, {value:e}");
        }
    }
    for (sign, codes) in GOLDEN_CODES {
        let x: Vec<f32> = (0..64)
            .map(|i| 2f64.powf(-f64::from(i) / 5.1) * if sign == Sign::Signed && i % 2 == 1 { -1.0 } else { 1.0 })
            .map(|x| x as f32)
            .collect();
        assert_eq!(quantize(&x, sign), (codes.to_vec(), vec![1.0]), "{sign:?}");
    }
}

#[test]
fn codes_are_the_nearest() {
    for sign in SIGNS {
        let (map, values) = (DynamicMap::of(sign), reference::map(sign));
        // Numbers below 1 of all sizes, and those next to where the nearest value changes.
        let mut numbers: Vec<u32> = (0x2f80_0000..0x3f80_0000).step_by(0x1357).collect();
        for pair in values.windows(2).filter(|pair| pair[0] >= 0.0) {
            let middle = (((pair[0] + pair[1]) / 2.0) as f32).to_bits();
            numbers.extend(middle - 40..middle + 40);
        }
        let mut x = Vec::new();
        for (i, bits) in numbers.iter().enumerate() {
            if x.len() % BLOCK == 0 {
                x.push(1.0);
            }
            let value = f32::from_bits(*bits);
            x.push(if i % 3 == 0 { -value } else { value });
        }
        let (codes, absmax) = quantize(&x, sign);
        assert!(absmax.iter().all(|scale| *scale == 1.0));
        for (x, code) in x.iter().zip(codes) {
            let x = f64::from(*x);
            let (ours, nearest) = ((f64::from(map.value(code)) - x).abs(), reference::distance(&values, x));
            // Half-way between values, either is within the rounding of the rank.
            assert!(ours <= nearest + 1e-6 * x.abs(), "{sign:?} {x:e}: {ours:e} from code {code}, nearest {nearest:e}");
        }
    }
}

#[test]
fn all_codes_survive_and_scale() {
    for sign in SIGNS {
        for scale in [1.0f32, 3.7e-5, 2f32.powi(-126), 1.7e38] {
            let map = DynamicMap::of(sign);
            let x: Vec<f32> = (0..=255).map(|code| map.value(code) * scale).collect();
            let (codes, absmax) = quantize(&x, sign);
            assert_eq!(absmax, [scale]);
            // Denormal products are rounded away.
            if scale > 1e-30 {
                assert_eq!(codes, (0..=255).collect::<Vec<u8>>(), "{sign:?} {scale:e}");
            }
            let mut stored = Tensor::new(DType::U8, &[256]);
            codes.iter().enumerate().for_each(|(i, code)| stored.set(i, f64::from(*code)));
            let scales = Tensor::new(DType::F32, &[1]).fill(|_| f64::from(absmax[0]));
            let y = run_identically(|target, threads| {
                let y = Tensor::with_layout(DType::F32, &[256], 0, 1);
                let op = Dequantize { codes: stored.view(), absmax: scales.view(), sign, y: y.view() };
                run_with(&op, target, threads);
                vec![y]
            });
            for (code, y) in codes.iter().zip(y[0].bits()) {
                assert_eq!(y as u32, (map.value(*code) * scale).to_bits(), "{sign:?} {code}");
            }
        }
    }
}

#[test]
fn zeros_tiny_and_non_finite_blocks() {
    let mut rng = Rng(2);
    for sign in SIGNS {
        let zero = if sign == Sign::Signed { 127 } else { 0 };
        let block = |f: &mut dyn FnMut(usize) -> f32| (0..BLOCK).map(f).collect::<Vec<_>>();
        let mut x = block(&mut |i| if i % 2 == 0 { 0.0 } else { -0.0 });
        x.extend(block(&mut |i| f32::from_bits(i as u32 * 0x7fff)));
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            x.extend(block(&mut |i| if i == 77 { bad } else { rng.normal() as f32 }));
        }
        x.extend([5.0, 0.0, f32::MIN_POSITIVE]);
        let (codes, absmax) = quantize(&x, sign);
        assert!(codes[..6 * BLOCK].iter().all(|code| *code == zero), "{sign:?}");
        assert_eq!(absmax[..2], [0.0, 0.0]);
        assert!(absmax[2..6].iter().all(|scale| scale.is_nan()));
        assert_eq!((&codes[6 * BLOCK..], absmax[6]), (&[255, zero, zero][..], 5.0));
    }
}

#[test]
fn every_size_and_alignment() {
    let mut rng = Rng(4);
    for n in [0usize, 1, 7, 31, 255, 256, 257, 1000, 16_384, 16_385 + 256] {
        for sign in SIGNS {
            let x: Vec<f32> = (0..n).map(|_| (rng.normal() * 2f64.powi(rng.below(40) as i32 - 20)) as f32).collect();
            let (codes, absmax) = quantize(&x, sign);
            // A block is what it is alone.
            for (i, block) in x.chunks(BLOCK).enumerate().step_by(9) {
                let (alone, scale) = quantize(block, sign);
                assert_eq!((&alone[..], scale[0]), (&codes[i * BLOCK..][..block.len()], absmax[i]), "{n} {sign:?} {i}");
                assert_eq!(scale[0], block.iter().fold(0.0, |most: f32, x| most.max(x.abs())));
            }
        }
    }
}

#[test]
fn refuses_bad_arguments() {
    let (x, codes, absmax) =
        (Tensor::new(DType::F32, &[300]), Tensor::new(DType::U8, &[300]), Tensor::new(DType::F32, &[2]));
    let good = Quantize { x: x.view(), sign: Sign::Signed, codes: codes.view(), absmax: absmax.view() };
    assert!(good.check().is_ok());
    let refused = |op: Quantize<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(Quantize { x: codes.view(), ..good }), "x");
    assert_eq!(refused(Quantize { codes: x.view(), ..good }), "codes");
    assert_eq!(refused(Quantize { absmax: x.view(), ..good }), "absmax");
    let short = Tensor::new(DType::U8, &[299]);
    assert_eq!(refused(Quantize { codes: short.view(), ..good }), "codes");
    let ids = Tensor::new(DType::I32, &[2]);
    assert_eq!(refused(Quantize { absmax: ids.view(), ..good }), "absmax");
    let y = Dequantize { codes: codes.view(), absmax: absmax.view(), sign: Sign::Signed, y: codes.view() };
    assert_eq!(y.check().unwrap_err().argument, "y");
}
