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
    pub(super) c: Target,
    pub(super) pre_activation: Option<Target>,
}

impl Epilogue {
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

impl<T: Element> Kernel for Store<T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.epilogue.activation {
            Activation::None => self.rows(s, |product, _| product, |x, _| x),
            Activation::GeluTanh => self.forward(s, GeluKind::Tanh),
            Activation::GeluExact => self.forward(s, GeluKind::Exact),
            Activation::GeluTanhBackward => self.backward(s, GeluKind::Tanh),
            Activation::GeluExactBackward => self.backward(s, GeluKind::Exact),
        }
    }
}

impl<T: Element> Store<T> {
    #[inline(always)]
    fn forward<S: Simd>(&self, s: S, kind: GeluKind) {
        self.rows(
            s,
            |product, _| product,
            |x, pre_activation| {
                if let Some((p, n)) = pre_activation {
                    // SAFETY: `rows` passes elements of the rectangle.
                    unsafe { T::store_up_to(s, p, x, n) };
                }
                gelu(s, kind, x)
            },
        );
    }

    #[inline(always)]
    fn backward<S: Simd>(&self, s: S, kind: GeluKind) {
        self.rows(
            s,
            |product, pre_activation| match pre_activation {
                // SAFETY: `rows` passes elements of the rectangle.
                Some((p, n)) => s.mul(product, gelu_gradient(s, kind, unsafe { T::load_up_to(s, p, n) })),
                None => product,
            },
            |x, _| x,
        );
    }

    /// Stores every row: `finish(first(alpha sum) + beta c + bias)`. Both functions are also given where the
    /// pre-activations are, if there are any, and how many (more than LANES are LANES).
    #[inline(always)]
    fn rows<S: Simd>(
        &self,
        s: S,
        first: impl Fn(S::F, Option<(*mut T, usize)>) -> S::F,
        finish: impl Fn(S::F, Option<(*mut T, usize)>) -> S::F,
    ) {
        let e = &self.epilogue;
        let Geometry { rows: tile_rows, columns: tile_columns, .. } = e.geometry;
        let tiles = e.columns.div_ceil(tile_columns);
        let (alpha, beta) = (s.splat(e.alpha), s.splat(e.beta));
        for row in 0..e.rows {
            // SAFETY: the sums hold whole tiles; only the rectangle of c and pre_activation is touched.
            unsafe {
                let row_of = |target: Target| target.data.cast::<T>().add(row * target.stride);
                let sums = e.sums.add((row / tile_rows * tiles * tile_rows + row % tile_rows) * tile_columns);
                let c = row_of(e.c);
                let pre_activation = e.pre_activation.map(row_of);
                for column in (0..e.columns).step_by(S::LANES) {
                    let n = e.columns - column;
                    let c = c.add(column);
                    let pre_activation = pre_activation.map(|p| (p.add(column), n));
                    let tile = column / tile_columns * (tile_rows - 1) * tile_columns;
                    let mut x = first(s.mul(alpha, s.load(sums.add(tile + column))), pre_activation);
                    if e.beta != 0.0 {
                        x = s.fast_fma(beta, T::load_up_to(s, c, n), x);
                    }
                    if let Some(bias) = e.bias {
                        x = s.add(x, s.load(bias.add(column)));
                    }
                    T::store_up_to(s, c, finish(x, pre_activation), n);
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
