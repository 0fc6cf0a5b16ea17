//! Embedding.

use super::submit;
use crate::argument::{Flag, Live, Optional};
use crate::tensor::TensorView;
use scalert_runtime::Stream;
use scalert_runtime::ops::embedding::{EmbeddingBackward, EmbeddingForward};

export! {
    /// y = `token_table[tokens]` + position_table.
    fn scalert_embedding_forward(
        stream: Live<Stream>,
        tokens: TensorView,
        token_table: TensorView,
        position_table: Optional<TensorView>,
        y: TensorView,
    ) {
        submit(stream, &EmbeddingForward { tokens, token_table, position_table, y })
    }

    /// Gradients of the tables.
    fn scalert_embedding_backward(
        stream: Live<Stream>,
        tokens: TensorView,
        dy: TensorView,
        accumulate: Flag,
        dtoken_table: TensorView,
        dposition_table: Optional<TensorView>,
    ) {
        submit(stream, &EmbeddingBackward { tokens, dy, accumulate, dtoken_table, dposition_table })
    }
}
