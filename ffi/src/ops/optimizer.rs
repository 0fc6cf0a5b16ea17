//! The optimizers on single tensors.

use super::submit;
use crate::argument::{Live, Optional, Options, boolean};
use crate::tensor::TensorView;
use scalert_runtime::Stream;
use scalert_runtime::ops::optimizer::{Master, Moment};
use scalert_runtime::optim;

c_struct! {
    AdamWOptions as "scalert_adamw_options_t" {
        struct_size: usize,
        learning_rate: f32,
        beta1: f32,
        beta2: f32,
        epsilon: f32,
        weight_decay: f32,
        gradient_scale: f32,
        step: u64,
    }
}

c_struct! {
    SgdOptions as "scalert_sgd_options_t" {
        struct_size: usize,
        learning_rate: f32,
        momentum: f32,
        weight_decay: f32,
        gradient_scale: f32,
        step: u64,
        nesterov: u8,
    }
}

c_struct! {
    LionOptions as "scalert_lion_options_t" {
        struct_size: usize,
        learning_rate: f32,
        beta1: f32,
        beta2: f32,
        weight_decay: f32,
        gradient_scale: f32,
    }
}

export! {
    /// AdamW.
    fn scalert_adamw(
        stream: Live<Stream>,
        gradient: TensorView,
        master: TensorView,
        moment1: TensorView,
        moment2: TensorView,
        weight: Optional<TensorView>,
        options: Options<AdamWOptions>,
    ) {
        let options = optim::AdamWOptions {
            learning_rate: options.learning_rate,
            beta1: options.beta1,
            beta2: options.beta2,
            epsilon: options.epsilon,
            weight_decay: options.weight_decay,
            gradient_scale: options.gradient_scale,
            step: options.step,
        };
        let master = Master::F32 { master, weight };
        submit(stream, &options.op(gradient, master, Moment::Plain(moment1), Moment::Plain(moment2), None))
    }

    /// Stochastic gradient descent with momentum.
    fn scalert_sgd(
        stream: Live<Stream>,
        gradient: TensorView,
        master: TensorView,
        momentum_buffer: Optional<TensorView>,
        weight: Optional<TensorView>,
        options: Options<SgdOptions>,
    ) {
        let options = optim::SgdOptions {
            learning_rate: options.learning_rate,
            momentum: options.momentum,
            weight_decay: options.weight_decay,
            gradient_scale: options.gradient_scale,
            step: options.step,
            nesterov: boolean("nesterov", options.nesterov)?,
        };
        submit(stream, &options.op(gradient, Master::F32 { master, weight }, momentum_buffer.map(Moment::Plain), None))
    }

    /// Lion.
    fn scalert_lion(
        stream: Live<Stream>,
        gradient: TensorView,
        master: TensorView,
        moment: TensorView,
        weight: Optional<TensorView>,
        options: Options<LionOptions>,
    ) {
        let options = optim::LionOptions {
            learning_rate: options.learning_rate,
            beta1: options.beta1,
            beta2: options.beta2,
            weight_decay: options.weight_decay,
            gradient_scale: options.gradient_scale,
        };
        submit(stream, &options.op(gradient, Master::F32 { master, weight }, Moment::Plain(moment), None))
    }
}
