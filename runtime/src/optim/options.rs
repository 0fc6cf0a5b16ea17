//! Hyper-parameters with their defaults, and the operations that they make. The operations' checks say what they may
//! be.

use scalert_kernels::ops::adamw::{AdamW, bias_correction};
use scalert_kernels::ops::lion::Lion;
use scalert_kernels::ops::optimizer::{Master, Moment, Random};
use scalert_kernels::ops::sgd::Sgd;
use scalert_kernels::view::View;

/// The optimizers. The numbers are those of the C header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Optimizer {
    /// AdamW, Loshchilov & Hutter 2019.
    #[default]
    AdamW = 0,
    /// SGD with momentum as PyTorch defines it, Sutskever et al. 2013.
    Sgd = 1,
    /// Lion, Chen et al. 2023.
    Lion = 2,
}

fn or(value: f32, default: f32) -> f32 {
    if value == 0.0 { default } else { value }
}

/// Hyper-parameters of one AdamW update.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AdamWOptions {
    /// Learning rate.
    pub learning_rate: f32,
    /// Decay of the first moment; 0 = 0.9.
    pub beta1: f32,
    /// Decay of the second moment; 0 = 0.999.
    pub beta2: f32,
    /// Added to the root of the second moment; 0 = 1e-8.
    pub epsilon: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Multiplies the gradient; 0 = 1.
    pub gradient_scale: f32,
    /// 1 for the first step, which 0 is taken as.
    pub step: u64,
}

impl AdamWOptions {
    /// The update of these tensors.
    pub fn op<'a>(
        &self,
        gradient: View<'a>,
        master: Master<'a>,
        moment1: Moment<'a>,
        moment2: Moment<'a>,
        random: Option<Random>,
    ) -> AdamW<'a> {
        let (beta1, beta2) = (or(self.beta1, 0.9), or(self.beta2, 0.999));
        AdamW {
            gradient,
            gradient_scale: or(self.gradient_scale, 1.0),
            learning_rate: self.learning_rate,
            beta1,
            beta2,
            epsilon: or(self.epsilon, 1e-8),
            weight_decay: self.weight_decay,
            bias_correction1: bias_correction(beta1, self.step),
            bias_correction2: bias_correction(beta2, self.step),
            master,
            moment1,
            moment2,
            random,
            control: None,
        }
    }
}

/// Hyper-parameters of one SGD update.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SgdOptions {
    /// Learning rate.
    pub learning_rate: f32,
    /// Momentum; 0 = none.
    pub momentum: f32,
    /// Weight decay, added to the gradient.
    pub weight_decay: f32,
    /// Multiplies the gradient; 0 = 1.
    pub gradient_scale: f32,
    /// 1 for the first step, which 0 is taken as; the first sets the buffer to the gradient.
    pub step: u64,
    /// Whether to look ahead along the buffer.
    pub nesterov: bool,
}

impl SgdOptions {
    /// The update of these tensors.
    pub fn op<'a>(
        &self,
        gradient: View<'a>,
        master: Master<'a>,
        momentum_buffer: Option<Moment<'a>>,
        random: Option<Random>,
    ) -> Sgd<'a> {
        Sgd {
            gradient,
            gradient_scale: or(self.gradient_scale, 1.0),
            learning_rate: self.learning_rate,
            momentum: self.momentum,
            dampening: 0.0,
            nesterov: self.nesterov,
            weight_decay: self.weight_decay,
            first_step: self.step <= 1,
            master,
            momentum_buffer,
            random,
            control: None,
        }
    }
}

/// Hyper-parameters of one Lion update.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LionOptions {
    /// Learning rate.
    pub learning_rate: f32,
    /// Interpolation of the update; 0 = 0.9.
    pub beta1: f32,
    /// Decay of the moment; 0 = 0.99.
    pub beta2: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Multiplies the gradient; 0 = 1.
    pub gradient_scale: f32,
}

impl LionOptions {
    /// The update of these tensors.
    pub fn op<'a>(
        &self,
        gradient: View<'a>,
        master: Master<'a>,
        moment: Moment<'a>,
        random: Option<Random>,
    ) -> Lion<'a> {
        Lion {
            gradient,
            gradient_scale: or(self.gradient_scale, 1.0),
            learning_rate: self.learning_rate,
            beta1: or(self.beta1, 0.9),
            beta2: or(self.beta2, 0.99),
            weight_decay: self.weight_decay,
            master,
            moment,
            random,
            control: None,
        }
    }
}
