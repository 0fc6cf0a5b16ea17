//! Precision: the loss scaler of f16 training.

mod scaler;

pub use scaler::{Scaler, ScalerDesc, ScalerReport};
