//! Element-wise maps: up to 4 input tensors to 1 to 4 output tensors of the same shape, each with its own dtype, and
//! if asked with a random word per element.

use super::span::{Span, Whole, each_vector};
use super::{Cpu, Element, Kernel, Simd};
use crate::philox::{self, Key};
use crate::view::View;
use std::marker::PhantomData;

/// Elements that one task computes; results do not depend on it.
const TASK: usize = 16 * 1024;

/// Most tensors on one side of a map.
const MOST: usize = 4;

/// Most lanes of any level.
const MOST_LANES: usize = 16;

/// The element types of the tensors on one side of a map: a tuple of up to 4 [`Element`]s.
pub(crate) trait Elements: Send + Sync {
    /// Their sizes in bytes; 0 beyond the last.
    const SIZES: [usize; MOST];
    /// Whether all of them are [`Element::INTERLEAVED`].
    const INTERLEAVED: bool;
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
    /// Reads 2 LANES elements from index `at` of each tensor on, in the order of [`Element::load_pair`].
    ///
    /// # Safety
    /// Each pointer is valid for reads of those elements of its type.
    unsafe fn load_pair<S: Simd>(s: S, p: &[*mut u8; MOST], at: usize) -> [Self::Vectors<S>; 2];
    /// Writes 2 LANES elements from index `at` of each tensor on, in the order of [`Element::load_pair`].
    ///
    /// # Safety
    /// Each pointer is valid for writes of those elements of its type.
    unsafe fn store_pair<S: Simd>(s: S, p: &[*mut u8; MOST], at: usize, vectors: [Self::Vectors<S>; 2]);
}

macro_rules! elements {
    ($sizes:expr, $($t:ident $vector:ident $i:tt $v:ty),*) => {
        impl<$($t: Element),*> Elements for ($($t,)*) {
            const SIZES: [usize; MOST] = $sizes;
            const INTERLEAVED: bool = $($t::INTERLEAVED)&&*;
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
            #[inline(always)]
            unsafe fn load_pair<S: Simd>(s: S, p: &[*mut u8; MOST], at: usize) -> [Self::Vectors<S>; 2] {
                // SAFETY: the caller's promise.
                $(let $vector = unsafe { $t::load_pair(s, p[$i].cast::<$t>().add(at)) };)*
                [($($vector[0],)*), ($($vector[1],)*)]
            }
            #[inline(always)]
            unsafe fn store_pair<S: Simd>(s: S, p: &[*mut u8; MOST], at: usize, vectors: [Self::Vectors<S>; 2]) {
                let [first, second] = vectors;
                // SAFETY: the caller's promise.
                unsafe { $($t::store_pair(s, p[$i].cast::<$t>().add(at), [first.$i, second.$i]);)* }
            }
        }
    };
}

impl Elements for () {
    const SIZES: [usize; MOST] = [0; MOST];
    const INTERLEAVED: bool = false;
    type Vectors<S: Simd> = ();
    #[inline(always)]
    unsafe fn load_pair<S: Simd>(_s: S, _p: &[*mut u8; MOST], _at: usize) -> [(); 2] {
        [(); 2]
    }
    #[inline(always)]
    unsafe fn store_pair<S: Simd>(_s: S, _p: &[*mut u8; MOST], _at: usize, _vectors: [(); 2]) {}
    #[inline(always)]
    unsafe fn load<S: Simd>(_s: S, _p: &[*mut u8; MOST], _at: usize, _span: impl Span) {}
    #[inline(always)]
    unsafe fn store<S: Simd>(_s: S, _p: &[*mut u8; MOST], _at: usize, _span: impl Span, (): ()) {}
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

/// y = x, rounded as the output is stored.
pub(crate) struct Same;

impl<A: Element, B: Element> Map<(A,), (B,)> for Same {
    #[inline(always)]
    fn map<S: Simd>(&self, _s: S, x: (S::F,)) -> (S::F,) {
        x
    }
}

/// An element-wise function from the vectors of `I` and a random number per element to the vectors of `O`.
pub(crate) trait RandomMap<I: Elements, O: Elements>: Send + Sync {
    /// The random numbers of blocks of four elements from their Philox words, vector j holding those of the elements
    /// 4 b + j; `#[inline(always)]`, with everything that it calls.
    #[inline(always)]
    fn draw<S: Simd>(&self, s: S, words: [S::I; 4]) -> [S::I; 4] {
        let _ = s;
        words
    }
    /// The function; `#[inline(always)]`, with everything that it calls.
    fn map<S: Simd>(&self, s: S, x: I::Vectors<S>, random: S::I) -> O::Vectors<S>;
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
    for_each_run::<I, O>(cpu, inputs, outputs, |run| cpu.dispatch(Mapped { run, map: &map }));
}

/// [`elementwise`] with the random number of each element: its index is `first` plus its row-major index.
pub(crate) fn elementwise_random<I: Elements, O: Elements>(
    cpu: &Cpu<'_>,
    inputs: &[View<'_>],
    outputs: &[View<'_>],
    key: Key,
    first: u64,
    map: impl RandomMap<I, O>,
) {
    for_each_run::<I, O>(cpu, inputs, outputs, |run| {
        let first = first + run.first as u64;
        cpu.dispatch(RandomMapped { run, key, first, map: &map });
    });
}

/// One run of `n` contiguous elements, the first of which has row-major index `first`.
struct Run<I, O> {
    inputs: [*mut u8; MOST],
    outputs: [*mut u8; MOST],
    first: usize,
    n: usize,
    elements: PhantomData<(I, O)>,
}

/// Cuts all elements into runs, whose bounds depend on the shapes only, and calls `body` for each, in parallel.
fn for_each_run<I: Elements, O: Elements>(
    cpu: &Cpu<'_>,
    inputs: &[View<'_>],
    outputs: &[View<'_>],
    body: impl Fn(Run<I, O>) + Sync,
) {
    let shape = outputs[0];
    if shape.numel() == 0 {
        return;
    }
    let flat = inputs.iter().chain(outputs).all(|view| view.is_contiguous());
    let (rows, width) = if flat { (1, shape.numel()) } else { (shape.row_count(), shape.width()) };
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
        body(Run {
            inputs: pointers(inputs, I::SIZES, row, columns.start),
            outputs: pointers(outputs, O::SIZES, row, columns.start),
            first: row * width + columns.start,
            n: columns.len(),
            elements: PhantomData,
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

struct Mapped<'a, I, O, M> {
    run: Run<I, O>,
    map: &'a M,
}

impl<I: Elements, O: Elements, M: Map<I, O>> Kernel for Mapped<'_, I, O, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { inputs, outputs, n, .. } = self.run;
        let pairs = if I::INTERLEAVED && O::INTERLEAVED { n / (2 * S::LANES) } else { 0 };
        for pair in 0..pairs {
            let at = pair * 2 * S::LANES;
            // SAFETY: `for_each_run` made the pointers valid for n elements.
            unsafe {
                let [first, second] = I::load_pair(s, &inputs, at);
                O::store_pair(s, &outputs, at, [self.map.map(s, first), self.map.map(s, second)]);
            }
        }
        let start = pairs * 2 * S::LANES;
        each_vector!(S, n - start, |at, span| {
            // SAFETY: as above.
            unsafe {
                let x = I::load(s, &inputs, start + at, span);
                O::store(s, &outputs, start + at, span, self.map.map(s, x));
            }
        });
    }
}

struct RandomMapped<'a, I, O, M> {
    run: Run<I, O>,
    key: Key,
    /// Index in the stream of the run's first element.
    first: u64,
    map: &'a M,
}

impl<I: Elements, O: Elements, M: RandomMap<I, O>> RandomMapped<'_, I, O, M> {
    /// Maps the elements of `span` from `at` on.
    ///
    /// # Safety
    /// They are elements of the run.
    #[inline(always)]
    unsafe fn map<S: Simd>(&self, s: S, at: usize, span: impl Span, random: S::I) {
        // SAFETY: `for_each_run` made the pointers valid for the run; the caller's promise.
        unsafe {
            let x = I::load(s, &self.run.inputs, at, span);
            O::store(s, &self.run.outputs, at, span, self.map.map(s, x, random));
        }
    }
}

impl<I: Elements, O: Elements, M: RandomMap<I, O>> Kernel for RandomMapped<'_, I, O, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Philox makes the numbers of `group` elements at a time, at multiples of `group`.
        let (n, group) = (self.run.n, 4 * S::LANES);
        let mut at = 0;
        while at < n {
            let index = self.first + at as u64;
            let phase = (index % group as u64) as usize;
            let blocks = philox::blocks(s, self.key, index - phase as u64);
            let random = philox::in_order(s, self.map.draw(s, blocks));
            if phase == 0 && n - at >= group {
                for (k, random) in random.into_iter().enumerate() {
                    // SAFETY: at + group <= n.
                    unsafe { self.map(s, at + k * S::LANES, Whole, random) };
                }
                at += group;
                continue;
            }
            let mut buffer = [0i32; 5 * MOST_LANES];
            for (k, random) in random.into_iter().enumerate() {
                // SAFETY: the buffer holds the four vectors, and one more to read past their end.
                unsafe { s.store_i(buffer.as_mut_ptr().add(k * S::LANES), random) };
            }
            let len = (n - at).min(group - phase);
            each_vector!(S, len, |from, span| {
                // SAFETY: phase + from < group, and from + the covered lanes <= len.
                unsafe { self.map(s, at + from, span, s.load_i(buffer.as_ptr().add(phase + from))) };
            });
            at += len;
        }
    }
}
