//! Softmax cross-entropy of class ids, and its gradient in the same pass.
//!
//! For each row x of logits with target t:
//! loss = log sum over j of e^(x_j) - x_t, and dlogits_j = (softmax(x)_j - [j = t]) gradient_scale loss_scale.
//! A row whose target is negative, or equals an `ignore_index` other than 0, is ignored: loss 0, gradient 0.
//!
//! Shapes: logits, dlogits [.., v] of one float dtype, 1 to 5 dimensions, contiguous rows; targets [..] i32;
//! losses [..] f32; loss_scale one f32.
//!
//! Tolerance: loss within 8 epsilon(f32) (1 + |loss|); dlogits within 2 epsilon(dtype) |dlogits| + 16 epsilon(f32)
//! |gradient_scale loss_scale|, plus half the smallest denormal of the dtype. Computed in f32. The largest logit is
//! subtracted first, so a row with NaN or +infinity, or nothing but -infinity, has loss and gradients NaN.
//!
//! On a CUDA device, where targets are not checked beforehand, a row with a target of v or more has loss and gradients
//! NaN. Each row is read once there, but for what exceeds the shared memory of a block, which is read twice.

pub(crate) mod cpu;
pub(crate) mod cuda;
pub mod reference;

use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::ops::Op;
use crate::view::{Invalid, View};

/// losses = cross-entropy of logits and targets; dlogits = their gradients.
#[derive(Clone, Copy)]
pub struct CrossEntropy<'a> {
    /// Logits [.., v].
    pub logits: View<'a>,
    /// Class ids [..], below v.
    pub targets: View<'a>,
    /// Target of ignored rows unless 0; negative targets are always ignored.
    pub ignore_index: i32,
    /// Factor of the gradients.
    pub gradient_scale: f32,
    /// Another factor of the gradients, one f32; none is 1.
    pub loss_scale: Option<View<'a>>,
    /// Losses [..].
    pub losses: View<'a>,
    /// Gradients of the logits [.., v]; may be `logits`; none: losses only.
    pub dlogits: Option<View<'a>>,
}

/// The class of `target`, or none when its row is ignored.
#[inline(always)]
pub(crate) fn class(target: i32, ignore_index: i32) -> Option<usize> {
    if ignore_index != 0 && target == ignore_index { None } else { usize::try_from(target).ok() }
}

/// Refuses a target outside 0..classes that is not ignored. `targets` has passed its checks.
pub(crate) fn check_targets(targets: &View<'_>, ignore_index: i32, classes: usize) -> Result<(), Invalid> {
    for row in 0..targets.numel() {
        // SAFETY: targets is a valid i32 view with more than `row` elements.
        let target = unsafe { targets.element_ptr::<i32>(row).read() };
        if class(target, ignore_index).is_some_and(|class| class >= classes) {
            let message = format!("target {target} of row {row} must be below {classes}, the number of classes");
            return Err(Invalid::new("targets", message));
        }
    }
    Ok(())
}

/// Requires a view of one f32, where there is one.
pub(crate) fn check_loss_scale(loss_scale: &Option<View<'_>>) -> Result<(), Invalid> {
    let Some(scale) = loss_scale else { return Ok(()) };
    scale.expect_dtype("loss_scale", &[DType::F32])?;
    if scale.numel() == 1 {
        return Ok(());
    }
    Err(Invalid::new("loss_scale", format!("shape {:?} must have one element", scale.shape())))
}

/// The factor of all gradients.
pub(crate) fn scale(gradient_scale: f32, loss_scale: &Option<View<'_>>) -> f32 {
    // SAFETY: a checked loss scale is one f32.
    gradient_scale * loss_scale.map_or(1.0, |scale| unsafe { scale.ptr::<f32>().read() })
}

impl Op for CrossEntropy<'_> {
    const NAME: &'static str = "cross_entropy";

    views!(logits, targets, losses; loss_scale, dlogits);

    fn check(&self) -> Result<(), Invalid> {
        self.logits.expect_dtype("logits", &DType::FLOATS)?;
        self.logits.expect_ndim("logits", 1, 5)?;
        self.logits.expect_rows("logits")?;
        let lead = &self.logits.shape()[..self.logits.ndim() - 1];
        self.targets.expect_dtype("targets", &[DType::I32])?;
        self.targets.expect_shape("targets", lead, "the leading dimensions of logits")?;
        if !self.gradient_scale.is_finite() {
            return Err(Invalid::new("gradient_scale", format!("{} must be finite", self.gradient_scale)));
        }
        check_loss_scale(&self.loss_scale)?;
        self.losses.expect_dtype("losses", &[DType::F32])?;
        self.losses.expect_shape("losses", lead, "the leading dimensions of logits")?;
        self.losses.expect_writable_rows("losses")?;
        let inputs = [("logits", Some(self.logits)), ("targets", Some(self.targets)), ("loss_scale", self.loss_scale)];
        self.losses.expect_apart_from("losses", &inputs)?;
        let Some(dlogits) = &self.dlogits else { return Ok(()) };
        dlogits.expect_like("dlogits", &self.logits, "logits")?;
        dlogits.expect_writable_rows("dlogits")?;
        dlogits.expect_same_or_apart("dlogits", &self.logits, "logits")?;
        dlogits.expect_apart_from("dlogits", &inputs[1..])?;
        dlogits.expect_apart("dlogits", &self.losses, "losses")
    }

    fn check_elements(&self) -> Result<(), Invalid> {
        check_targets(&self.targets, self.ignore_index, self.logits.width())
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::run(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}
