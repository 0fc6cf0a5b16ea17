use super::{FirstOverflow, meet, rank};
use crate::backend::cpu::Cpu;
use crate::dtype::DType;
use crate::exact_sum::{Accumulator, WORDS};
use crate::ops::Op;
use crate::ops::exact_sum::ExactSum;
use crate::ops::step_control::{Control, overflow_mark};
use crate::view::View;

pub(super) fn run(op: &FirstOverflow<'_>, cpu: &Cpu<'_>) {
    let mut control = Control::read(&op.control);
    if control.search == 0 {
        return;
    }
    for i in 0..op.parameters() {
        let (parameter, range) = op.range(i);
        let mark = overflow_mark(op.micro, parameter);
        let (start, numel) = range.unwrap_or((0, 0));
        // No later parameter can be the first.
        if control.largest == u64::MAX && mark < control.overflow {
            continue;
        }
        let mut squares = Accumulator::ZERO;
        let x = op.gradient.span(start..start + numel);
        let words: *mut Accumulator = &mut squares;
        // SAFETY: the accumulator is this function's.
        let accumulator =
            unsafe { View::new("squares", words.cast(), DType::I64, &[WORDS], &[1]) }.expect("an accumulator");
        ExactSum { x, square: true, accumulator }.cpu(cpu);
        meet(&mut control, rank(squares.sum(), squares.nonfinite()), mark);
    }
    control.write(&op.control);
}
