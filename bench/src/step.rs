//! The step of a training state as a host takes it: the gradients of many tensors, their norm, and one launch of the
//! optimizer for all of them.

use crate::buffer::Buffer;
use crate::cases::{Cases, MILLION, add, memory};
use crate::ceiling::Traffic;
use scalert_runtime::{DType, GroupDesc, State, StateDesc, StepDesc, Stream, View};
use std::ffi::CString;

const TENSORS: usize = 200;

/// A state of one group of AdamW, sealed: bf16 weights, `elements` in each of [`TENSORS`] parameters.
fn state(stream: &Stream, elements: usize) -> State {
    let state = State::new(stream.runtime(), &StateDesc::default()).expect("the default state");
    let group = state.add_group(&GroupDesc { weight_decay: 0.01, ..GroupDesc::default() }).expect("a valid group");
    for i in 0..TENSORS {
        let name = CString::new(format!("tensor{i}")).expect("no NUL");
        state.add_parameter(group, &name, &[elements as i64]).expect("a valid parameter");
    }
    state.seal().expect("the case fits the device");
    state
}

fn step(state: &State, stream: &Stream, gradients: &[View<'_>]) {
    state.begin_step().expect("no step is begun");
    state.begin_micro().expect("a step is begun");
    for (parameter, gradient) in (0..).zip(gradients) {
        state.gradient_ready(stream, parameter, *gradient, None).expect("a valid gradient");
    }
    state.end_micro().expect("every parameter has its gradient");
    let desc = StepDesc { learning_rate: 1e-3, max_norm: 1.0, ..StepDesc::default() };
    state.step(stream, &desc).expect("a valid step");
}

/// AdamW with clipping over `millions` of parameters.
pub(crate) fn steps(cases: &mut Cases, millions: usize) {
    add(cases, format!("step adamw bf16 {millions}M in {TENSORS} tensors"), move |stream, name| {
        let n = millions * MILLION;
        let state = state(stream, n / TENSORS);
        let gradient = Buffer::filled(stream, DType::BF16, &[TENSORS, n / TENSORS], 1e-3);
        let gradients: Vec<_> = (0..TENSORS).map(|i| gradient.row(i)).collect();
        // Gradients become f32 sums, which the norm reads before the optimizer can.
        let traffic = Traffic { update: vec![4 * n; 3], read: vec![2 * n, 4 * n, 4 * n], write: vec![4 * n, 2 * n] };
        memory(stream, name, traffic, vec![gradient], vec![Box::new(move |stream| step(&state, stream, &gradients))])
    });
}
