//! Attention: softmax(q k^T) v in memory linear in the sequence, and its gradients.
//!
//! For query head `h`, which reads key head `h / (hq / hk)` (grouped queries when `hk < hq`),
//!
//! ```text
//! S_ij = scale * sum_c q_ic k_jc        P_ij = exp(S_ij - L_i)        L_i = log sum_j exp(S_ij)
//! out_i = sum_j P_ij v_j
//!
//! D_i   = sum_c dout_ic out_ic
//! dS_ij = P_ij (sum_c dout_ic v_jc - D_i)
//! dq_i = scale * sum_j dS_ij k_j        dk_j = scale * sum_i dS_ij q_i        dv_j = sum_i P_ij dout_i
//! ```
//!
//! and the sums for `dk` and `dv` run over all query heads of the key head. With `causal`, query `i` of `t` sees the
//! keys `j <= i + (s - t)` of `s`: the last query sees all, and `s >= t` is required. What a query does not see has no
//! influence on it, NaN included. Without keys (`s = 0`) `out` is 0 and `log_sum_exp` is -infinity.
//!
//! Shapes: `q`, `out`, `dout`, `dq` are `[b, t, hq, d]`; `k`, `v`, `dk`, `dv` are `[b, s, hk, d]`; `log_sum_exp` (the
//! `L` above) is f32 `[b, hq, t]`. `hq` is a multiple of `hk`, and `d` is a multiple of 8 from 16 to 256. All but
//! `log_sum_exp` have one floating-point dtype. Rows may be strided, so that q, k and v (and their gradients) may be
//! parts of one packed `[b, t, 3, h, d]` tensor.
//!
//! Tolerance: products accumulate in f32, and statistics are f32. With bf16, weights and their gradients may be
//! rounded to bf16 before they are multiplied, and denormal inputs may count as zero. With f16 on a CUDA device they
//! are rounded to f16, times a power of 2 that keeps them in its range. For scores of moderate size
//! (|S| <= 32), `out` is within `epsilon |exact| + 2 epsilon max|v|`, `log_sum_exp` within `2^-19 max(1, max|S|)`,
//! and each gradient within `epsilon |exact|` plus `4 epsilon` of the largest magnitude of the gradient and of the
//! terms `scale P_ij (|dP_ij| + |D_i|) |k_jc|` (and likewise) that it sums, where `dP_ij = sum_c dout_ic v_jc` and
//! `epsilon` is that of the dtype, and at least 2^-18.
//!
//! On a CUDA device the forward pass runs on cuDNN, where the machine has it and it takes the shapes: 16-bit dtypes,
//! with `log_sum_exp` and all rows of the others aligned to 16 bytes, and at least one key. Its `log_sum_exp` is that of
//! this library's kernels, so either may precede this library's backward pass. A row's sums are in an order of its own,
//! the same on every run. It masks scores, not values: where `v` is infinite or NaN, so may `out` be for a few queries
//! before those that see it. [`Implementation::Own`] keeps to this library's kernels. cuDNN's backward pass sums `dq` in
//! no fixed order, and is not used: [`Implementation::Vendor`] is an error there, as it is for a forward pass that cuDNN
//! refuses.
//!
//! Sources: Milakov & Gimelshein 2018 (online softmax); Dao et al. 2022 and Dao 2023 (FlashAttention: tiles, and the
//! backward pass by recomputation); Ainslie et al. 2023 (grouped queries).

mod cpu;
mod cuda;
mod own;
pub mod reference;
mod vendor;

use crate::backend::cpu::Cpu;
pub use crate::backend::cuda::Implementation;
use crate::backend::cuda::{CudaError, Device, Gpu, Properties};
use crate::dtype::DType;
use crate::ops::Op;
use crate::view::{Invalid, View};

/// Attention's result; see the [module](self).
#[derive(Clone, Copy)]
pub struct AttentionForward<'a> {
    /// Queries, `[b, t, hq, d]`.
    pub q: View<'a>,
    /// Keys, `[b, s, hk, d]`.
    pub k: View<'a>,
    /// Values, `[b, s, hk, d]`.
    pub v: View<'a>,
    /// Whether a query sees only keys up to its own position.
    pub causal: bool,
    /// Factor of the scores, finite; 0 stands for `1 / sqrt(d)`.
    pub scale: f32,
    /// Result, `[b, t, hq, d]`.
    pub out: View<'a>,
    /// f32 `[b, hq, t]`, kept for the backward pass.
    pub log_sum_exp: Option<View<'a>>,
    /// Whose kernels run on a CUDA device.
    pub implementation: Implementation,
}

/// Attention's gradients, with the weights recomputed from `log_sum_exp`; see the [module](self).
///
/// Workspace: `dk` and `dv` are accumulated in f32, for each worker or, when there are fewer than 32 key heads over
/// the batch, for each of a few parts of the queries. On a CUDA device, two f32 for each row of `out`; the sums for
/// `dk` and `dv` run over the queries in order, so that the same inputs give the same bits.
#[derive(Clone, Copy)]
pub struct AttentionBackward<'a> {
    /// Queries, `[b, t, hq, d]`.
    pub q: View<'a>,
    /// Keys, `[b, s, hk, d]`.
    pub k: View<'a>,
    /// Values, `[b, s, hk, d]`.
    pub v: View<'a>,
    /// The forward pass's result, `[b, t, hq, d]`.
    pub out: View<'a>,
    /// The forward pass's `log_sum_exp`, f32 `[b, hq, t]`.
    pub log_sum_exp: View<'a>,
    /// Gradient of `out`, `[b, t, hq, d]`.
    pub dout: View<'a>,
    /// As in the forward pass.
    pub causal: bool,
    /// As in the forward pass.
    pub scale: f32,
    /// Gradient of `q`, `[b, t, hq, d]`.
    pub dq: View<'a>,
    /// Gradient of `k`, `[b, s, hk, d]`.
    pub dk: View<'a>,
    /// Gradient of `v`, `[b, s, hk, d]`.
    pub dv: View<'a>,
    /// Whose kernels run on a CUDA device. There are no vendor's that give the same bits on every run.
    pub implementation: Implementation,
}

impl AttentionForward<'_> {
    /// What runs on a device, whose context is current: "cuDNN", "own mma" or "own simt". For traces.
    pub fn implementation_on(&self, device: &Device) -> Result<&'static str, CudaError> {
        cuda::forward_name(self, device)
    }
}

impl AttentionBackward<'_> {
    /// What runs on a device: "own mma" or "own simt". For traces.
    pub fn implementation_on(&self, _device: &Device) -> Result<&'static str, CudaError> {
        cuda::backward_name(self)
    }
}

/// Requires the shapes and dtypes of the inputs that both passes have.
fn check_inputs(q: &View<'_>, k: &View<'_>, v: &View<'_>, causal: bool, scale: f32) -> Result<(), Invalid> {
    q.expect_dtype("q", &DType::FLOATS)?;
    q.expect_ndim("q", 4, 4)?;
    q.expect_rows("q")?;
    let [b, t, hq, d] = [q.shape()[0], q.shape()[1], q.shape()[2], q.shape()[3]];
    if !(16..=256).contains(&d) || !d.is_multiple_of(8) {
        return Err(Invalid::new("q", format!("head dimension {d} must be a multiple of 8 from 16 to 256")));
    }
    k.expect_dtype("k", &[q.dtype()])?;
    k.expect_ndim("k", 4, 4)?;
    let [s, hk] = [k.shape()[1], k.shape()[2]];
    k.expect_shape("k", &[b, s, hk, d], "[b, s, hk, d] with b and d of q")?;
    if hk == 0 && hq != 0 || hk != 0 && !hq.is_multiple_of(hk) {
        return Err(Invalid::new("k", format!("{hk} heads must divide the {hq} heads of q")));
    }
    k.expect_rows("k")?;
    if causal && s < t {
        return Err(Invalid::new("k", format!("{s} keys must be at least the {t} queries when causal")));
    }
    v.expect_dtype("v", &[q.dtype()])?;
    v.expect_shape("v", k.shape(), "the shape of k")?;
    v.expect_rows("v")?;
    if !scale.is_finite() {
        return Err(Invalid::new("scale", format!("{scale} must be finite")));
    }
    Ok(())
}

/// Requires `log_sum_exp` to be f32 `[b, hq, t]`.
fn check_log_sum_exp(log_sum_exp: &View<'_>, q: &View<'_>) -> Result<(), Invalid> {
    let shape = [q.shape()[0], q.shape()[2], q.shape()[1]];
    log_sum_exp.expect_dtype("log_sum_exp", &[DType::F32])?;
    log_sum_exp.expect_shape("log_sum_exp", &shape, "[b, hq, t] of q")
}

/// Requires that the written argument `index` of `outputs` is apart from `inputs` and from the outputs before it.
fn check_apart(inputs: &[(&'static str, View<'_>)], outputs: &[(&'static str, View<'_>)]) -> Result<(), Invalid> {
    for (i, (name, output)) in outputs.iter().enumerate() {
        output.expect_writable_rows(name)?;
        for (other, view) in inputs.iter().chain(&outputs[..i]) {
            output.expect_apart(name, view, other)?;
        }
    }
    Ok(())
}

impl Op for AttentionForward<'_> {
    const NAME: &'static str = "attention_forward";

    views!(q, k, v, out; log_sum_exp);

    fn check(&self) -> Result<(), Invalid> {
        check_inputs(&self.q, &self.k, &self.v, self.causal, self.scale)?;
        self.out.expect_dtype("out", &[self.q.dtype()])?;
        self.out.expect_shape("out", self.q.shape(), "the shape of q")?;
        let inputs = [("q", self.q), ("k", self.k), ("v", self.v)];
        match self.log_sum_exp {
            None => check_apart(&inputs, &[("out", self.out)]),
            Some(log_sum_exp) => {
                check_log_sum_exp(&log_sum_exp, &self.q)?;
                check_apart(&inputs, &[("out", self.out), ("log_sum_exp", log_sum_exp)])
            }
        }
    }

    fn workspace(&self, workers: usize) -> usize {
        cpu::forward::workspace(self, workers)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::forward::run(self, cpu);
    }

    fn cuda_workspace(&self, properties: &Properties) -> usize {
        cuda::forward_workspace(self, properties)
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::forward(self, gpu)
    }
}

impl Op for AttentionBackward<'_> {
    const NAME: &'static str = "attention_backward";

    views!(q, k, v, out, log_sum_exp, dout, dq, dk, dv);

    fn check(&self) -> Result<(), Invalid> {
        check_inputs(&self.q, &self.k, &self.v, self.causal, self.scale)?;
        for (name, view) in [("out", &self.out), ("dout", &self.dout), ("dq", &self.dq)] {
            view.expect_dtype(name, &[self.q.dtype()])?;
            view.expect_shape(name, self.q.shape(), "the shape of q")?;
            view.expect_rows(name)?;
        }
        check_log_sum_exp(&self.log_sum_exp, &self.q)?;
        self.log_sum_exp.expect_rows("log_sum_exp")?;
        for (name, view) in [("dk", &self.dk), ("dv", &self.dv)] {
            view.expect_dtype(name, &[self.q.dtype()])?;
            view.expect_shape(name, self.k.shape(), "the shape of k")?;
        }
        check_apart(
            &[
                ("q", self.q),
                ("k", self.k),
                ("v", self.v),
                ("out", self.out),
                ("log_sum_exp", self.log_sum_exp),
                ("dout", self.dout),
            ],
            &[("dq", self.dq), ("dk", self.dk), ("dv", self.dv)],
        )
    }

    fn workspace(&self, workers: usize) -> usize {
        cpu::backward::workspace(self, workers)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::backward::run(self, cpu);
    }

    fn cuda_workspace(&self, _properties: &Properties) -> usize {
        own::backward_workspace(self)
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::backward(self, gpu)
    }
}
