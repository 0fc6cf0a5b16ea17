use crate::harness::*;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::rotary::{Rotary, RotaryLayout, reference};
use scalert_kernels::view::View;

const LAYOUTS: [RotaryLayout; 2] = [RotaryLayout::Halves, RotaryLayout::Interleaved];

struct Case {
    shape: Vec<usize>,
    positions: Option<Vec<i32>>,
    base: f32,
    layout: RotaryLayout,
    inverse: bool,
}

impl Case {
    fn new(shape: &[usize], layout: RotaryLayout) -> Case {
        Case { shape: shape.to_vec(), positions: None, base: 10_000.0, layout, inverse: false }
    }

    fn expected(&self, x: &[f64]) -> Vec<f64> {
        let n = self.shape.len();
        let (t, heads, d) = (self.shape[n - 3], self.shape[n - 2], self.shape[n - 1]);
        let positions = self.positions.clone().unwrap_or_else(|| (0..t as i32).collect());
        reference::rotary(x, &positions, heads, d, self.base.into(), self.layout, self.inverse)
    }

    /// Largest error allowed for each element: that of a store and that of the sines.
    fn assert_matches(&self, what: &str, x: &[f64], y: &Tensor) {
        let expected = self.expected(x);
        let d = *self.shape.last().unwrap();
        for (i, e) in expected.iter().enumerate() {
            let partner = match self.layout {
                RotaryLayout::Halves => i / d * d + (i % d + d / 2) % d,
                RotaryLayout::Interleaved => i ^ 1,
            };
            let size = x[i].abs() + x[partner].abs();
            let smallest = if y.dtype() == DType::F16 { 2f64.powi(-25) } else { 2f64.powi(-133) };
            let bound = epsilon(y.dtype()) * e.abs() + 2f64.powi(-21) * size + smallest;
            let a = y.get(i);
            assert!(a.is_nan() && e.is_nan() || (a - e).abs() <= bound, "{what}: element {i} is {a}, expected {e}");
        }
    }

    fn run(&self, dtype: DType, padding: usize, offset: usize, rng: &mut Rng) {
        let x = Tensor::with_layout(dtype, &self.shape, padding, offset).normal(rng, 1.0);
        let positions = self
            .positions
            .as_ref()
            .map(|p| Tensor::with_layout(DType::I32, &[p.len()], 0, 1).fill(|i| f64::from(p[i])));
        let outputs = run_everywhere(|level, threads| {
            let y = Tensor::with_layout(dtype, &self.shape, padding / 2, offset + 1);
            let op = self.op(&x, positions.as_ref(), &y);
            run_with(&op, level, threads);
            vec![y]
        });
        for (level, y) in outputs {
            self.assert_matches(&format!("{} {dtype} {:?}", level.name(), self.shape), &x.values(), &y[0]);
        }
    }

    fn op<'a>(&self, x: &'a Tensor, positions: Option<&'a Tensor>, y: &'a Tensor) -> Rotary<'a> {
        Rotary {
            x: x.view(),
            positions: positions.map(Tensor::view),
            base: self.base,
            layout: self.layout,
            inverse: self.inverse,
            y: y.view(),
        }
    }
}

#[test]
fn matches_the_reference() {
    let mut rng = Rng(1);
    for dtype in DType::FLOATS {
        for layout in LAYOUTS {
            for d in [2, 4, 6, 14, 16, 18, 30, 32, 34, 64, 66, 128] {
                Case::new(&[2, 19, 3, d], layout).run(dtype, 4, 1, &mut rng);
            }
            Case::new(&[1, 1, 2], layout).run(dtype, 0, 0, &mut rng);
            Case::new(&[33, 2, 8], layout).run(dtype, 2, 3, &mut rng);
            Case::new(&[2, 3, 5, 1, 20], layout).run(dtype, 6, 1, &mut rng);
            // Several tasks along the batch.
            Case::new(&[20, 17, 12, 64], layout).run(dtype, 0, 0, &mut rng);
        }
    }
}

#[test]
fn far_positions_keep_their_accuracy() {
    let mut rng = Rng(2);
    let far = vec![0, 1, -1, 1 << 20, -(1 << 20), (1 << 20) - 1, 777_777, 1_000_003, 5, 12_345];
    for layout in LAYOUTS {
        for base in [1.0, 500.0, 10_000.0, 1e6] {
            for inverse in [false, true] {
                let positions = Some(far.clone());
                Case { shape: vec![2, far.len(), 2, 64], positions, base, layout, inverse }.run(
                    DType::F32,
                    0,
                    0,
                    &mut rng,
                );
            }
        }
    }
}

#[test]
fn the_inverse_turns_back_and_is_the_gradient() {
    let mut rng = Rng(3);
    for layout in LAYOUTS {
        let mut case = Case::new(&[1, 3, 2, 6], layout);
        let x: Vec<f64> = (0..36).map(|_| rng.normal()).collect();
        let dy: Vec<f64> = (0..36).map(|_| rng.normal()).collect();
        let y = case.expected(&x);
        case.inverse = true;
        let (gradient, back) = (case.expected(&dy), case.expected(&y));
        case.inverse = false;
        for i in 0..36 {
            let loss = |x: &[f64]| case.expected(x).iter().zip(&dy).map(|(y, g)| y * g).sum();
            let difference = central_difference(&x, i, 1e-3, loss);
            assert!((difference - gradient[i]).abs() < 1e-8);
            assert!((back[i] - x[i]).abs() < 1e-12);
        }
        case.inverse = true;
        case.run(DType::F32, 0, 0, &mut rng);
    }
}

#[test]
fn works_in_place_on_a_part_of_packed_qkv() {
    let mut rng = Rng(4);
    for dtype in DType::FLOATS {
        for layout in LAYOUTS {
            let case = Case::new(&[2, 21, 3, 10], layout);
            for level in targets() {
                let packed = Tensor::new(dtype, &[2, 21, 3, 3, 10]).normal(&mut rng, 1.0);
                let before = packed.values();
                let part = |which: usize| {
                    let data = packed.view().data().wrapping_add(which * 30 * dtype.size());
                    // SAFETY: a part of the packed tensor.
                    unsafe { View::new("part", data, dtype, &[2, 21, 3, 10], &[21 * 90, 90, 10, 1]) }.unwrap()
                };
                let k = part(1);
                run_with(&Rotary { x: k, positions: None, base: case.base, layout, inverse: false, y: k }, level, 2);
                let pick = |which: usize, i: usize| (i / 30 * 3 + which) * 30 + i % 30;
                let x: Vec<f64> = (0..2 * 21 * 30).map(|i| before[pick(1, i)]).collect();
                let y = Tensor::new(dtype, &case.shape).fill(|i| packed.get(pick(1, i)));
                case.assert_matches(level.name(), &x, &y);
                for i in 0..x.len() {
                    assert_eq!(packed.get(pick(0, i)), before[pick(0, i)]);
                    assert_eq!(packed.get(pick(2, i)), before[pick(2, i)]);
                }
            }
        }
    }
}

#[test]
fn odd_values_stay_in_their_pair() {
    for layout in LAYOUTS {
        for dtype in DType::FLOATS {
            let case = Case::new(&[1, 2, 1, 40], layout);
            let mut x = Tensor::new(dtype, &case.shape).fill(|i| if i % 7 == 0 { 1e-41 } else { i as f64 });
            x.set(45, f64::NAN);
            for level in targets() {
                let y = Tensor::new(dtype, &case.shape);
                run_with(&case.op(&x, None, &y), level, 1);
                case.assert_matches(level.name(), &x.values(), &y);
                assert_eq!(y.values().iter().filter(|v| v.is_nan()).count(), 2);
            }
        }
    }
}

#[test]
fn empty_tensors_do_nothing() {
    for shape in [[0, 3, 2, 4], [2, 0, 2, 4], [2, 3, 0, 4], [2, 3, 2, 0]] {
        Case::new(&shape, RotaryLayout::Halves).run(DType::F32, 0, 0, &mut Rng(5));
    }
}

#[test]
fn bad_arguments_are_refused() {
    let x = Tensor::new(DType::F32, &[2, 4, 3, 8]);
    let y = Tensor::new(DType::F32, &[2, 4, 3, 8]);
    let positions = Tensor::new(DType::I32, &[4]);
    let good = Case::new(&[2, 4, 3, 8], RotaryLayout::Halves).op(&x, Some(&positions), &y);
    good.check().unwrap();
    let refused = |op: Rotary<'_>, argument: &str| assert_eq!(op.check().unwrap_err().argument, argument);
    let tensor = |dtype, shape: &[usize]| Tensor::new(dtype, shape);
    refused(Rotary { x: tensor(DType::I32, &[2, 4, 3, 8]).view(), ..good }, "x");
    refused(Rotary { x: tensor(DType::F32, &[4, 8]).view(), ..good }, "x");
    refused(Rotary { x: tensor(DType::F32, &[2, 4, 3, 7]).view(), ..good }, "x");
    refused(Rotary { positions: Some(tensor(DType::I64, &[4]).view()), ..good }, "positions");
    refused(Rotary { positions: Some(tensor(DType::I32, &[5]).view()), ..good }, "positions");
    for base in [0.5, 0.0, -1.0, f32::NAN, f32::INFINITY] {
        refused(Rotary { base, ..good }, "base");
    }
    refused(Rotary { y: tensor(DType::BF16, &[2, 4, 3, 8]).view(), ..good }, "y");
    refused(Rotary { y: tensor(DType::F32, &[2, 4, 3, 6]).view(), ..good }, "y");
    let shifted =
        // SAFETY: check refuses it and reads no element.
        unsafe { View::new("y", x.view().data().wrapping_add(4), DType::F32, &[2, 4, 3, 8], &[96, 24, 8, 1]) };
    refused(Rotary { y: shifted.unwrap(), ..good }, "y");
    // SAFETY: check refuses it and reads no element.
    let shared = unsafe { View::new("y", y.view().data(), DType::F32, &[2, 4, 3, 8], &[96, 24, 4, 1]) };
    refused(Rotary { y: shared.unwrap(), ..good }, "y");
    // SAFETY: check refuses it and reads no element.
    let on_positions = unsafe { View::new("y", positions.view().data(), DType::F32, &[2, 4, 3, 8], &[96, 24, 8, 1]) };
    refused(Rotary { y: on_positions.unwrap(), ..good }, "y");
    assert_eq!(RotaryLayout::from_raw(1), Some(RotaryLayout::Interleaved));
    assert_eq!(RotaryLayout::from_raw(2), None);
}
