//! The product as plain matrices: strides in place of views, and as few batch dimensions as the strides allow.

use super::{Gemm, matrix};
use crate::backend::cuda::DevicePointer;
use crate::view::{MAX_DIMS, View};

/// Dimensions before the last two.
pub(super) const BATCH_DIMS: usize = MAX_DIMS - 2;

/// A matrix of the batch: where it starts and how its rows and the batch are spaced, in elements.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub(super) data: *mut u8,
    pub(super) size: usize,
    pub(super) row_stride: usize,
    pub(super) batch_stride: [usize; BATCH_DIMS],
}

impl Matrix {
    /// With the strides of leading dimensions aligned to those of c, and 0 where the matrix is used again.
    fn new(view: &View<'_>) -> Matrix {
        let lead = view.ndim() - 2;
        let mut batch_stride = [0; BATCH_DIMS];
        for d in 0..lead {
            if view.shape()[d] != 1 {
                batch_stride[BATCH_DIMS - lead + d] = view.stride()[d];
            }
        }
        Matrix { data: view.data(), size: view.dtype().size(), row_stride: view.stride()[lead], batch_stride }
    }

    /// Address of the element at `row` and `column` of one matrix of the batch. (wrapping: with k = 0 the operands have
    /// no memory to stay in.)
    pub(super) fn at(&self, batch: [usize; BATCH_DIMS], row: usize, column: usize) -> *mut u8 {
        let lead: usize = batch.iter().zip(self.batch_stride).map(|(i, stride)| i * stride).sum();
        self.data.wrapping_add((lead + row * self.row_stride + column) * self.size)
    }

    /// Whether the innermost leading dimension, of `extent`, continues the `rows` of one matrix.
    fn continues(&self, rows: usize, extent: usize) -> bool {
        extent == 1 || rows == 1 || self.batch_stride[BATCH_DIMS - 1] == rows * self.row_stride
    }

    /// Drops the innermost leading dimension, whose extent has become part of the rows.
    fn drop_innermost(&mut self, rows: usize, extent: usize) {
        if rows == 1 && extent > 1 {
            self.row_stride = self.batch_stride[BATCH_DIMS - 1];
        }
        self.batch_stride.rotate_right(1);
        self.batch_stride[0] = 0;
    }
}

/// The product as a batch of plain matrices.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) batch: [usize; BATCH_DIMS],
    pub(super) a: Matrix,
    pub(super) b: Matrix,
    pub(super) c: Matrix,
    pub(super) pre_activation: Option<Matrix>,
    /// Where the device finds alpha, and a beta after it, in place of the operation's; 0: nowhere.
    pub(super) factors: DevicePointer,
}

impl Product {
    pub(super) fn new(gemm: &Gemm<'_>) -> Product {
        let (m, k) = matrix(&gemm.a, gemm.transpose_a);
        let (_, n) = matrix(&gemm.c, false);
        let lead = gemm.c.ndim() - 2;
        let mut batch = [1; BATCH_DIMS];
        batch[BATCH_DIMS - lead..].copy_from_slice(&gemm.c.shape()[..lead]);
        let (a, b, c) = (Matrix::new(&gemm.a), Matrix::new(&gemm.b), Matrix::new(&gemm.c));
        let pre_activation = gemm.pre_activation.as_ref().map(Matrix::new);
        let mut product = Product { m, n, k, batch, a, b, c, pre_activation, factors: 0 };
        product.merge_batch_into_rows(gemm.transpose_a);
        product
    }

    /// A batch that shares b and whose rows follow each other is one matrix with more rows.
    fn merge_batch_into_rows(&mut self, transpose_a: bool) {
        for _ in 0..BATCH_DIMS {
            let extent = self.batch[BATCH_DIMS - 1];
            let one_b = self.b.batch_stride[BATCH_DIMS - 1] == 0 && !transpose_a;
            let rows_follow = [Some(&self.a), Some(&self.c), self.pre_activation.as_ref()]
                .into_iter()
                .flatten()
                .all(|matrix| matrix.continues(self.m, extent));
            if extent != 1 && !(one_b && rows_follow) {
                return;
            }
            for matrix in [Some(&mut self.a), Some(&mut self.c), self.pre_activation.as_mut()].into_iter().flatten() {
                matrix.drop_innermost(self.m, extent);
            }
            self.b.drop_innermost(1, 1);
            self.m *= extent;
            self.batch.rotate_right(1);
            self.batch[0] = 1;
        }
    }

    /// Rows from `first` on, `rows` of them, of one matrix of the batch.
    pub(super) fn part(&self, gemm: &Gemm<'_>, batch: [usize; BATCH_DIMS], first: usize, rows: usize) -> Product {
        let one = |matrix: &Matrix, row: usize, column: usize| Matrix {
            data: matrix.at(batch, row, column),
            batch_stride: [0; BATCH_DIMS],
            ..*matrix
        };
        let (a_row, a_column) = if gemm.transpose_a { (0, first) } else { (first, 0) };
        Product {
            m: rows,
            batch: [1; BATCH_DIMS],
            a: one(&self.a, a_row, a_column),
            b: one(&self.b, 0, 0),
            c: one(&self.c, first, 0),
            pre_activation: self.pre_activation.as_ref().map(|matrix| one(matrix, first, 0)),
            ..*self
        }
    }

    pub(super) fn batches(&self) -> usize {
        self.batch.iter().product()
    }

    pub(super) fn batch_index(&self, mut batch: usize) -> [usize; BATCH_DIMS] {
        let mut index = [0; BATCH_DIMS];
        for d in (0..BATCH_DIMS).rev() {
            index[d] = batch % self.batch[d];
            batch /= self.batch[d];
        }
        index
    }
}
