//! Element-wise maps: 1 to 4 input tensors to 1 to 4 output tensors of the same shape, each with its own dtype.

use super::span::{Span, each_vector};
use super::{Cpu, Element, Kernel, Simd};
use crate::view::View;

/// Elements that one task computes; results do not depend on it.
const TASK: usize = 16 * 1024;

/// Most tensors on one side of a map.
const MOST: usize = 4;

/// The element types of the tensors on one side of a map: a tuple of 1 to 4 [`Element`]s.
pub(crate) trait Elements: Send + Sync {
    /// Their sizes in bytes; 0 beyond the last.
    const SIZES: [usize; MOST];
    /// One vector of each.
    type Vectors<S: Simd>: Copy;
    /// Reads the elements of `span` from index `at` of each tensor on.
    ///
    /// # Safety
    /// Each pointer is valid for reads of those elements of its type.
    unsafe fn load<S: Simd>(s: S, p: &[*mut u8; MOST], at: usize, span: impl Span) -> Self::Vectors<S>;
    /// Writes the elements of `span` from index `at` of each tensor on.
    ///
    /// # Safety
    /// Each pointer is valid for writes of those elements of its type.
    unsafe fn store<S: Simd>(s: S, p: &[*mut u8; MOST], at: usize, span: impl Span, vectors: Self::Vectors<S>);
}

macro_rules! elements {
    ($sizes:expr, $($t:ident $vector:ident $i:literal $v:ty),*) => {
        impl<$($t: Element),*> Elements for ($($t,)*) {
            const SIZES: [usize; MOST] = $sizes;
            type Vectors<S: Simd> = ($($v,)*);
            #[inline(always)]
            unsafe fn load<S: Simd>(s: S, p: &[*mut u8; MOST], at: usize, span: impl Span) -> Self::Vectors<S> {
                // SAFETY: the caller's promise.
                unsafe { ($(span.load(s, p[$i].cast::<$t>().add(at)),)*) }
            }
            #[inline(always)]
            unsafe fn store<S: Simd>(
                s: S,
                p: &[*mut u8; MOST],
                at: usize,
                span: impl Span,
                ($($vector,)*): Self::Vectors<S>,
            ) {
                // SAFETY: the caller's promise.
                unsafe { $(span.store(s, p[$i].cast::<$t>().add(at), $vector);)* }
            }
        }
    };
}

elements!([size_of::<A>(), 0, 0, 0], A a 0 S::F);
elements!([size_of::<A>(), size_of::<B>(), 0, 0], A a 0 S::F, B b 1 S::F);
elements!([size_of::<A>(), size_of::<B>(), size_of::<C>(), 0], A a 0 S::F, B b 1 S::F, C c 2 S::F);
elements!(
    [size_of::<A>(), size_of::<B>(), size_of::<C>(), size_of::<D>()],
    A a 0 S::F, B b 1 S::F, C c 2 S::F, D d 3 S::F
);

/// An element-wise function from the vectors of `I` to the vectors of `O`.
pub(crate) trait Map<I: Elements, O: Elements>: Send + Sync {
    /// The function; `#[inline(always)]`, with everything that it calls.
    fn map<S: Simd>(&self, s: S, x: I::Vectors<S>) -> O::Vectors<S>;
}

/// Applies `map` to all elements of `inputs`, whose dtypes are `I`, and writes `outputs`, whose dtypes are `O`.
///
/// All views have the same shape and contiguous rows. An output may be an input, exactly.
pub(crate) fn elementwise<I: Elements, O: Elements>(
    cpu: &Cpu<'_>,
    inputs: &[View<'_>],
    outputs: &[View<'_>],
    map: impl Map<I, O>,
) {
    let first = outputs[0];
    if first.numel() == 0 {
        return;
    }
    let flat = inputs.iter().chain(outputs).all(|view| view.is_contiguous());
    let (rows, width) = if flat { (1, first.numel()) } else { (first.row_count(), first.width()) };
    let pointers = |views: &[View<'_>], sizes: [usize; MOST], row: usize, column: usize| {
        let mut p = [std::ptr::null_mut(); MOST];
        for ((p, view), size) in p.iter_mut().zip(views).zip(sizes) {
            debug_assert_eq!(size, view.dtype().size());
            let offset = if flat { column } else { view.row_offset(row) + column };
            // SAFETY: row < rows and column < width, so the element lies inside the view.
            *p = unsafe { view.data().add(offset * size) };
        }
        p
    };
    let run = |row: usize, columns: std::ops::Range<usize>| {
        cpu.dispatch(Run {
            inputs: pointers(inputs, I::SIZES, row, columns.start),
            outputs: pointers(outputs, O::SIZES, row, columns.start),
            n: columns.len(),
            map: &map,
            elements: std::marker::PhantomData::<(I, O)>,
        });
    };
    if width >= TASK {
        let pieces = width.div_ceil(TASK);
        cpu.parallel_for(rows * pieces, |task, _| {
            let start = task % pieces * TASK;
            run(task / pieces, start..(start + TASK).min(width));
        });
    } else {
        cpu.parallel_chunks(rows, TASK / width, |rows, _| rows.for_each(|row| run(row, 0..width)));
    }
}

/// One run of `n` contiguous elements.
struct Run<'a, I, O, M> {
    inputs: [*mut u8; MOST],
    outputs: [*mut u8; MOST],
    n: usize,
    map: &'a M,
    elements: std::marker::PhantomData<(I, O)>,
}

impl<I: Elements, O: Elements, M: Map<I, O>> Kernel for Run<'_, I, O, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        each_vector!(S, self.n, |at, span| {
            // SAFETY: `elementwise` made the pointers valid for n elements.
            unsafe {
                let x = I::load(s, &self.inputs, at, span);
                O::store(s, &self.outputs, at, span, self.map.map(s, x));
            }
        });
    }
}
