use super::{LossScale, LossScaleState};

pub(super) fn run(op: &LossScale<'_>) {
    let mut s = LossScaleState::read(&op.state);
    // SAFETY: the check required one element.
    let overflow = unsafe { op.nonfinite.ptr::<i64>().read() } != 0;
    s.collapsed = (overflow && s.scale <= op.minimum).into();
    if overflow {
        s.overflows += 1;
        s.finite_steps = 0;
        s.overflows_in_a_row = s.overflows_in_a_row.saturating_add(1);
        if s.overflows_in_a_row >= op.hysteresis {
            s.scale = (s.scale * op.backoff_factor).max(op.minimum);
        }
    } else {
        s.overflows_in_a_row = 0;
        s.finite_steps = s.finite_steps.saturating_add(1);
        if s.finite_steps >= op.growth_interval {
            s.finite_steps = 0;
            s.scale = (s.scale * op.growth_factor).min(op.maximum);
        }
    }
    // SAFETY: the check required the words of a state.
    unsafe { op.state.ptr::<i64>().cast::<LossScaleState>().write(s) };
}
