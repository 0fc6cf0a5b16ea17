//! Borrowed tensor views, and the argument checks that every operation shares.

use crate::dtype::DType;
use std::fmt::Display;
use std::marker::PhantomData;

/// Largest number of dimensions of a view.
pub const MAX_DIMS: usize = 5;

/// Why an argument was refused: which, what it was, what it must be. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Name of the argument as in the C header.
    pub argument: &'static str,
    /// What it was and what it must be.
    pub message: String,
}

impl Invalid {
    /// Refuses `argument` with `message`.
    pub fn new(argument: &'static str, message: impl Into<String>) -> Invalid {
        Invalid { argument, message: message.into() }
    }
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.argument, self.message)
    }
}

impl std::error::Error for Invalid {}

/// A borrowed view of a tensor: pointer, dtype, shape and strides in elements. It owns nothing.
///
/// Whether an operation reads or writes through a view is the operation's contract. The last dimension must be
/// contiguous where an operation says "rows".
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    data: *mut u8,
    dtype: DType,
    ndim: usize,
    shape: [usize; MAX_DIMS],
    stride: [usize; MAX_DIMS],
    borrow: PhantomData<&'a mut u8>,
}

// SAFETY: a view is a pointer whose validity and exclusivity the creator of the view promised for 'a, whichever
// thread uses it; operations hand disjoint parts of it to their workers.
unsafe impl Send for View<'_> {}
// SAFETY: as above; the view itself is immutable plain data.
unsafe impl Sync for View<'_> {}

/// The checks of [`View::new`].
fn expect_memory(
    argument: &'static str,
    data: *mut u8,
    dtype: DType,
    shape: &[usize],
    stride: &[usize],
) -> Result<(), Invalid> {
    if shape.len() > MAX_DIMS || shape.len() != stride.len() {
        return Err(Invalid::new(argument, format!("ndim {} must be 0 to {MAX_DIMS}", shape.len())));
    }
    let overflow = || Invalid::new(argument, format!("shape {shape:?} with strides {stride:?} overflows memory"));
    // Checked as a product of all dimensions, so that numel() cannot overflow later.
    let mut span = 0usize;
    let mut numel = 1usize;
    for (&n, &s) in shape.iter().zip(stride) {
        numel = numel.checked_mul(n.max(1)).ok_or_else(overflow)?;
        span = n.saturating_sub(1).checked_mul(s).and_then(|d| d.checked_add(span)).ok_or_else(overflow)?;
    }
    let bytes = span.checked_add(1).and_then(|e| e.checked_mul(dtype.size())).ok_or_else(overflow)?;
    let most = isize::MAX as usize;
    if bytes > most || numel.checked_mul(dtype.size()).is_none_or(|bytes| bytes > most) {
        return Err(overflow());
    }
    if !shape.contains(&0) {
        if data.is_null() {
            return Err(Invalid::new(argument, "data is NULL but the tensor is not empty"));
        }
        // A power of two.
        if data as usize & (dtype.size() - 1) != 0 {
            return Err(Invalid::new(
                argument,
                format!("data {data:p} must be aligned to its element size, {} bytes", dtype.size()),
            ));
        }
        if (data as usize).checked_add(bytes).is_none() {
            return Err(overflow());
        }
    }
    Ok(())
}

impl<'a> View<'a> {
    /// A view of memory at `data`; `shape` and `stride` (in elements) have the same length, at most [`MAX_DIMS`].
    ///
    /// Refuses a null pointer (unless the view is empty), a pointer not aligned to the element, and sizes that
    /// overflow the address space.
    ///
    /// # Safety
    /// For `'a`, every element the shape and strides reach is valid for reads, and for writes if an operation
    /// writes this argument, and no one else writes it (or reads it while it is written).
    #[inline]
    pub unsafe fn new(
        argument: &'static str,
        data: *mut u8,
        dtype: DType,
        shape: &[usize],
        stride: &[usize],
    ) -> Result<View<'a>, Invalid> {
        expect_memory(argument, data, dtype, shape, stride)?;
        Ok(View {
            data,
            dtype,
            ndim: shape.len(),
            shape: std::array::from_fn(|d| shape.get(d).copied().unwrap_or(1)),
            stride: std::array::from_fn(|d| stride.get(d).copied().unwrap_or(0)),
            borrow: PhantomData,
        })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Number of dimensions.
    pub fn ndim(&self) -> usize {
        self.ndim
    }
    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape[..self.ndim]
    }
    /// Strides in elements, outermost first.
    pub fn stride(&self) -> &[usize] {
        &self.stride[..self.ndim]
    }
    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape().iter().product()
    }
    /// Extent of the last dimension; 1 for a scalar.
    pub fn width(&self) -> usize {
        self.shape().last().copied().unwrap_or(1)
    }
    /// Number of rows: the product of all dimensions but the last.
    pub fn row_count(&self) -> usize {
        self.shape[..self.ndim.saturating_sub(1)].iter().product()
    }
    /// The address of the first element.
    pub fn data(&self) -> *mut u8 {
        self.data
    }
    /// The address of the first element, as a type of the dtype's size.
    #[inline(always)]
    pub fn ptr<T>(&self) -> *mut T {
        debug_assert_eq!(size_of::<T>(), self.dtype.size());
        self.data.cast()
    }

    /// Offset in elements of row `row` (all dimensions but the last, in row-major order).
    #[inline(always)]
    pub fn row_offset(&self, mut row: usize) -> usize {
        let lead = self.ndim.saturating_sub(1);
        if lead == 1 {
            return row * self.stride[0];
        }
        let mut offset = 0;
        for d in (0..lead).rev() {
            offset += row % self.shape[d] * self.stride[d];
            row /= self.shape[d];
        }
        offset
    }

    /// Address of the first element of row `row`.
    #[inline(always)]
    pub fn row_ptr<T>(&self, row: usize) -> *mut T {
        // SAFETY: a row below row_count() lies inside the memory that `new` was promised.
        unsafe { self.ptr::<T>().add(self.row_offset(row)) }
    }

    /// Offset in elements of element `index`, counted in row-major order.
    #[inline(always)]
    pub fn element_offset(&self, mut index: usize) -> usize {
        if self.ndim == 1 {
            return index * self.stride[0];
        }
        let mut offset = 0;
        for d in (0..self.ndim).rev() {
            offset += index % self.shape[d] * self.stride[d];
            index /= self.shape[d];
        }
        offset
    }

    /// Address of element `index`, counted in row-major order.
    #[inline(always)]
    pub fn element_ptr<T>(&self, index: usize) -> *mut T {
        // SAFETY: an index below numel() lies inside the memory that `new` was promised.
        unsafe { self.ptr::<T>().add(self.element_offset(index)) }
    }

    /// Whether elements lie without gaps in row-major order.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for d in (0..self.ndim).rev() {
            if self.shape[d] != 1 && self.stride[d] != expected {
                return false;
            }
            expected *= self.shape[d];
        }
        true
    }

    /// The same elements as one row per innermost run: `[1, numel]` when contiguous, else unchanged. Element-wise
    /// operations use it so that contiguous tensors are one long row.
    pub fn flattened(&self) -> View<'a> {
        if !self.is_contiguous() {
            return *self;
        }
        let mut flat = *self;
        flat.ndim = 2;
        flat.shape = [1; MAX_DIMS];
        flat.stride = [0; MAX_DIMS];
        flat.shape[1] = self.numel();
        flat.stride[0] = self.numel();
        flat.stride[1] = 1;
        flat
    }

    /// Elements `range` of a contiguous view, counted in row-major order, as one dimension.
    pub fn span(&self, range: std::ops::Range<usize>) -> View<'a> {
        assert!(self.is_contiguous() && range.start <= range.end && range.end <= self.numel());
        let mut span = *self;
        span.data = self.data.wrapping_add(range.start * self.dtype.size());
        span.ndim = 1;
        span.shape = [1; MAX_DIMS];
        span.stride = [0; MAX_DIMS];
        (span.shape[0], span.stride[0]) = (range.len(), 1);
        span
    }

    /// The same rows with all dimensions but the last merged into one where the strides allow it, else unchanged:
    /// then the offset of a row is one product.
    pub fn collapsed(&self) -> View<'a> {
        let lead = self.ndim.saturating_sub(1);
        let long = (0..lead).filter(|d| self.shape[*d] != 1);
        if lead <= 1
            || !long.clone().zip(long.clone().skip(1)).all(|(a, b)| self.stride[a] == self.shape[b] * self.stride[b])
        {
            return *self;
        }
        let mut merged = *self;
        merged.ndim = 2;
        merged.shape = [1; MAX_DIMS];
        merged.stride = [0; MAX_DIMS];
        (merged.shape[0], merged.shape[1]) = (self.row_count(), self.width());
        (merged.stride[0], merged.stride[1]) = (long.max().map_or(0, |d| self.stride[d]), self.stride[lead]);
        merged
    }

    /// Half-open byte range that the elements span; empty for an empty view.
    pub fn byte_range(&self) -> std::ops::Range<usize> {
        let start = self.data as usize;
        if self.numel() == 0 {
            return start..start;
        }
        let span: usize = self.shape().iter().zip(self.stride()).map(|(n, s)| (n - 1) * s).sum();
        start..start + (span + 1) * self.dtype.size()
    }

    /// Whether two views may share memory: their byte ranges meet, unless both are rows interleaved in one
    /// buffer with the same strides and disjoint columns (as q, k and v packed in one tensor).
    pub fn overlaps(&self, other: &View<'_>) -> bool {
        let (a, b) = (self.byte_range(), other.byte_range());
        if a.is_empty() || b.is_empty() || a.start >= b.end || b.start >= a.end {
            return false;
        }
        !self.interleaved_with(other)
    }

    /// Whether both views repeat with the same period and occupy disjoint bytes of it.
    fn interleaved_with(&self, other: &View<'_>) -> bool {
        let size = self.dtype.size();
        // The period is the smallest stride at or above which the view's inner block fits.
        let block = |view: &View<'_>, period: usize| -> Option<usize> {
            let mut inner = 0;
            for (&n, &s) in view.shape().iter().zip(view.stride()) {
                if n > 1 && s < period {
                    inner += (n - 1) * s;
                } else if n > 1 && s % period != 0 {
                    return None;
                }
            }
            (inner < period).then_some(inner + 1)
        };
        if other.dtype.size() != size || !(self.data as usize).abs_diff(other.data as usize).is_multiple_of(size) {
            return false;
        }
        self.stride().iter().filter(|s| **s > 1).any(|&period| {
            let (Some(mine), Some(theirs)) = (block(self, period), block(other, period)) else { return false };
            if !other.stride().contains(&period) {
                return false;
            }
            let (low, high, low_block, high_block) = if self.data <= other.data {
                (self.data, other.data, mine, theirs)
            } else {
                (other.data, self.data, theirs, mine)
            };
            let phase = (high as usize - low as usize) / size % period;
            phase >= low_block && phase + high_block <= period
        })
    }

    /// Whether both views are the same elements in the same order: in-place use.
    pub fn is_same(&self, other: &View<'_>) -> bool {
        self.data == other.data
            && self.dtype.size() == other.dtype.size()
            && self.shape() == other.shape()
            && self.stride() == other.stride()
    }

    /// Requires one of `allowed`.
    pub fn expect_dtype(&self, argument: &'static str, allowed: &[DType]) -> Result<(), Invalid> {
        if allowed.contains(&self.dtype) {
            return Ok(());
        }
        let names: Vec<_> = allowed.iter().map(|d| d.name()).collect();
        Err(Invalid::new(argument, format!("dtype {} must be {}", self.dtype, names.join(" or "))))
    }

    /// Requires the dtype and shape of `other`, the argument `name`.
    pub fn expect_like(&self, argument: &'static str, other: &View<'_>, name: &str) -> Result<(), Invalid> {
        if self.dtype != other.dtype {
            return Err(Invalid::new(
                argument,
                format!("dtype {} must be {}, the dtype of {name}", self.dtype, other.dtype),
            ));
        }
        self.expect_shape(argument, other.shape(), format_args!("the shape of {name}"))
    }

    /// Requires exactly `shape`; `why` says where the shape comes from, as in "the shape of x".
    pub fn expect_shape(&self, argument: &'static str, shape: &[usize], why: impl Display) -> Result<(), Invalid> {
        if self.shape() == shape {
            return Ok(());
        }
        Err(Invalid::new(argument, format!("shape {:?} must be {shape:?}, {why}", self.shape())))
    }

    /// Requires between `least` and `most` dimensions.
    pub fn expect_ndim(&self, argument: &'static str, least: usize, most: usize) -> Result<(), Invalid> {
        if (least..=most).contains(&self.ndim) {
            return Ok(());
        }
        let must = if least == most { format!("{least}") } else { format!("{least} to {most}") };
        Err(Invalid::new(argument, format!("ndim {} must be {must}", self.ndim)))
    }

    /// Requires the elements of each row (the last dimension) to be contiguous.
    pub fn expect_rows(&self, argument: &'static str) -> Result<(), Invalid> {
        if self.ndim == 0 || self.width() <= 1 || self.stride[self.ndim - 1] == 1 {
            return Ok(());
        }
        let last = self.stride[self.ndim - 1];
        Err(Invalid::new(argument, format!("stride {last} of the last dimension must be 1")))
    }

    /// Requires rows, and that no two elements share memory: every written argument needs it.
    pub fn expect_writable_rows(&self, argument: &'static str) -> Result<(), Invalid> {
        self.expect_rows(argument)?;
        if self.numel() == 0 {
            return Ok(());
        }
        let mut dims = [(0, 0); MAX_DIMS];
        let mut long = 0;
        for (&s, &n) in self.stride().iter().zip(self.shape()).filter(|(_, n)| **n > 1) {
            dims[long] = (s, n);
            long += 1;
        }
        dims[..long].sort_unstable();
        let mut reach = 0;
        for &(s, n) in &dims[..long] {
            if s <= reach {
                return Err(Invalid::new(
                    argument,
                    format!("strides {:?} make elements of shape {:?} share memory", self.stride(), self.shape()),
                ));
            }
            reach += (n - 1) * s;
        }
        Ok(())
    }

    /// Requires elements without gaps in row-major order.
    pub fn expect_contiguous(&self, argument: &'static str) -> Result<(), Invalid> {
        if self.numel() == 0 || self.is_contiguous() {
            return Ok(());
        }
        Err(Invalid::new(
            argument,
            format!("strides {:?} must be contiguous for shape {:?}", self.stride(), self.shape()),
        ))
    }

    /// Requires that a written argument shares no memory with `other`.
    pub fn expect_apart(&self, argument: &'static str, other: &View<'_>, name: &str) -> Result<(), Invalid> {
        if self.overlaps(other) {
            return Err(Invalid::new(argument, format!("must not overlap {name}")));
        }
        Ok(())
    }

    /// Requires that a written argument shares no memory with any of the present `others`.
    pub fn expect_apart_from(
        &self,
        argument: &'static str,
        others: &[(&str, Option<View<'_>>)],
    ) -> Result<(), Invalid> {
        others
            .iter()
            .try_for_each(|(name, other)| other.map_or(Ok(()), |other| self.expect_apart(argument, &other, name)))
    }

    /// Requires that a written argument is exactly `other` (in place) or shares no memory with it.
    pub fn expect_same_or_apart(&self, argument: &'static str, other: &View<'_>, name: &str) -> Result<(), Invalid> {
        if self.is_same(other) { Ok(()) } else { self.expect_apart(argument, other, name) }
    }
}

/// The stretches of the row-major element indices `range` that lie in one row of `width` elements, in order:
/// (row, first column, length).
#[inline(always)]
pub fn runs(width: usize, range: std::ops::Range<usize>) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        if start >= range.end {
            return None;
        }
        let (row, column) = (start / width, start % width);
        let len = (width - column).min(range.end - start);
        start += len;
        Some((row, column, len))
    })
}
