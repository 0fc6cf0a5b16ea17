//! Rotary embedding and attention.

use super::submit;
use crate::argument::{Live, Optional, Options, boolean, enumeration};
use crate::tensor::{Tensor, TensorView, optional_view};
use scalert_runtime::Stream;
use scalert_runtime::ops::attention::{AttentionBackward, AttentionForward};
use scalert_runtime::ops::rotary::{Rotary, RotaryLayout};

c_enum! {
    RotaryLayout as "scalert_rotary_layout_t" {
        SCALERT_ROTARY_HALVES = 0 => RotaryLayout::Halves,
        SCALERT_ROTARY_INTERLEAVED = 1 => RotaryLayout::Interleaved,
    }
}

c_struct! {
    RotaryOptions as "scalert_rotary_options_t" {
        struct_size: usize,
        positions: *const Tensor,
        base: f32,
        layout: i32,
        inverse: u8,
    }
}

c_struct! {
    AttentionOptions as "scalert_attention_options_t" {
        struct_size: usize,
        causal: u8,
        scale: f32,
        implementation: i32,
    }
}

export! {
    /// y = x with the pairs of each head rotated.
    fn scalert_rotary(stream: Live<Stream>, x: TensorView, y: TensorView, options: Options<RotaryOptions>) {
        // SAFETY: the header asks the caller for a tensor, or NULL.
        let positions = unsafe { optional_view("positions", options.positions)? };
        submit(
            stream,
            &Rotary {
                x,
                positions,
                base: if options.base == 0.0 { 10000.0 } else { options.base },
                layout: enumeration("layout", options.layout)?,
                inverse: boolean("inverse", options.inverse)?,
                y,
            },
        )
    }

    /// out = softmax(scale q k^T) v.
    fn scalert_attention_forward(
        stream: Live<Stream>,
        q: TensorView,
        k: TensorView,
        v: TensorView,
        out: TensorView,
        log_sum_exp: Optional<TensorView>,
        options: Options<AttentionOptions>,
    ) {
        let (causal, scale) = (boolean("causal", options.causal)?, options.scale);
        let implementation = enumeration("implementation", options.implementation)?;
        submit(stream, &AttentionForward { q, k, v, causal, scale, out, log_sum_exp, implementation })
    }

    /// Gradients of attention.
    fn scalert_attention_backward(
        stream: Live<Stream>,
        q: TensorView,
        k: TensorView,
        v: TensorView,
        out: TensorView,
        log_sum_exp: TensorView,
        dout: TensorView,
        dq: TensorView,
        dk: TensorView,
        dv: TensorView,
        options: Options<AttentionOptions>,
    ) {
        let (causal, scale) = (boolean("causal", options.causal)?, options.scale);
        let implementation = enumeration("implementation", options.implementation)?;
        submit(
            stream,
            &AttentionBackward { q, k, v, out, log_sum_exp, dout, causal, scale, dq, dk, dv, implementation },
        )
    }
}
