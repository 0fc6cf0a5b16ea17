//! Matrix products.

use super::{or_one, submit};
use crate::argument::{Flag, Live, Options, enumeration};
use crate::tensor::{Tensor, TensorView, optional_view};
use scalert_runtime::Stream;
use scalert_runtime::ops::bias_gradient::BiasGradient;
use scalert_runtime::ops::gemm::{Activation, Compute, Gemm, Implementation};

c_enum! {
    Activation as "scalert_activation_t" {
        SCALERT_ACTIVATION_NONE = 0 => Activation::None,
        SCALERT_ACTIVATION_GELU_TANH = 1 => Activation::GeluTanh,
        SCALERT_ACTIVATION_GELU_EXACT = 2 => Activation::GeluExact,
        SCALERT_ACTIVATION_GELU_TANH_BACKWARD = 3 => Activation::GeluTanhBackward,
        SCALERT_ACTIVATION_GELU_EXACT_BACKWARD = 4 => Activation::GeluExactBackward,
    }
}

c_enum! {
    Compute as "scalert_compute_t" {
        SCALERT_COMPUTE_DEFAULT = 0 => Compute::Default,
        SCALERT_COMPUTE_F32 = 1 => Compute::ExactF32,
    }
}

c_enum! {
    Implementation as "scalert_implementation_t" {
        SCALERT_IMPLEMENTATION_AUTO = 0 => Implementation::Auto,
        SCALERT_IMPLEMENTATION_OWN = 1 => Implementation::Own,
        SCALERT_IMPLEMENTATION_VENDOR = 2 => Implementation::Vendor,
    }
}

c_struct! {
    GemmOptions as "scalert_gemm_options_t" {
        struct_size: usize,
        alpha: f32,
        beta: f32,
        bias: *const Tensor,
        activation: i32,
        pre_activation: *const Tensor,
        compute: i32,
        implementation: i32,
    }
}

export! {
    /// c = activation(alpha op(a) op(b) + beta c + bias).
    fn scalert_gemm(
        stream: Live<Stream>,
        transpose_a: Flag,
        transpose_b: Flag,
        a: TensorView,
        b: TensorView,
        c: TensorView,
        options: Options<GemmOptions>,
    ) {
        // SAFETY: the header asks the caller for tensors, or NULL.
        let (bias, pre_activation) = unsafe {
            (optional_view("bias", options.bias)?, optional_view("pre_activation", options.pre_activation)?)
        };
        submit(
            stream,
            &Gemm {
                transpose_a,
                transpose_b,
                a,
                b,
                c,
                alpha: or_one(options.alpha),
                beta: options.beta,
                bias,
                activation: enumeration("activation", options.activation)?,
                pre_activation,
                compute: enumeration("compute", options.compute)?,
                implementation: enumeration("implementation", options.implementation)?,
            },
        )
    }

    /// dbias = sum of the rows of dy.
    fn scalert_bias_gradient(stream: Live<Stream>, dy: TensorView, accumulate: Flag, dbias: TensorView) {
        submit(stream, &BiasGradient { dy, dbias, accumulate })
    }
}
