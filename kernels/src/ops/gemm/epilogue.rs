//! From sums to c: factors, bias, activation, and the one rounding.

use super::Activation;
use super::multiply::Geometry;
use crate::backend::cpu::{Cpu, Element, Kernel, Simd};
use crate::dtype::DType;
use crate::ops::gelu::GeluKind;
use crate::ops::gelu::cpu::{gelu, gelu_gradient};
use crate::view::View;
use crate::with_float;
use std::marker::PhantomData;
use std::ops::Range;

/// Where a rectangle of a matrix lies.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// Its first element.
    pub(super) data: *mut u8,
    /// Elements from row to row.
    pub(super) stride: usize,
}

/// Stores a rectangle of sums.
#[derive(Clone, Copy)]
pub(super) struct Epilogue {
    /// The sums, as [`super::multiply::Multiply`] leaves them.
    pub(super) sums: *const f32,
    pub(super) geometry: Geometry,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) alpha: f32,
    pub(super) beta: f32,
    /// For each column, readable up to a whole vector.
    pub(super) bias: Option<*const f32>,
    pub(super) activation: Activation,
    /// Bytes of an element of c.
    pub(super) size: usize,
    pub(super) c: Target,
    pub(super) pre_activation: Option<Target>,
}

impl Epilogue {
    /// That of `rows`, from a multiple of a tile's rows on.
    pub(super) fn part(&self, rows: Range<usize>) -> Epilogue {
        let below = |target: Target, size: usize| Target {
            data: target.data.wrapping_add(rows.start * target.stride * size),
            ..target
        };
        let tiles = self.columns.div_ceil(self.geometry.columns);
        Epilogue {
            sums: self.sums.wrapping_add(rows.start * tiles * self.geometry.columns),
            rows: rows.len(),
            c: below(self.c, self.size),
            pre_activation: self.pre_activation.map(|target| below(target, self.size)),
            ..*self
        }
    }

    /// Stores to a c of `dtype`.
    ///
    /// # Safety
    /// The pointers are valid for the rectangle, and c and a written pre_activation have no other user.
    pub(super) unsafe fn store(self, dtype: DType, cpu: &Cpu<'_>) {
        with_float!(dtype, T => cpu.dispatch(Store::<T> { epilogue: self, dtype: PhantomData }));
    }
}

struct Store<T> {
    epilogue: Epilogue,
    dtype: PhantomData<T>,
}

/// Where the pre-activations of a vector of values are, and how many (more than LANES are LANES).
type Saved<T> = Option<(*mut T, usize)>;

/// What an activation does, before and after beta c and the bias are added. (A trait, not closures: those that are not
/// inlined are compiled without the level's instructions.)
trait Act {
    /// The scaled product, changed.
    ///
    /// # Safety
    /// `saved` can be read.
    #[inline(always)]
    unsafe fn product<S: Simd, T: Element>(s: S, x: S::F, saved: Saved<T>) -> S::F {
        let _ = (s, saved);
        x
    }
    /// The value, changed.
    ///
    /// # Safety
    /// `saved` can be written.
    #[inline(always)]
    unsafe fn value<S: Simd, T: Element>(s: S, x: S::F, saved: Saved<T>) -> S::F {
        let _ = (s, saved);
        x
    }
}

struct Plain;
struct Forward<const TANH: bool>;
struct Backward<const TANH: bool>;

const fn kind(tanh: bool) -> GeluKind {
    if tanh { GeluKind::Tanh } else { GeluKind::Exact }
}

impl Act for Plain {}

impl<const TANH: bool> Act for Forward<TANH> {
    #[inline(always)]
    unsafe fn value<S: Simd, T: Element>(s: S, x: S::F, saved: Saved<T>) -> S::F {
        if let Some((p, n)) = saved {
            // SAFETY: the caller's promise.
            unsafe { T::store_up_to(s, p, x, n) };
        }
        gelu::<S, T>(s, kind(TANH), x)
    }
}

impl<const TANH: bool> Act for Backward<TANH> {
    #[inline(always)]
    unsafe fn product<S: Simd, T: Element>(s: S, x: S::F, saved: Saved<T>) -> S::F {
        let Some((p, n)) = saved else { return x };
        // SAFETY: the caller's promise.
        s.mul(x, gelu_gradient::<S, T>(s, kind(TANH), unsafe { T::load_up_to(s, p, n) }))
    }
}

impl<T: Element> Kernel for Store<T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.epilogue.activation {
            Activation::None => self.rows::<S, Plain>(s),
            Activation::GeluTanh => self.rows::<S, Forward<true>>(s),
            Activation::GeluExact => self.rows::<S, Forward<false>>(s),
            Activation::GeluTanhBackward => self.rows::<S, Backward<true>>(s),
            Activation::GeluExactBackward => self.rows::<S, Backward<false>>(s),
        }
    }
}

impl<T: Element> Store<T> {
    #[inline(always)]
    fn rows<S: Simd, A: Act>(&self, s: S) {
        let e = &self.epilogue;
        let Geometry { rows: tile_rows, columns: tile_columns, .. } = e.geometry;
        let tiles = e.columns.div_ceil(tile_columns);
        let (alpha, beta) = (s.splat(e.alpha), s.splat(e.beta));
        for row in 0..e.rows {
            // SAFETY: the sums hold whole tiles; only the rectangle of c and pre_activation is touched.
            unsafe {
                let sums = e.sums.add((row / tile_rows * tiles * tile_rows + row % tile_rows) * tile_columns);
                let c = e.c.data.cast::<T>().add(row * e.c.stride);
                let saved = e.pre_activation.map(|target| target.data.cast::<T>().add(row * target.stride));
                for column in (0..e.columns).step_by(S::LANES) {
                    let n = e.columns - column;
                    let c = c.add(column);
                    let saved = saved.map(|p| (p.add(column), n));
                    let tile = column / tile_columns * (tile_rows - 1) * tile_columns;
                    let product = s.mul(alpha, s.load(sums.add(tile + column)));
                    let mut x = A::product(s, product, saved);
                    if e.beta != 0.0 {
                        x = s.fast_fma(beta, T::load_up_to(s, c, n), x);
                    }
                    if let Some(bias) = e.bias {
                        x = s.add(x, s.load(bias.add(column)));
                    }
                    T::store_up_to(s, c, A::value(s, x, saved), n);
                }
            }
        }
    }
}

/// Widens part of a vector of any float dtype.
pub(super) struct Widen<'a> {
    pub(super) view: &'a View<'a>,
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) to: *mut f32,
}

impl Kernel for Widen<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_float!(self.view.dtype(), T => for i in (0..self.count).step_by(S::LANES) {
            // SAFETY: the view has `first + count` elements, and `to` has room for whole vectors.
            unsafe {
                let from = self.view.ptr::<T>().add(self.first + i);
                s.store(self.to.add(i), T::load_up_to(s, from, self.count - i));
            }
        });
    }
}
