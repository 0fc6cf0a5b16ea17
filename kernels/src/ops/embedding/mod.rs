//! Token and position embedding, and its gradients.
//!
//! y[.., i, :] = token_table[tokens[.., i], :] + position_table[i, :].
//! dtoken_table[w, :] = sum of dy over the places of token w; dposition_table[i, :] = sum of dy at position i over the
//! leading dimensions. Rows without a token, and positions from t on, get 0, or stay as they are when accumulating.
//!
//! Shapes: tokens [.., t] i32, 1 to 4 dimensions; token_table [v, c], position_table [p, c], p >= t, y and dy [.., t, c]
//! of one float dtype; dtoken_table [v, c] and dposition_table [p, c] of dy's dtype or f32. Contiguous rows.
//!
//! Tolerance: y is the sum of the elements in f32, rounded to nearest even: no tolerance; without positions a copy.
//! Gradients within 2 epsilon(dtype) of themselves plus n epsilon(f32) times the sum of the magnitudes of their n
//! summands. Summed in f32 in the order of the tokens, so the bits do not depend on threads; on a device in parts that
//! depend on the tokens only.
//!
//! On a CUDA device, where tokens are not checked beforehand, the row of y of a token outside the table is NaN, and its
//! row of dy reaches the positions' gradient only.

mod cpu;
mod cuda;
pub mod reference;

use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu, Properties};
use crate::dtype::DType;
use crate::ops::Op;
use crate::view::{Invalid, View};

/// y = rows of the tables.
#[derive(Clone, Copy)]
pub struct EmbeddingForward<'a> {
    /// Token ids [.., t], from 0 to v - 1.
    pub tokens: View<'a>,
    /// Embeddings of the tokens [v, c].
    pub token_table: View<'a>,
    /// Embeddings of the positions [p, c], p >= t; none is 0.
    pub position_table: Option<View<'a>>,
    /// Output [.., t, c].
    pub y: View<'a>,
}

/// Gradients of [`EmbeddingForward`].
#[derive(Clone, Copy)]
pub struct EmbeddingBackward<'a> {
    /// As in the forward pass.
    pub tokens: View<'a>,
    /// Gradient of the output [.., t, c].
    pub dy: View<'a>,
    /// Gradient of the token table [v, c], of dy's dtype or f32.
    pub dtoken_table: View<'a>,
    /// Gradient of the position table [p, c], of dy's dtype or f32.
    pub dposition_table: Option<View<'a>>,
    /// Whether the gradients are added to what is there.
    pub accumulate: bool,
}

fn check_tokens(tokens: &View<'_>) -> Result<(), Invalid> {
    tokens.expect_dtype("tokens", &[DType::I32])?;
    tokens.expect_ndim("tokens", 1, 4)?;
    tokens.expect_rows("tokens")?;
    if u32::try_from(tokens.numel()).is_ok() {
        return Ok(());
    }
    Err(Invalid::new("tokens", format!("{} tokens must be fewer than 2^32", tokens.numel())))
}

/// Requires the shape of the tokens with the embedding's width behind it: of y or dy.
fn check_places(argument: &'static str, view: &View<'_>, tokens: &View<'_>) -> Result<(), Invalid> {
    view.expect_ndim(argument, tokens.ndim() + 1, tokens.ndim() + 1)?;
    let shape = [tokens.shape(), &[view.width()]].concat();
    view.expect_shape(argument, &shape, "the shape of tokens and a width")
}

/// Requires a table of `width` columns.
fn check_table(argument: &'static str, table: &View<'_>, width: usize, of: &str) -> Result<(), Invalid> {
    table.expect_ndim(argument, 2, 2)?;
    table.expect_shape(argument, &[table.shape()[0], width], format_args!("rows of the width of {of}"))
}

/// Requires a row for each position.
fn check_positions(argument: &'static str, table: &View<'_>, tokens: &View<'_>) -> Result<(), Invalid> {
    let (rows, t) = (table.shape()[0], tokens.width());
    if rows >= t {
        return Ok(());
    }
    Err(Invalid::new(argument, format!("{rows} rows must be at least {t}, the last dimension of tokens")))
}

/// Refuses a token outside 0..vocabulary.
fn check_range(tokens: &View<'_>, vocabulary: usize) -> Result<(), Invalid> {
    for i in 0..tokens.numel() {
        // SAFETY: tokens is a valid i32 view with more than i elements.
        let token = unsafe { tokens.element_ptr::<i32>(i).read() };
        if usize::try_from(token).map_or(true, |token| token >= vocabulary) {
            let message =
                format!("token {token} at index {i} must be from 0 to {vocabulary} - 1, the rows of the table");
            return Err(Invalid::new("tokens", message));
        }
    }
    Ok(())
}

impl Op for EmbeddingForward<'_> {
    const NAME: &'static str = "embedding_forward";

    views!(tokens, token_table, y; position_table);

    fn check(&self) -> Result<(), Invalid> {
        check_tokens(&self.tokens)?;
        self.token_table.expect_dtype("token_table", &DType::FLOATS)?;
        self.token_table.expect_ndim("token_table", 2, 2)?;
        self.token_table.expect_rows("token_table")?;
        let dtype = [self.token_table.dtype()];
        if let Some(table) = &self.position_table {
            table.expect_dtype("position_table", &dtype)?;
            check_table("position_table", table, self.token_table.width(), "token_table")?;
            table.expect_rows("position_table")?;
            check_positions("position_table", table, &self.tokens)?;
        }
        self.y.expect_dtype("y", &dtype)?;
        let shape = [self.tokens.shape(), &[self.token_table.width()]].concat();
        self.y.expect_shape("y", &shape, "the shape of tokens and the width of token_table")?;
        self.y.expect_writable_rows("y")?;
        self.y.expect_apart_from(
            "y",
            &[
                ("tokens", Some(self.tokens)),
                ("token_table", Some(self.token_table)),
                ("position_table", self.position_table),
            ],
        )
    }

    fn check_elements(&self) -> Result<(), Invalid> {
        check_range(&self.tokens, self.token_table.shape()[0])
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::forward(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::forward(self, gpu)
    }
}

impl Op for EmbeddingBackward<'_> {
    const NAME: &'static str = "embedding_backward";

    views!(tokens, dy, dtoken_table; dposition_table);

    fn check(&self) -> Result<(), Invalid> {
        check_tokens(&self.tokens)?;
        self.dy.expect_dtype("dy", &DType::FLOATS)?;
        check_places("dy", &self.dy, &self.tokens)?;
        self.dy.expect_rows("dy")?;
        let mut others = [("tokens", Some(self.tokens)), ("dy", Some(self.dy)), ("dtoken_table", None)];
        for (name, table) in [("dtoken_table", Some(self.dtoken_table)), ("dposition_table", self.dposition_table)] {
            let Some(table) = table else { continue };
            table.expect_dtype(name, &[DType::F32, self.dy.dtype()])?;
            check_table(name, &table, self.dy.width(), "dy")?;
            if name == "dposition_table" {
                check_positions(name, &table, &self.tokens)?;
            }
            table.expect_writable_rows(name)?;
            table.expect_apart_from(name, &others)?;
            others[2].1 = Some(self.dtoken_table);
        }
        Ok(())
    }

    fn check_elements(&self) -> Result<(), Invalid> {
        check_range(&self.tokens, self.dtoken_table.shape()[0])
    }

    fn workspace(&self, _workers: usize) -> usize {
        cpu::backward_workspace(self)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::backward(self, cpu);
    }

    fn cuda_workspace(&self, _properties: &Properties) -> usize {
        cuda::backward_workspace(self)
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::backward(self, gpu)
    }
}
