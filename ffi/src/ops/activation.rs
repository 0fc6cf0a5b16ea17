//! Activations.

use super::submit;
use crate::argument::{Enum, Live};
use crate::tensor::TensorView;
use scalert_runtime::Stream;
use scalert_runtime::ops::gelu::{GeluBackward, GeluForward, GeluKind};
use scalert_runtime::ops::swiglu::{SwigluBackward, SwigluForward};

c_enum! {
    GeluKind as "scalert_gelu_t" {
        SCALERT_GELU_TANH = 0 => GeluKind::Tanh,
        SCALERT_GELU_EXACT = 1 => GeluKind::Exact,
    }
}

export! {
    /// y = gelu(x).
    fn scalert_gelu_forward(stream: Live<Stream>, x: TensorView, kind: Enum<GeluKind>, y: TensorView) {
        submit(stream, &GeluForward { x, kind, y })
    }

    /// dx = dy * gelu'(x).
    fn scalert_gelu_backward(
        stream: Live<Stream>,
        x: TensorView,
        dy: TensorView,
        kind: Enum<GeluKind>,
        dx: TensorView,
    ) {
        submit(stream, &GeluBackward { x, dy, kind, dx })
    }

    /// y = silu(gate) * up.
    fn scalert_swiglu_forward(stream: Live<Stream>, gate: TensorView, up: TensorView, y: TensorView) {
        submit(stream, &SwigluForward { gate, up, y })
    }

    /// dgate = dy * up * silu'(gate), dup = dy * silu(gate).
    fn scalert_swiglu_backward(
        stream: Live<Stream>,
        gate: TensorView,
        up: TensorView,
        dy: TensorView,
        dgate: TensorView,
        dup: TensorView,
    ) {
        submit(stream, &SwigluBackward { gate, up, dy, dgate, dup })
    }
}
