//! Learning-rate schedules: their values, corners and refusals.

use scalert_runtime::Status;
use scalert_runtime::optim::{Schedule, ScheduleKind};

fn rates(schedule: Schedule, steps: &[u64]) -> Vec<f32> {
    steps.iter().map(|step| schedule.learning_rate(*step).unwrap()).collect()
}

#[test]
fn every_kind_has_its_values() {
    let base = Schedule { peak: 1.0, floor: 0.1, warmup_steps: 4, total_steps: 14, ..Default::default() };
    let kind = |kind| Schedule { kind, ..base };
    let steps = [0, 1, 2, 4, 5, 9, 14, 15, u64::MAX];
    let cosine =
        |t: f64| (0.1f32 as f64 + (1.0 - 0.1f32 as f64) * 0.5 * (1.0 + (std::f64::consts::PI * t).cos())) as f32;
    let linear = |t: f64| (1.0 + (0.1f32 as f64 - 1.0) * t) as f32;
    let root = |step: f64| (4.0 / step).sqrt() as f32;
    assert_eq!(rates(kind(ScheduleKind::Constant), &steps), [0.25, 0.25, 0.5, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1]);
    assert_eq!(
        rates(kind(ScheduleKind::Cosine), &steps),
        [0.25, 0.25, 0.5, 1.0, cosine(0.1), cosine(0.5), 0.1, 0.1, 0.1]
    );
    assert_eq!(
        rates(kind(ScheduleKind::Linear), &steps),
        [0.25, 0.25, 0.5, 1.0, linear(0.1), linear(0.5), 0.1, 0.1, 0.1]
    );
    assert_eq!(
        rates(kind(ScheduleKind::InverseSquareRoot), &steps),
        [0.25, 0.25, 0.5, 1.0, root(5.0), root(9.0), root(14.0), 0.1, 0.1]
    );
    let stable = Schedule { decay_steps: 5, ..kind(ScheduleKind::WarmupStableDecay) };
    assert_eq!(rates(stable, &steps), [0.25, 0.25, 0.5, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1]);
    assert_eq!(rates(stable, &[10, 12, 13]), [linear(0.2), linear(0.6), linear(0.8)]);
}

#[test]
fn corners() {
    let base = Schedule { peak: 2.0, ..Default::default() };
    assert_eq!(rates(base, &[0, 1, 1 << 40]), [2.0; 3]);
    let root = Schedule { kind: ScheduleKind::InverseSquareRoot, floor: 0.5, ..base };
    assert_eq!(rates(root, &[1, 4, 16, 100, u64::MAX]), [2.0, 1.0, 0.5, 0.5, 0.5]);
    let whole = Schedule { kind: ScheduleKind::Cosine, warmup_steps: 3, total_steps: 3, ..base };
    assert_eq!(rates(whole, &[3, 4]), [2.0, 0.0]);
    let sharp = Schedule { kind: ScheduleKind::WarmupStableDecay, total_steps: 3, ..base };
    assert_eq!(rates(sharp, &[1, 3, 4]), [2.0, 2.0, 0.0]);
    let all_decay = Schedule { decay_steps: 4, total_steps: 4, ..sharp };
    assert_eq!(rates(all_decay, &[1, 2, 4]), [1.5, 1.0, 0.0]);
}

#[test]
fn refusals_name_the_field() {
    let base = Schedule { peak: 1.0, floor: 0.5, total_steps: 10, ..Default::default() };
    for (schedule, field) in [
        (Schedule { peak: -1.0, floor: -1.0, ..base }, "peak"),
        (Schedule { peak: f32::NAN, ..base }, "peak"),
        (Schedule { peak: f32::INFINITY, ..base }, "peak"),
        (Schedule { floor: 1.5, ..base }, "floor"),
        (Schedule { floor: f32::NAN, ..base }, "floor"),
        (Schedule { floor: -0.1, ..base }, "floor"),
        (Schedule { kind: ScheduleKind::Cosine, total_steps: 0, ..base }, "total_steps"),
        (Schedule { kind: ScheduleKind::Linear, total_steps: 0, ..base }, "total_steps"),
        (Schedule { kind: ScheduleKind::WarmupStableDecay, total_steps: 0, ..base }, "total_steps"),
        (Schedule { warmup_steps: 11, ..base }, "warmup_steps"),
        (Schedule { kind: ScheduleKind::WarmupStableDecay, warmup_steps: 4, decay_steps: 7, ..base }, "decay_steps"),
    ] {
        let error = schedule.learning_rate(1).unwrap_err();
        assert_eq!(error.status, Status::InvalidArgument);
        assert!(error.message.starts_with(&format!("{field}: ")), "{schedule:?}: {error}");
    }
}
