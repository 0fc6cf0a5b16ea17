//! What the row kernels of layer norm and of RMS norm, which is layer norm without mean and bias, have in common.

use crate::backend::cpu::pair::{Paired, load_in_order};
use crate::backend::cpu::span::{Span, each_pair};
use crate::backend::cpu::{Cpu, Kernel, Level, MOST_LANES, Simd};
use crate::dtype::DType;
use crate::view::{Invalid, View};
use crate::with_float;
use std::marker::PhantomData;

/// Requires an epsilon above 0.
pub(crate) fn check_epsilon(epsilon: f32) -> Result<(), Invalid> {
    if epsilon.is_finite() && epsilon > 0.0 {
        return Ok(());
    }
    Err(Invalid::new("epsilon", format!("{epsilon} must be finite and above 0")))
}

/// Requires a parameter or its gradient, where there is one, of x's width and of x's dtype or f32.
pub(crate) fn check_parameter(
    argument: &'static str,
    parameter: &Option<View<'_>>,
    x: &View<'_>,
) -> Result<(), Invalid> {
    let Some(parameter) = parameter else { return Ok(()) };
    let allowed = [DType::F32, x.dtype()];
    parameter.expect_dtype(argument, if x.dtype() == DType::F32 { &allowed[..1] } else { &allowed })?;
    parameter.expect_shape(argument, &[x.width()], "the width of x")?;
    parameter.expect_rows(argument)
}

/// Requires a statistic, where there is one, of one f32 for each row of x.
pub(crate) fn check_statistic(
    argument: &'static str,
    statistic: &Option<View<'_>>,
    x: &View<'_>,
) -> Result<(), Invalid> {
    let Some(statistic) = statistic else { return Ok(()) };
    statistic.expect_dtype(argument, &[DType::F32])?;
    statistic.expect_shape(argument, &x.shape()[..x.ndim() - 1], "the leading dimensions of x")?;
    statistic.expect_rows(argument)
}

/// Width of a vector of floats that is read and written in whole pairs of vectors.
pub(super) fn padded(width: usize) -> usize {
    width.next_multiple_of(2 * MOST_LANES)
}

/// Whether [`dispatch`] of rows of `T` uses the bf16 dot product.
#[inline(always)]
pub(super) fn uses_dot_bf16<T: Paired>(cpu: &Cpu<'_>) -> bool {
    T::DTYPE == DType::BF16 && cpu.level() == Level::Avx512Bf16
}

/// Runs a kernel over rows of `T`: of bf16, with the bf16 dot product where the CPU has it.
#[inline(always)]
pub(super) fn dispatch<T: Paired, K: Kernel>(cpu: &Cpu<'_>, kernel: K) -> K::Output {
    if uses_dot_bf16::<T>(cpu) { cpu.dispatch_bf16(kernel) } else { cpu.dispatch(kernel) }
}

/// Copies a parameter `[n]` of dtype P, in the order of pairs of T, padded with zeros.
struct Arrange<P, T> {
    from: *const P,
    to: *mut f32,
    n: usize,
    order: PhantomData<T>,
}

impl<P: Paired, T: Paired> Kernel for Arrange<P, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let nan = s.splat(f32::NAN);
        each_pair!(S, 0..self.n, |at, span| {
            // SAFETY: `parameter` made both pointers valid, `to` for the padded width.
            unsafe {
                let mut x = span.load_pair(s, self.from.add(at));
                if P::INTERLEAVED != T::INTERLEAVED {
                    let mut floats = [0.0; 2 * MOST_LANES];
                    s.store(floats.as_mut_ptr(), x[0]);
                    s.store(floats.as_mut_ptr().add(S::LANES), x[1]);
                    x = load_in_order::<S, T>(s, floats.as_ptr());
                }
                // A NaN with low bits would not stay one when rows are rounded to bf16.
                s.store(self.to.add(at), s.select(s.le(x[0], x[0]), x[0], nan));
                s.store(self.to.add(at + S::LANES), s.select(s.le(x[1], x[1]), x[1], nan));
            }
        });
    }
}

/// Copies a parameter to `to` as f32, padded with zeros, in the order of pairs of `T`; `absent` in each element of a missing
/// one.
///
/// # Safety
/// `to` is valid for writes of `padded(width)` floats.
pub(super) unsafe fn arrange<T: Paired>(
    cpu: &Cpu<'_>,
    parameter: &Option<View<'_>>,
    width: usize,
    absent: f32,
    to: *mut f32,
) {
    let (n, order) = (width, PhantomData::<T>);
    match parameter {
        // Interleaved rows have a parameter of their own dtype or of f32, others one in the order of elements.
        Some(view) => with_float!(view.dtype(), P => {
            dispatch::<T, _>(cpu, Arrange::<P, T> { from: view.ptr::<P>(), to, n, order });
        }),
        // SAFETY: the caller's promise.
        None => (0..padded(width)).for_each(|i| unsafe { to.add(i).write(absent) }),
    }
}
