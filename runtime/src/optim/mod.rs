//! Optimizers: hyper-parameters with their defaults, bias corrections, and learning-rate schedules.

mod options;
mod schedule;

pub use options::{AdamWOptions, LionOptions, Optimizer, SgdOptions};
pub use schedule::{Schedule, ScheduleKind};
