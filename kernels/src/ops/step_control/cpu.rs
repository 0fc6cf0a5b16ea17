use super::{Control, StepControl};
use crate::exact_sum::Accumulator;

pub(super) fn run(op: &StepControl<'_>) {
    // SAFETY: the check required an accumulator's words, and contiguous marks.
    let (squares, marks) = unsafe {
        let marks = std::slice::from_raw_parts(op.overflow.ptr::<u64>(), op.overflow.numel());
        (op.square_sum.ptr::<i64>().cast::<Accumulator>().read(), marks)
    };
    let mark = *marks.iter().max().expect("one for each rank");
    let rank = marks.iter().position(|m| *m == mark).expect("it is one of them");
    let mut control = Control::read(&op.control);
    if op.restart.number > control.restart {
        (control.restart, control.step) = (op.restart.number, op.restart.step);
    }
    let scaler = op.loss_scale_state();
    let loss_scale = scaler.map_or(op.loss_scale, |state| state.scale);
    let unscale = f64::from(op.gradient_scale) / (f64::from(loss_scale) * marks.len() as f64);
    let norm = squares.sum().sqrt() * unscale;
    let max_norm = f64::from(op.max_norm);
    let clip = if max_norm == 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) };
    let search = mark == 0 && (squares.nonfinite() > 0 || norm * clip > f64::from(f32::MAX));
    let skipped = mark != 0 || search;
    Control {
        step: if skipped { control.step } else { control.step.saturating_add(1) },
        restart: control.restart,
        gradient_norm: if skipped { f64::NAN } else { norm },
        clip_factor: if skipped { 1.0 } else { clip },
        gradient_scale: if skipped { 0.0 } else { (unscale * clip) as f32 },
        loss_scale,
        skipped: skipped.into(),
        overflow: mark,
        largest: 0,
        overflow_rank: rank as u32,
        padding: 0,
        search: search.into(),
        collapsed: (skipped && scaler.is_some() && loss_scale <= op.minimum_loss_scale).into(),
    }
    .write(&op.control);
}
