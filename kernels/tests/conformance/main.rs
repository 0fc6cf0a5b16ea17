//! Every operation against its f64 reference: all levels, 1, 2 and 4 threads, CUDA
//! devices real or emulated, hostile inputs and layouts.
#![allow(missing_docs, unreachable_pub)]

mod accumulate;
mod adamw;
mod add;
mod attention;
mod attention_vendor;
mod axpy;
mod bias_gradient;
mod blockwise;
mod cast;
mod cross_entropy;
mod cublaslt;
mod cudnn;
mod device;
mod dropout;
mod embedding;
mod exact_sum;
mod fill;
mod first_overflow;
mod formats;
mod gelu;
mod gemm;
mod gemm_tiles;
mod gemm_vendor;
mod harness;
mod layer_norm;
mod layout;
mod linear_cross_entropy;
mod lion;
mod loss_scale;
mod math;
mod optimizer;
#[cfg(target_os = "linux")]
mod page_end;
mod random;
mod rms_norm;
mod rotary;
mod scale;
mod sgd;
mod split16;
mod step_control;
mod swiglu;
mod view;
mod write_back;
