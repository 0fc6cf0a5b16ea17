//! Casts: every bit against the grid of the dtype, and the mean of stochastic rounding.

use crate::harness::*;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::cast::{Cast, Rounding, reference};
use scalert_kernels::philox::Key;
use scalert_kernels::view::View;

const KEY: Key = Key { seed: 0x1234_5678_9abc_def0, step: 77, tensor: 3 };

fn stochastic(first_index: u64) -> Rounding {
    Rounding::Stochastic { key: KEY, first_index }
}

/// Values near every kind of boundary of both 16-bit types, as f32.
fn boundaries(rng: &mut Rng) -> f64 {
    let base = f32::from_bits((rng.next_u64() as u32) & 0xffff_0000);
    let base = match rng.below(4) {
        0 => base,
        1 => f32::from_bits((base.to_bits() & 0x8fff_ffff) | 0x3000_0000),
        2 => 2f32.powi(rng.below(16) as i32 - 26) * (rng.below(2048) as f32 / 1024.0),
        _ => [65504.0, 65519.996, 65520.0, 65535.996, 65536.0, f32::MAX, 3.3895314e38, 3.3961775e38, 6.1035156e-5]
            [rng.below(9)],
    };
    let near = base.to_bits().wrapping_add_signed([0, 1, -1, 0x8000, 0x7fff, 0x1000, 0xfff, 0x1001][rng.below(8)]);
    if rng.below(6) == 0 { hostile(rng) as f32 as f64 } else { f32::from_bits(near).into() }
}

#[test]
fn all_pairs_have_the_bits_of_the_reference() {
    let mut rng = Rng(1);
    for from in DType::FLOATS {
        for to in DType::FLOATS {
            for (shape, padding, offset) in LAYOUTS {
                let x = Tensor::with_layout(from, shape, padding, offset).fill(|_| boundaries(&mut rng));
                for rounding in [Rounding::NearestEven, stochastic(0), stochastic((1 << 40) + 13)] {
                    let y = run_identically(|level, threads| {
                        let y = Tensor::with_layout(to, shape, 2, 1);
                        run_with(&Cast { x: x.view(), rounding, y: y.view() }, level, threads);
                        vec![y]
                    });
                    let expected = Tensor::new(to, shape).fill(|i| match rounding {
                        Rounding::NearestEven => reference::nearest_even(to, x.get(i)),
                        Rounding::Stochastic { key, first_index } => {
                            reference::stochastic(to, x.get(i), key.word(first_index + i as u64))
                        }
                    });
                    if from == to {
                        assert_eq!(y[0].bits(), x.bits(), "{from}: a copy");
                    }
                    assert_same(&format!("{from} to {to} {shape:?} {rounding:?}"), &y[0], &expected);
                }
            }
        }
    }
}

#[test]
fn every_16_bit_value_survives_a_cast_to_f32_and_back() {
    for dtype in [DType::BF16, DType::F16] {
        let mut x = Tensor::new(dtype, &[1 << 16]);
        x.set_bits16(|i| i as u16);
        for rounding in [Rounding::NearestEven, stochastic(5)] {
            let wide = Tensor::new(DType::F32, &[1 << 16]);
            let back = run_identically(|level, threads| {
                run_with(&Cast { x: x.view(), rounding, y: wide.view() }, level, threads);
                let back = Tensor::new(dtype, &[1 << 16]);
                run_with(&Cast { x: wide.view(), rounding, y: back.view() }, level, threads);
                vec![back]
            });
            assert_same(dtype.name(), &back[0], &x);
        }
    }
}

#[test]
fn stochastic_rounding_is_unbiased() {
    // Each value n times: the mean of n values on neighbours with distance u has a deviation of at most u / (2 sqrt n).
    let n = 1 << 18;
    for (to, x, unit) in [
        (DType::BF16, 1.0 + 0.3 / 128.0, 1.0 / 128.0),
        (DType::BF16, -3.0 - 0.001, 1.0 / 64.0),
        (DType::F16, 1.0 + 0.77 / 1024.0, 1.0 / 1024.0),
        (DType::F16, -3.3 * 2f64.powi(-24), 2f64.powi(-24)),
        (DType::F16, 0.01 * 2f64.powi(-24), 2f64.powi(-24)),
    ] {
        let (value, y) = (Tensor::new(DType::F32, &[n]).fill(|_| x), Tensor::new(to, &[n]));
        run_with(&Cast { x: value.view(), rounding: stochastic(0), y: y.view() }, *levels().last().unwrap(), 1);
        let (x, mean) = (value.get(0), y.values().iter().sum::<f64>() / n as f64);
        assert!((mean - x).abs() < 5.0 * unit / (2.0 * (n as f64).sqrt()), "{to}: mean {mean:e} of {x:e}");
        assert!(y.values().iter().all(|y| (y - x).abs() < unit), "{to}: not a neighbour of {x:e}");
    }
}

#[test]
fn a_shard_rounds_as_the_whole() {
    let mut rng = Rng(4);
    let x = Tensor::new(DType::F32, &[1000]).normal(&mut rng, 1.0);
    for target in targets() {
        let whole = Tensor::new(DType::BF16, &[1000]);
        run_with(&Cast { x: x.view(), rounding: stochastic(0), y: whole.view() }, target, 1);
        for start in [1, 100, 256, 999] {
            // SAFETY: the rest of x.
            let rest =
                unsafe { View::new("x", x.view().data().add(4 * start), DType::F32, &[1000 - start], &[1]) }.unwrap();
            let part = Tensor::new(DType::BF16, &[1000 - start]);
            run_with(&Cast { x: rest, rounding: stochastic(start as u64), y: part.view() }, target, 1);
            assert_eq!(part.bits(), whole.bits()[start..], "{}", target.name());
        }
    }
}

#[test]
fn in_place_and_bad_arguments() {
    let (x, y, ids) = (
        Tensor::new(DType::BF16, &[2, 40]).fill(|i| i as f64),
        Tensor::new(DType::F16, &[2, 40]),
        Tensor::new(DType::I32, &[2, 40]),
    );
    let before = x.values();
    // SAFETY: x's memory as f16.
    let same = unsafe { View::new("y", x.view().data(), DType::F16, &[2, 40], &[40, 1]) }.unwrap();
    for target in targets() {
        run_with(&Cast { x: x.view(), rounding: Rounding::NearestEven, y: same }, target, 1);
        run_with(&Cast { x: same, rounding: Rounding::NearestEven, y: x.view() }, target, 1);
        assert_eq!(x.values(), before, "{}", target.name());
    }

    let good = Cast { x: x.view(), rounding: stochastic(0), y: y.view() };
    assert!(good.check().is_ok());
    let refused = |op: Cast<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(Cast { x: ids.view(), ..good }), "x");
    assert_eq!(refused(Cast { y: ids.view(), ..good }), "y");
    assert_eq!(refused(Cast { y: Tensor::new(DType::F32, &[40, 2]).view(), ..good }), "y");
    assert_eq!(refused(Cast { rounding: stochastic(u64::MAX - 5), ..good }), "key");
    let key = Key { step: Key::STEPS, ..KEY };
    assert_eq!(refused(Cast { rounding: Rounding::Stochastic { key, first_index: 0 }, ..good }), "key");
    // SAFETY: only checked.
    let half = unsafe { View::new("y", x.view().data().add(2), DType::F16, &[2, 39], &[39, 1]) }.unwrap();
    // SAFETY: only checked.
    let start = unsafe { View::new("x", x.view().data(), DType::BF16, &[2, 39], &[39, 1]) }.unwrap();
    assert_eq!(refused(Cast { x: start, y: half, ..good }), "y");
}
