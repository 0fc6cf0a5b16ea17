//! Tensors: plain structs that borrow memory, and how one becomes a view.

use crate::argument::{Argument, Enum, Many, Optional, Out, Values, enumeration, expect_pointer};
use scalert_runtime::{DType, Error, MAX_DIMS, View};
use std::ffi::c_void;

c_enum! {
    DType as "scalert_dtype_t" {
        SCALERT_F32 = 1 => DType::F32,
        SCALERT_BF16 = 2 => DType::BF16,
        SCALERT_F16 = 3 => DType::F16,
        SCALERT_I32 = 4 => DType::I32,
        SCALERT_I64 = 5 => DType::I64,
        SCALERT_I16 = 6 => DType::I16,
        SCALERT_U8 = 7 => DType::U8,
    }
}

c_struct! {
    Tensor as "scalert_tensor_t" {
        data: *mut c_void,
        dtype: i32,
        ndim: i32,
        shape: [i64; MAX_DIMS],
        stride: [i64; MAX_DIMS],
    }
}

/// Requires a number of dimensions that a tensor can have.
pub(crate) fn dimensions(name: &'static str, field: &str, ndim: i32) -> Result<usize, Error> {
    usize::try_from(ndim)
        .ok()
        .filter(|n| *n <= MAX_DIMS)
        .ok_or_else(|| Error::invalid(name, format_args!("{field}{ndim} must be 0 to {MAX_DIMS}")))
}

/// Requires extents or strides that are not negative. (In place: an array that is copied right after its elements were
/// written, one by one, makes the processor wait for them.)
#[inline]
pub(crate) fn extents<'a>(name: &'static str, what: &str, raw: &'a [i64]) -> Result<&'a [usize], Error> {
    const { assert!(size_of::<usize>() == size_of::<i64>()) };
    if let Some(d) = raw.iter().position(|n| *n < 0) {
        return Err(Error::invalid(name, format_args!("{what}[{d}] {} must not be negative", raw[d])));
    }
    // SAFETY: the same memory, of integers of the same size, which are the same numbers since none is negative.
    Ok(unsafe { std::slice::from_raw_parts(raw.as_ptr().cast(), raw.len()) })
}

/// Row-major strides, in elements; saturating, since [`View::new`] refuses what overflows.
pub(crate) fn contiguous_strides(shape: &[usize]) -> [usize; MAX_DIMS] {
    let mut stride = [0; MAX_DIMS];
    let mut next = 1usize;
    for (to, n) in stride.iter_mut().zip(shape).rev() {
        *to = next;
        next = next.saturating_mul((*n).max(1));
    }
    stride
}

/// The view of a tensor that the caller describes.
///
/// # Safety
/// For 'a, every element that the tensor reaches is valid for what the operation does with it.
pub(crate) unsafe fn view<'a>(name: &'static str, tensor: &Tensor) -> Result<View<'a>, Error> {
    let dtype = enumeration::<DType>("dtype", tensor.dtype).map_err(|e| Error::invalid(name, e.message))?;
    let ndim = dimensions(name, "ndim ", tensor.ndim)?;
    let shape = extents(name, "shape", &tensor.shape[..ndim])?;
    let stride = extents(name, "stride", &tensor.stride[..ndim])?;
    // SAFETY: the caller's promise.
    Ok(unsafe { View::new(name, tensor.data.cast(), dtype, shape, stride)? })
}

/// The view of a tensor that an options struct points to, or none.
///
/// # Safety
/// `raw` is NULL or points to a tensor as [`view`] needs it.
pub(crate) unsafe fn optional_view<'a>(name: &'static str, raw: *const Tensor) -> Result<Option<View<'a>>, Error> {
    // SAFETY: the caller's promise.
    unsafe { Optional::<TensorView>::accept(name, raw) }
}

/// A tensor argument.
pub enum TensorView {}

impl Argument for TensorView {
    type Raw = *const Tensor;
    type Value<'a> = View<'a>;
    unsafe fn accept<'a>(name: &'static str, raw: *const Tensor) -> Result<Self::Value<'a>, Error> {
        expect_pointer(name, raw)?;
        // SAFETY: checked, and the caller's promise.
        unsafe { view(name, &*raw) }
    }
}

impl From<&View<'_>> for Tensor {
    fn from(view: &View<'_>) -> Tensor {
        let mut tensor = Tensor {
            data: view.data().cast(),
            dtype: view.dtype() as i32,
            ndim: view.ndim() as i32,
            shape: [0; MAX_DIMS],
            stride: [0; MAX_DIMS],
        };
        for d in 0..view.ndim() {
            tensor.shape[d] = view.shape()[d] as i64;
            tensor.stride[d] = view.stride()[d] as i64;
        }
        tensor
    }
}

/// The extents that a function gets as `ndim` and `shape`.
pub(crate) fn shape_arguments<'a>(ndim: i32, shape: Values<'a, i64>) -> Result<&'a [i64], Error> {
    shape.first(dimensions("ndim", "", ndim)?)
}

export! {
    /// A contiguous tensor over memory of the caller.
    fn scalert_tensor_contiguous(
        data: *mut c_void,
        dtype: Enum<DType>,
        ndim: i32,
        shape: Many<i64>,
        out: Out<Tensor>,
    ) {
        let shape = shape_arguments(ndim, shape)?;
        let ndim = shape.len();
        let shape = extents("shape", "shape", shape)?;
        // SAFETY: nothing is read or written through this view; it only checks the description.
        let view = unsafe { View::new("data", data.cast(), dtype, shape, &contiguous_strides(shape)[..ndim])? };
        out.write(Tensor::from(&view));
        Ok(())
    }
}
