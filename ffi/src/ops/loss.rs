//! Losses.

use super::{or_one, submit};
use crate::argument::{Flag, Live, Optional, Options};
use crate::tensor::{Tensor, TensorView, optional_view};
use scalert_runtime::Stream;
use scalert_runtime::ops::cross_entropy::CrossEntropy;
use scalert_runtime::ops::linear_cross_entropy::LinearCrossEntropy;

c_struct! {
    CrossEntropyOptions as "scalert_cross_entropy_options_t" {
        struct_size: usize,
        ignore_index: i32,
        gradient_scale: f32,
        loss_scale: *const Tensor,
    }
}

export! {
    /// Losses and gradients of the logits.
    fn scalert_cross_entropy(
        stream: Live<Stream>,
        logits: TensorView,
        targets: TensorView,
        losses: TensorView,
        dlogits: Optional<TensorView>,
        options: Options<CrossEntropyOptions>,
    ) {
        // SAFETY: the header asks the caller for a tensor, or NULL.
        let loss_scale = unsafe { optional_view("loss_scale", options.loss_scale)? };
        let (ignore_index, gradient_scale) = (options.ignore_index, or_one(options.gradient_scale));
        submit(stream, &CrossEntropy { logits, targets, ignore_index, gradient_scale, loss_scale, losses, dlogits })
    }

    /// The same for logits = x weight^T.
    fn scalert_linear_cross_entropy(
        stream: Live<Stream>,
        x: TensorView,
        weight: TensorView,
        targets: TensorView,
        accumulate: Flag,
        losses: TensorView,
        dx: Optional<TensorView>,
        dweight: Optional<TensorView>,
        options: Options<CrossEntropyOptions>,
    ) {
        // SAFETY: the header asks the caller for a tensor, or NULL.
        let loss_scale = unsafe { optional_view("loss_scale", options.loss_scale)? };
        submit(
            stream,
            &LinearCrossEntropy {
                x,
                weight,
                targets,
                ignore_index: options.ignore_index,
                gradient_scale: or_one(options.gradient_scale),
                loss_scale,
                accumulate_dweight: accumulate,
                losses,
                dx,
                dweight,
            },
        )
    }
}
