//! Matrix product: c = act(alpha op(a) op(b) + beta c + bias), batched.
//!
//! op(a) is `[m, k]`: `a` itself, or its transpose when `transpose_a` (then `a` is `[k, m]`); op(b) is `[k, n]`
//! likewise; c is `[m, n]`. Leading dimensions of c are a batch; those of a and b are the same, or 1, or absent, and
//! such an input is used for the whole batch. The last dimension of every matrix is contiguous; all other strides are
//! free. Sums are f32.
//!
//! * `beta == 0` does not read c. With k = 0 the product is 0.
//! * `activation` is applied to the f32 value, before the one rounding to the dtype of c (nearest even). The forward
//!   ones write that value, rounded, to `pre_activation` if it is given. The backward ones read `pre_activation` p:
//!   c = alpha op(a) op(b) * gelu'(p) + beta c.
//! * Each element is summed over k in an order that depends on k and the dtype alone: any number of threads, and any
//!   batching of the same rows, give the same bits at one SIMD level.
//! * Tolerance at f32 c: |error| <= (k + 4) 2^-24 (|alpha| sum |a||b| + |beta c| + |bias|), plus one rounding to c's
//!   dtype, plus that of [`super::gelu`]. NaN and infinity propagate.
//! * [`Compute::Default`] with bf16 inputs uses the CPU's bf16 dot product where there is one. It takes denormal
//!   inputs, and gives denormal sums, as zeros: an absolute error below k 2^-126 (max |a| + max |b| + 1).
//!   [`Compute::ExactF32`] widens the inputs to f32 instead, at half the speed.
//!
//! On a CUDA device, products of 16-bit inputs run on tensor cores, which sum in f32 and keep denormals, and others on
//! fused multiply-adds, with any tile in the order of k. With k of 1024 or more and a small c, k is cut in parts whose
//! sums are added in order; how, depends on m, n, k and the batch alone. cuBLASLt, where the machine has it, has an
//! order of its own for each shape, layout and device: the same on every run, but a row's bits may then depend on how
//! many rows there are. [`Implementation::Own`] keeps to this library's kernels. [`Implementation::Vendor`] also takes
//! cuBLASLt's GELU, tanh form, whose tanh is coarser than the tolerance above.
//!
//! Source: Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008, for the blocking.

mod cpu;
mod cuda;
mod epilogue;
mod multiply;
mod own;
mod pack;
mod product;
pub mod reference;
mod tiling;
mod vendor;

use super::Op;
use crate::backend::cpu::Cpu;
pub use crate::backend::cuda::Implementation;
use crate::backend::cuda::{CudaError, Device, DevicePointer, Gpu, Properties};
use crate::dtype::DType;
use crate::view::{Invalid, View};
use tiling::most_kept;

/// What happens to each value before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// gelu(x), tanh form.
    GeluTanh,
    /// gelu(x), exact form.
    GeluExact,
    /// Multiplied by the derivative of the tanh form at `pre_activation`.
    GeluTanhBackward,
    /// Multiplied by the derivative of the exact form at `pre_activation`.
    GeluExactBackward,
}

impl Activation {
    fn is_backward(self) -> bool {
        matches!(self, Activation::GeluTanhBackward | Activation::GeluExactBackward)
    }
}

/// How products of 16-bit inputs are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compute {
    /// The fastest way with f32 sums.
    #[default]
    Default,
    /// Inputs are widened to f32 first, so denormals count.
    ExactF32,
}

/// One matrix product; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Gemm<'a> {
    /// Whether `a` is stored as `[k, m]`.
    pub transpose_a: bool,
    /// Whether `b` is stored as `[n, k]`.
    pub transpose_b: bool,
    /// `[.., m, k]` or `[.., k, m]`; f32, bf16 or f16; 2 to 5 dimensions.
    pub a: View<'a>,
    /// `[.., k, n]` or `[.., n, k]`; dtype of a.
    pub b: View<'a>,
    /// `[.., m, n]`, written (and read unless beta is 0); dtype of a, or f32.
    pub c: View<'a>,
    /// Factor of the product; finite.
    pub alpha: f32,
    /// Factor of the old c; finite.
    pub beta: f32,
    /// `[n]`; f32 or the dtype of a. Not with a backward activation.
    pub bias: Option<View<'a>>,
    /// Applied last.
    pub activation: Activation,
    /// Shape and dtype of c. Written by the forward activations, if given; read by the backward ones, for which it may
    /// be c itself.
    pub pre_activation: Option<View<'a>>,
    /// How products are formed.
    pub compute: Compute,
    /// Whose kernels run on a CUDA device.
    pub implementation: Implementation,
}

/// Rows and columns of a matrix in the last two dimensions, exchanged when `transposed`.
fn matrix(view: &View<'_>, transposed: bool) -> (usize, usize) {
    let [.., rows, columns] = *view.shape() else { unreachable!("check requires two dimensions") };
    if transposed { (columns, rows) } else { (rows, columns) }
}

impl<'a> Gemm<'a> {
    /// c = op(a) op(b), with nothing else asked for.
    pub fn new(transpose_a: bool, transpose_b: bool, a: View<'a>, b: View<'a>, c: View<'a>) -> Gemm<'a> {
        Gemm {
            transpose_a,
            transpose_b,
            a,
            b,
            c,
            alpha: 1.0,
            beta: 0.0,
            bias: None,
            activation: Activation::None,
            pre_activation: None,
            compute: Compute::Default,
            implementation: Implementation::Auto,
        }
    }

    /// As [`Op::workspace`], with at most `kept` f32 of packed operands on each worker: for operations made of products.
    pub(crate) fn workspace_keeping(&self, workers: usize, kept: usize) -> usize {
        cpu::workspace(self, workers, kept)
    }

    /// As [`Op::cpu`], on a workspace of the caller's instead of the context's.
    ///
    /// # Safety
    /// `workspace` is aligned to [`Cpu::WORKSPACE_ALIGNMENT`], has [`Gemm::workspace_keeping`] bytes for the context's
    /// workers and is not used by anyone else meanwhile.
    pub(crate) unsafe fn run_keeping(&self, cpu: &Cpu<'_>, workspace: *mut u8, kept: usize) {
        // SAFETY: the caller's promise.
        unsafe { cpu::run(self, cpu, workspace, kept) }
    }

    /// As [`Op::cuda`], on a workspace of the caller's: for operations made of products.
    ///
    /// # Safety
    /// `workspace` is aligned to [`Gpu::WORKSPACE_ALIGNMENT`], has [`Op::cuda_workspace`] bytes of device memory and is
    /// not used by anyone else until the work is done.
    pub(crate) unsafe fn run_on_cuda(&self, gpu: &Gpu<'_>, workspace: DevicePointer) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe { cuda::run(self, gpu, workspace, 0) }
    }

    /// As [`Gemm::run_on_cuda`], with factors that only the device knows: alpha, then beta, at `factors` in its memory.
    /// The operation's alpha is not used, and its beta is 0 if and only if the other one is.
    ///
    /// # Safety
    /// As for [`Gemm::run_on_cuda`]; and `factors` is the address of two f32 that stay as they are until the work is done.
    pub(crate) unsafe fn run_on_cuda_with_factors(
        &self,
        gpu: &Gpu<'_>,
        workspace: DevicePointer,
        factors: DevicePointer,
    ) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe { cuda::run(self, gpu, workspace, factors) }
    }

    /// What runs on a device, whose context is current: "cuBLASLt", "own mma" or "own simt".
    pub fn implementation_on(&self, device: &Device) -> Result<&'static str, CudaError> {
        cuda::name(self, device)
    }

    /// Requires that the leading dimensions of an input are those of c, or 1, or absent.
    fn expect_batch(&self, argument: &'static str, input: &View<'_>) -> Result<(), Invalid> {
        let batch = &self.c.shape()[..self.c.ndim() - 2];
        let mine = &input.shape()[..input.ndim() - 2];
        let fits =
            mine.is_empty() || mine.len() == batch.len() && mine.iter().zip(batch).all(|(x, y)| x == y || *x == 1);
        if fits {
            return Ok(());
        }
        Err(Invalid::new(
            argument,
            format!("leading dimensions {mine:?} must be {batch:?}, those of c, or 1, or absent"),
        ))
    }
}

impl Op for Gemm<'_> {
    const NAME: &'static str = "gemm";

    views!(a, b, c; bias, pre_activation);

    fn check(&self) -> Result<(), Invalid> {
        self.a.expect_dtype("a", &DType::FLOATS)?;
        self.b.expect_dtype("b", &[self.a.dtype()])?;
        self.c.expect_dtype("c", &[self.a.dtype(), DType::F32])?;
        self.a.expect_ndim("a", 2, 5)?;
        self.b.expect_ndim("b", 2, 5)?;
        self.c.expect_ndim("c", 2, 5)?;
        self.expect_batch("a", &self.a)?;
        self.expect_batch("b", &self.b)?;
        let (m, k) = matrix(&self.a, self.transpose_a);
        let (k_of_b, n) = matrix(&self.b, self.transpose_b);
        if k_of_b != k {
            let shape = self.b.shape();
            return Err(Invalid::new("b", format!("shape {shape:?} has k = {k_of_b}, must be {k}, as a")));
        }
        let mut shape = self.c.shape().to_vec();
        let batch = shape.len() - 2;
        shape[batch..].copy_from_slice(&[m, n]);
        self.c.expect_shape("c", &shape, "m of op(a) and n of op(b)")?;
        self.a.expect_rows("a")?;
        self.b.expect_rows("b")?;
        self.c.expect_writable_rows("c")?;
        for (name, factor) in [("alpha", self.alpha), ("beta", self.beta)] {
            if !factor.is_finite() {
                return Err(Invalid::new(name, format!("{factor} must be finite")));
            }
        }
        if let Some(bias) = &self.bias {
            if self.activation.is_backward() {
                return Err(Invalid::new("bias", "must be absent with a backward activation"));
            }
            bias.expect_dtype("bias", &[DType::F32, self.a.dtype()])?;
            bias.expect_shape("bias", &[n], "n of op(b)")?;
            bias.expect_rows("bias")?;
        }
        match &self.pre_activation {
            None if self.activation.is_backward() => {
                return Err(Invalid::new("pre_activation", "must be given with a backward activation"));
            }
            None => {}
            Some(_) if self.activation == Activation::None => {
                return Err(Invalid::new("pre_activation", "must be absent without an activation"));
            }
            Some(pre) => {
                pre.expect_dtype("pre_activation", &[self.c.dtype()])?;
                pre.expect_shape("pre_activation", self.c.shape(), "the shape of c")?;
                pre.expect_rows("pre_activation")?;
            }
        }
        self.c.expect_apart("c", &self.a, "a")?;
        self.c.expect_apart("c", &self.b, "b")?;
        if let Some(bias) = &self.bias {
            self.c.expect_apart("c", bias, "bias")?;
        }
        let Some(pre) = &self.pre_activation else { return Ok(()) };
        if self.activation.is_backward() {
            return self.c.expect_same_or_apart("c", pre, "pre_activation");
        }
        pre.expect_writable_rows("pre_activation")?;
        pre.expect_apart("pre_activation", &self.a, "a")?;
        pre.expect_apart("pre_activation", &self.b, "b")?;
        if let Some(bias) = &self.bias {
            pre.expect_apart("pre_activation", bias, "bias")?;
        }
        pre.expect_apart("pre_activation", &self.c, "c")
    }

    fn workspace(&self, workers: usize) -> usize {
        cpu::workspace(self, workers, most_kept(workers))
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        let workspace = cpu.workspace(self.workspace(cpu.workers()));
        // SAFETY: the context's workspace is aligned, has this size, and is the operation's while it runs.
        unsafe { cpu::run(self, cpu, workspace, most_kept(cpu.workers())) }
    }

    fn cuda_workspace(&self, properties: &Properties) -> usize {
        cuda::workspace(self, properties)
    }

    fn implementation(&self, device: &Device) -> Option<&'static str> {
        self.implementation_on(device).ok()
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        let workspace = gpu.workspace(self.cuda_workspace(gpu.properties()));
        // SAFETY: the context's workspace is aligned, has this size, and is the operation's until the work is done.
        unsafe { self.run_on_cuda(gpu, workspace) }
    }
}
