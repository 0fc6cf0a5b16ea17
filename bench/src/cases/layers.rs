//! What else a layer of a model needs, from its tokens to the gradients of its biases.

use super::{Cases, Sizes, add, call, memory, reads_writes};
use crate::buffer::Buffer;
use crate::ceiling::Traffic;
use scalert_runtime::DType::{BF16, F32, I32};
use scalert_runtime::Stream;
use scalert_runtime::ops::bias_gradient::BiasGradient;
use scalert_runtime::ops::dropout::Dropout;
use scalert_runtime::ops::embedding::{EmbeddingBackward, EmbeddingForward};
use scalert_runtime::ops::rotary::{Rotary, RotaryLayout};
use scalert_runtime::philox::Key;

const VOCABULARY: usize = 50257;

/// Token ids, spread over the vocabulary.
fn tokens(stream: &Stream, rows: usize) -> Buffer {
    let ids: Vec<i32> = (0..rows).map(|i| (i * 7919 % VOCABULARY) as i32).collect();
    let tokens = Buffer::zeros(stream, I32, &[rows]);
    // SAFETY: both are as long, and the vector outlives the wait.
    unsafe { stream.copy(tokens.view().data(), ids.as_ptr().cast(), tokens.bytes()) }.expect("both are reachable");
    stream.wait().expect("the copy succeeds");
    tokens
}

pub(super) fn add_all(cases: &mut Cases, sizes: &Sizes) {
    let (rows, width) = (sizes.activation[0], 768);
    add(cases, format!("embedding forward bf16 {rows}x{width} of {VOCABULARY}"), move |stream, name| {
        let (ids, table) = (tokens(stream, rows), Buffer::filled(stream, BF16, &[VOCABULARY, width], 1.0));
        let y = Buffer::zeros(stream, BF16, &[rows, width]);
        let op = EmbeddingForward { tokens: ids.view(), token_table: table.view(), position_table: None, y: y.view() };
        let traffic = Traffic { update: Vec::new(), read: vec![y.bytes()], write: vec![y.bytes()] };
        memory(stream, name, traffic, vec![ids, table, y], vec![call(op)])
    });
    add(cases, format!("embedding backward bf16 {rows}x{width} of {VOCABULARY}"), move |stream, name| {
        let (ids, dtable) = (tokens(stream, rows), Buffer::zeros(stream, F32, &[VOCABULARY, width]));
        let dy = Buffer::filled(stream, BF16, &[rows, width], 1.0);
        let op = EmbeddingBackward {
            tokens: ids.view(),
            dy: dy.view(),
            dtoken_table: dtable.view(),
            dposition_table: None,
            accumulate: true,
        };
        let traffic = Traffic { update: vec![2 * dy.bytes()], read: vec![dy.bytes()], write: Vec::new() };
        memory(stream, name, traffic, vec![ids, dtable, dy], vec![call(op)])
    });
    let [rows, width] = sizes.activation;
    add(cases, format!("bias gradient bf16 {rows}x{width}"), move |stream, name| {
        let (dy, dbias) = (Buffer::filled(stream, BF16, &[rows, width], 1.0), Buffer::zeros(stream, F32, &[width]));
        let op = BiasGradient { dy: dy.view(), dbias: dbias.view(), accumulate: false };
        memory(stream, name, reads_writes(&[&dy], &[]), vec![dy, dbias], vec![call(op)])
    });
    add(cases, format!("dropout bf16 {rows}x{width}"), move |stream, name| {
        let (x, y) = (Buffer::filled(stream, BF16, &[rows, width], 1.0), Buffer::zeros(stream, BF16, &[rows, width]));
        let key = Key { seed: 1, step: 0, tensor: 0 };
        let op = Dropout { x: x.view(), probability: 0.1, key, first_index: 0, y: y.view() };
        memory(stream, name, reads_writes(&[&x], &[&y]), vec![x, y], vec![call(op)])
    });
    add(cases, "rotary bf16 B4 T1024 12x64".into(), move |stream, name| {
        let shape = [4, 1024, 12, 64];
        let (x, y) = (Buffer::filled(stream, BF16, &shape, 1.0), Buffer::zeros(stream, BF16, &shape));
        let op = Rotary {
            x: x.view(),
            positions: None,
            base: 10000.0,
            layout: RotaryLayout::Halves,
            inverse: false,
            y: y.view(),
        };
        memory(stream, name, reads_writes(&[&x], &[&y]), vec![x, y], vec![call(op)])
    });
}
