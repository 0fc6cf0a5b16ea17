//! The first overflow among those that ranks have found: the same on every target.

use crate::harness::*;
use crate::step_control::{control_of, words};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::choose_overflow::{ChooseOverflow, reference};
use scalert_kernels::ops::step_control::{Control, overflow_mark};

fn table(found: &[(u64, u64)]) -> Tensor {
    words(&found.iter().flat_map(|(overflow, largest)| [*overflow as i64, *largest as i64]).collect::<Vec<_>>())
}

fn control(search: bool) -> Tensor {
    let mut control = vec![7; Control::WORDS];
    control[Control::WORDS - 1] = search.into();
    words(&control)
}

#[test]
fn the_largest_then_the_earliest_parameter_then_the_lowest_rank_is_chosen() {
    let (early, late) = (overflow_mark(1, 2), overflow_mark(1, 9));
    for found in [
        &[(early, 5)][..],
        &[(early, 5), (late, 6)],
        &[(late, 6), (early, 6), (early, 6)],
        // Not finite, which is more than any sum, in a rank of many.
        &[(early, f64::MAX.to_bits()), (0, 0), (late, u64::MAX), (0, 0)],
        &[(0, 0), (0, 0)],
    ] {
        let found_table = table(found);
        let outputs = run_identically(|target, threads| {
            let control = control(true);
            run_with(&ChooseOverflow { found: found_table.view(), control: control.view() }, target, threads);
            vec![control]
        });
        let chosen = reference::choose(found);
        let got = control_of(&outputs[0]);
        assert_eq!((got.overflow, got.largest, got.overflow_rank), (found[chosen].0, found[chosen].1, chosen as u32));
        let before = control_of(&control(true));
        let (overflow, largest, overflow_rank) = (got.overflow, got.largest, got.overflow_rank);
        assert_eq!(Control { overflow, largest, overflow_rank, ..before }.skipped, got.skipped);
        assert_eq!(got.step, before.step);
    }
}

#[test]
fn nothing_is_done_unless_asked() {
    let found = table(&[(1, 2), (3, 4)]);
    for target in targets() {
        let control = control(false);
        let before = control.bits();
        run_with(&ChooseOverflow { found: found.view(), control: control.view() }, target, 1);
        assert_eq!(control.bits(), before, "{}", target.name());
    }
}

#[test]
fn bad_arguments_are_named() {
    let (found, control) = (table(&[(1, 2)]), control(true));
    let good = ChooseOverflow { found: found.view(), control: control.view() };
    assert!(good.check().is_ok());
    let refused = |op: ChooseOverflow<'_>| op.check().unwrap_err().argument;
    for shape in [&[0][..], &[3], &[1, 2]] {
        assert_eq!(refused(ChooseOverflow { found: Tensor::new(DType::I64, shape).view(), ..good }), "found");
    }
    assert_eq!(refused(ChooseOverflow { control: words(&[0; 3]).view(), ..good }), "control");
}
