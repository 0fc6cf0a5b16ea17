//! The parameter to blame for an overflow of sums: the same on every target and in any order of groups.

use crate::harness::*;
use crate::step_control::{control_of, words};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::first_overflow::{FirstOverflow, RANGE_WORDS, reference};
use scalert_kernels::ops::step_control::{Control, overflow_mark};

/// Lengths of the parameters of a flat gradient, each of which starts at a multiple of 256.
const LENGTHS: [usize; 7] = [300, 1, 0, 256, 5000, 77, 9000];

fn start(i: usize) -> usize {
    LENGTHS[..i].iter().map(|n| n.next_multiple_of(256)).sum()
}

fn searching() -> Tensor {
    let mut control = vec![0; Control::WORDS];
    control[Control::WORDS - 1] = 1;
    words(&control)
}

/// The parameters whose numbers are `numbers`, of the lengths above.
fn ranges(numbers: &[usize]) -> Tensor {
    let mut tensor = Tensor::new(DType::I64, &[numbers.len(), RANGE_WORDS]);
    let rows = numbers.iter().flat_map(|i| [*i as i64, start(*i) as i64, LENGTHS[*i] as i64]);
    tensor.set_words(&rows.collect::<Vec<_>>());
    tensor
}

#[test]
fn the_first_or_largest_is_blamed() {
    let mut rng = Rng(1);
    let all = start(LENGTHS.len());
    let bad = |places: &[(usize, usize, f64)], gradient: &mut Tensor| {
        places.iter().for_each(|(i, at, value)| gradient.set(start(*i) + at, *value));
    };
    for (case, dtype) in (0..7).flat_map(|case| [(case, DType::F32), (case, DType::BF16)]) {
        let mut gradient = Tensor::with_layout(dtype, &[all], 0, case % 2).fill(|_| rng.normal());
        match case {
            0 => {}
            1 => bad(&[(6, 8999, f64::NAN), (4, 0, f64::INFINITY), (5, 76, f64::NAN)], &mut gradient),
            2 => bad(&[(0, 299, f64::NEG_INFINITY), (6, 0, f64::NAN)], &mut gradient),
            3 => bad(&[(1, 0, 3.4e38), (3, 255, 3e38)], &mut gradient),
            // Equal norms: the first.
            4 => bad(&[(3, 7, 3e38), (5, 9, 3e38), (6, 9, 3e38)], &mut gradient),
            // Both are far larger than the rest, and differ in the last bit.
            5 => bad(&[(3, 7, 1e30), (5, 9, f64::from(1e30f32.next_up()))], &mut gradient),
            // Outside of any parameter.
            _ => bad(&[(1, 1, f64::NAN), (0, 300, f64::INFINITY)], &mut gradient),
        }
        let values = gradient.values();
        let parameters: Vec<&[f64]> = (0..LENGTHS.len()).map(|i| &values[start(i)..][..LENGTHS[i]]).collect();
        let expected = reference::first_overflow(&parameters);
        for groups in
            [&[&[0, 1, 2, 3, 4, 5, 6][..]][..], &[&[0, 2, 4], &[], &[1, 3, 5, 6]], &[&[6, 5, 3], &[4, 1, 2, 0]]]
        {
            let outputs = run_identically(|target, threads| {
                let control = searching();
                for group in groups {
                    let ranges = ranges(group);
                    let (gradient, ranges) = (gradient.view(), ranges.view());
                    run_with(&FirstOverflow { gradient, ranges, micro: 3, control: control.view() }, target, threads);
                }
                vec![control]
            });
            assert_eq!(control_of(&outputs[0]).overflow, overflow_mark(3, expected as u32), "case {case}");
        }
    }
}

#[test]
fn nothing_is_done_unless_asked() {
    let gradient = Tensor::new(DType::F32, &[start(LENGTHS.len())]).fill(|_| f64::NAN);
    let ranges = ranges(&[0, 3]);
    for target in targets() {
        let control = words(&[0; Control::WORDS]);
        let op = FirstOverflow { gradient: gradient.view(), ranges: ranges.view(), micro: 0, control: control.view() };
        run_with(&op, target, 1);
        assert_eq!(control.bits(), [0; Control::WORDS], "{}", target.name());
    }
}

#[test]
fn bad_arguments_are_named() {
    let (gradient, control, ranges) = (Tensor::new(DType::F32, &[512]), searching(), ranges(&[0]));
    let good = FirstOverflow { gradient: gradient.view(), ranges: ranges.view(), micro: 0, control: control.view() };
    assert!(good.check().is_ok() && good.check_elements().is_ok());
    let refused = |op: FirstOverflow<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(FirstOverflow { gradient: Tensor::new(DType::F16, &[512]).view(), ..good }), "gradient");
    assert_eq!(refused(FirstOverflow { ranges: Tensor::new(DType::I64, &[4, 2]).view(), ..good }), "ranges");
    assert_eq!(refused(FirstOverflow { control: words(&[0; 3]).view(), ..good }), "control");
    for outside in [[0, 500, 13], [0, -1, 1], [0, 0, -1], [0, 513, 0], [0, i64::MAX, i64::MAX]] {
        let mut one = Tensor::new(DType::I64, &[1, RANGE_WORDS]);
        one.set_words(&outside);
        let op = FirstOverflow { ranges: one.view(), ..good };
        assert_eq!(op.check_elements().unwrap_err().argument, "ranges", "{outside:?}");
    }
}
