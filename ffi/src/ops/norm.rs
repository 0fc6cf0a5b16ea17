//! Normalisation.

use super::submit;
use crate::argument::{Flag, Live, Optional};
use crate::tensor::TensorView;
use scalert_runtime::Stream;
use scalert_runtime::ops::layer_norm::{LayerNormBackward, LayerNormForward};
use scalert_runtime::ops::rms_norm::{RmsNormBackward, RmsNormForward};

export! {
    /// Layer norm.
    fn scalert_layer_norm_forward(
        stream: Live<Stream>,
        x: TensorView,
        weight: Optional<TensorView>,
        bias: Optional<TensorView>,
        epsilon: f32,
        y: TensorView,
        mean: Optional<TensorView>,
        rstd: Optional<TensorView>,
    ) {
        submit(stream, &LayerNormForward { x, weight, bias, epsilon, y, mean, rstd })
    }

    /// Gradients of layer norm.
    fn scalert_layer_norm_backward(
        stream: Live<Stream>,
        dy: TensorView,
        x: TensorView,
        weight: Optional<TensorView>,
        mean: TensorView,
        rstd: TensorView,
        accumulate: Flag,
        dx: TensorView,
        dweight: Optional<TensorView>,
        dbias: Optional<TensorView>,
    ) {
        submit(stream, &LayerNormBackward { dy, x, weight, mean, rstd, dx, dweight, dbias, accumulate })
    }

    /// RMS norm.
    fn scalert_rms_norm_forward(
        stream: Live<Stream>,
        x: TensorView,
        weight: Optional<TensorView>,
        epsilon: f32,
        y: TensorView,
        rstd: Optional<TensorView>,
    ) {
        submit(stream, &RmsNormForward { x, weight, epsilon, y, rstd })
    }

    /// Gradients of RMS norm.
    fn scalert_rms_norm_backward(
        stream: Live<Stream>,
        dy: TensorView,
        x: TensorView,
        weight: Optional<TensorView>,
        rstd: TensorView,
        accumulate: Flag,
        dx: TensorView,
        dweight: Optional<TensorView>,
    ) {
        submit(stream, &RmsNormBackward { dy, x, weight, rstd, dx, dweight, accumulate })
    }
}
