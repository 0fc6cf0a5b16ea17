//! Learning-rate schedules.

use crate::argument::{In, Out, enumeration};
use scalert_runtime::optim::{Schedule, ScheduleKind};

c_enum! {
    ScheduleKind as "scalert_schedule_kind_t" {
        SCALERT_SCHEDULE_CONSTANT = 0 => ScheduleKind::Constant,
        SCALERT_SCHEDULE_COSINE = 1 => ScheduleKind::Cosine,
        SCALERT_SCHEDULE_LINEAR = 2 => ScheduleKind::Linear,
        SCALERT_SCHEDULE_INVERSE_SQUARE_ROOT = 3 => ScheduleKind::InverseSquareRoot,
        SCALERT_SCHEDULE_WARMUP_STABLE_DECAY = 4 => ScheduleKind::WarmupStableDecay,
    }
}

c_struct! {
    Desc as "scalert_schedule_t" {
        struct_size: usize,
        kind: i32,
        peak: f32,
        floor: f32,
        warmup_steps: u64,
        total_steps: u64,
        decay_steps: u64,
    }
}

export! {
    /// The learning rate of a step.
    fn scalert_schedule_learning_rate(schedule: In<Desc>, step: u64, learning_rate: Out<f32>) {
        let schedule = Schedule {
            kind: enumeration("kind", schedule.kind)?,
            peak: schedule.peak,
            floor: schedule.floor,
            warmup_steps: schedule.warmup_steps,
            total_steps: schedule.total_steps,
            decay_steps: schedule.decay_steps,
        };
        learning_rate.write(schedule.learning_rate(step)?);
        Ok(())
    }
}
