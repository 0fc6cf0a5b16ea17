//! Optimizers: hyper-parameters with their defaults, bias corrections, and learning-rate schedules.

mod schedule;

pub use schedule::{Schedule, ScheduleKind};
