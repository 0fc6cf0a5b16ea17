//! Element-wise operations over the layouts that decide how a device reads them: rows whose every address is aligned,
//! with and without a short end, leading dimensions out of order, and more elements than one turn of a grid.

use crate::harness::*;
use scalert_kernels::dtype::DType;
use scalert_kernels::exact_sum::WORDS;
use scalert_kernels::ops::accumulate::Accumulate;
use scalert_kernels::ops::add::Add;
use scalert_kernels::ops::cast::{Cast, Rounding};
use scalert_kernels::ops::dropout::Dropout;
use scalert_kernels::ops::exact_sum::ExactSum;
use scalert_kernels::ops::fill::Fill;
use scalert_kernels::ops::random::{Distribution, Random};
use scalert_kernels::ops::scale::Scale;
use scalert_kernels::philox::Key;
use scalert_kernels::view::View;

const KEY: Key = Key { seed: 3, step: 5, tensor: 7 };

/// A contiguous tensor's shape, and the order in which a view takes its dimensions, with this many of the elements of
/// its rows.
struct Layout {
    shape: &'static [usize],
    order: &'static [usize],
    width: usize,
}

const SHORT: [Layout; 6] = [
    Layout { shape: &[5, 136], order: &[0, 1], width: 136 },
    Layout { shape: &[9, 136], order: &[0, 1], width: 133 },
    Layout { shape: &[7, 520], order: &[0, 1], width: 512 },
    Layout { shape: &[3, 4, 2, 48], order: &[1, 2, 0, 3], width: 48 },
    Layout { shape: &[3, 4, 5, 264], order: &[2, 0, 1, 3], width: 256 },
    Layout { shape: &[2, 3, 4, 2, 20], order: &[3, 1, 0, 2, 4], width: 19 },
];

impl Layout {
    fn tensor(&self, dtype: DType) -> Tensor {
        Tensor::new(dtype, self.shape)
    }

    /// `tensor`, which [`Layout::tensor`] made, as this layout says.
    fn view<'a>(&self, tensor: &'a Tensor) -> View<'a> {
        let whole = tensor.view();
        let mut shape: Vec<usize> = self.order.iter().map(|d| self.shape[*d]).collect();
        let stride: Vec<usize> = self.order.iter().map(|d| whole.stride()[*d]).collect();
        *shape.last_mut().unwrap() = self.width;
        // SAFETY: elements of the tensor.
        unsafe { View::new("tensor", whole.data(), whole.dtype(), &shape, &stride) }.unwrap()
    }
}

/// All operations on one layout; every target gives the same bits of the elements and of what lies between them.
fn all_operations(layout: &Layout, dtype: DType) {
    let mut rng = Rng(1);
    let mut input = || layout.tensor(dtype).normal(&mut rng, 1.0);
    let (a, b) = (input(), input());
    let sum = layout.tensor(DType::F32).normal(&mut Rng(2), 1.0);
    let words = |n: usize| Tensor::new(DType::I64, &[n]).fill(|_| 0.0);
    run_identically(|target, threads| {
        let clean = |dtype| layout.tensor(dtype).fill(|_| 0.0);
        let (filled, scaled, added, dropped, random) =
            (clean(dtype), clean(dtype), a.clone(), clean(dtype), clean(dtype));
        run_with(&Fill { value: 1.5, y: layout.view(&filled) }, target, threads);
        run_with(&Scale { alpha: -0.3, x: layout.view(&a), y: layout.view(&scaled) }, target, threads);
        let y = layout.view(&added);
        run_with(&Add { a: y, b: layout.view(&b), y }, target, threads);
        let (x, y) = (layout.view(&a), layout.view(&dropped));
        run_with(&Dropout { x, probability: 0.4, key: KEY, first_index: 8, y }, target, threads);
        let distribution = Distribution::Normal { mean: 1.0, deviation: 2.0 };
        let y = layout.view(&random);
        run_with(&Random { key: KEY, first_index: 4, distribution, y }, target, threads);
        let mut outputs = vec![filled, scaled, added, dropped, random];
        for to in DType::FLOATS {
            for rounding in [Rounding::NearestEven, Rounding::Stochastic { key: KEY, first_index: 0 }] {
                let cast = clean(to);
                run_with(&Cast { x: layout.view(&a), rounding, y: layout.view(&cast) }, target, threads);
                outputs.push(cast);
            }
        }
        for square in [false, true] {
            let accumulator = words(WORDS);
            let op = ExactSum { x: layout.view(&a), square, accumulator: accumulator.view() };
            run_with(&op, target, threads);
            let (y, nonfinite, squares) = (sum.clone(), words(1), words(WORDS));
            let square_sum = square.then(|| squares.view());
            let (x, y_view) = (layout.view(&a), layout.view(&y));
            let op = Accumulate {
                x,
                overwrite: square,
                y: y_view,
                nonfinite: nonfinite.view(),
                square_sum,
                overflow: None,
                overflow_mark: 0,
            };
            run_with(&op, target, threads);
            outputs.extend([accumulator, y, nonfinite, squares]);
        }
        outputs
    });
}

#[test]
fn aligned_rows_and_dimensions_out_of_order() {
    for dtype in DType::FLOATS {
        SHORT.iter().for_each(|layout| all_operations(layout, dtype));
    }
}

#[test]
fn more_elements_than_a_grid_takes_at_a_time() {
    // A thread takes four packs of 4 elements at a time where the grid, which has 64 blocks of 256 threads on the 4
    // multiprocessors of the emulated device, takes fewer than are there.
    all_operations(&Layout { shape: &[3, 100_008], order: &[0, 1], width: 100_004 }, DType::F32);
}
