//! What is timed. Names are `operation dtype shape`; work is counted as the operation must do it, once.

mod calls;
mod layers;
mod ranks;

use crate::buffer::Buffer;
use crate::ceiling::{Ceiling, Traffic};
use crate::measure::{Case, Unit};
use crate::step;
use scalert_runtime::device::DeviceKind;
use scalert_runtime::ops::Op;
use scalert_runtime::ops::accumulate::Accumulate;
use scalert_runtime::ops::adamw::AdamW;
use scalert_runtime::ops::add::Add;
use scalert_runtime::ops::attention::{AttentionBackward, AttentionForward};
use scalert_runtime::ops::cast::{Cast, Rounding};
use scalert_runtime::ops::cross_entropy::CrossEntropy;
use scalert_runtime::ops::exact_sum::ExactSum;
use scalert_runtime::ops::gelu::{GeluBackward, GeluForward, GeluKind};
use scalert_runtime::ops::gemm::{Activation, Compute, Gemm, Implementation};
use scalert_runtime::ops::layer_norm::{LayerNormBackward, LayerNormForward};
use scalert_runtime::ops::linear_cross_entropy::LinearCrossEntropy;
use scalert_runtime::ops::lion::Lion;
use scalert_runtime::ops::optimizer::{Master, Moment};
use scalert_runtime::ops::rms_norm::{RmsNormBackward, RmsNormForward};
use scalert_runtime::ops::sgd::Sgd;
use scalert_runtime::ops::step_control::{Control, Restart, StepControl};
use scalert_runtime::ops::swiglu::{SwigluBackward, SwigluForward};
use scalert_runtime::view::View;
use scalert_runtime::{DType, Stream};
use std::sync::Arc;

use DType::{BF16, F16, F32, I16, I32, I64, U8};

/// Makes a case on a stream, under a name.
type Build = Box<dyn Fn(&Arc<Stream>, String) -> Case>;
/// One operation of a case.
pub(crate) type Call = Box<dyn Fn(&Stream)>;

/// A case that is built when its turn comes, so that only one holds memory.
pub(crate) struct Maker {
    /// Name of the row.
    pub(crate) name: String,
    build: Build,
}

impl Maker {
    /// Allocates and fills the case's tensors.
    pub(crate) fn build(&self, stream: &Arc<Stream>) -> Case {
        (self.build)(stream, self.name.clone())
    }
}

/// All of them.
pub(crate) type Cases = Vec<Maker>;

/// Adds a case, which `build` makes when its turn comes.
pub(crate) fn add(cases: &mut Cases, name: String, build: impl Fn(&Arc<Stream>, String) -> Case + 'static) {
    cases.push(Maker { name, build: Box::new(build) });
}

/// A case bounded by memory: its figure is the bytes of `traffic` over time.
pub(crate) fn memory(
    stream: &Arc<Stream>,
    name: String,
    traffic: Traffic,
    buffers: Vec<Buffer>,
    ops: Vec<Call>,
) -> Case {
    let (stream, work) = (Arc::clone(stream), traffic.bytes() as f64);
    let run = Box::new(move || {
        let _keep = &buffers;
        ops.iter().for_each(|op| op(&stream));
    });
    Case { name, unit: Unit::Bytes, work, bytes: work, ceiling: Some(Ceiling::Traffic(traffic)), run }
}

/// A case bounded by arithmetic: its figure is `flops` over time; each buffer crosses the memory bus once.
fn arithmetic(
    stream: &Arc<Stream>,
    name: String,
    (flops, ceiling): (f64, Ceiling),
    buffers: Vec<Buffer>,
    ops: Vec<Call>,
) -> Case {
    let (stream, bytes) = (Arc::clone(stream), buffers.iter().map(Buffer::bytes).sum::<usize>() as f64);
    let run = Box::new(move || {
        let _keep = &buffers;
        ops.iter().for_each(|op| op(&stream));
    });
    Case { name, unit: Unit::Operations, work: flops, bytes, ceiling: Some(ceiling), run }
}

fn call<O: Op + 'static>(op: O) -> Call {
    Box::new(move |stream| stream.submit(&op).expect("a valid case"))
}

fn reads_writes(reads: &[&Buffer], writes: &[&Buffer]) -> Traffic {
    let bytes = |b: &[&Buffer]| b.iter().map(|b| b.bytes()).collect();
    Traffic { update: Vec::new(), read: bytes(reads), write: bytes(writes) }
}

/// Every case, at sizes that outgrow the device's caches.
pub(crate) fn all(sizes: &Sizes) -> Cases {
    let mut cases = Vec::new();
    optimizers(&mut cases, sizes);
    step::steps(&mut cases, sizes.optimizer.0);
    streams(&mut cases, sizes.stream);
    norms(&mut cases, sizes);
    activations(&mut cases, sizes.activation);
    layers::add_all(&mut cases, sizes);
    losses(&mut cases, sizes);
    gemms(&mut cases, sizes);
    attentions(&mut cases, sizes);
    if sizes.calls {
        calls::add_all(&mut cases);
        ranks::add_all(&mut cases);
    }
    cases
}

/// Elements are counted in these.
pub(crate) const MILLION: usize = 1_000_000;

/// A matrix product: m, k, n, transpose a, transpose b.
type Product = (usize, usize, usize, bool, bool);
/// An attention: batch, time, heads, head width.
type Heads = (usize, usize, usize, usize);

/// How large the cases are.
pub(crate) struct Sizes {
    /// Parameters of AdamW, and of the other optimizers, in millions.
    optimizer: (usize, usize),
    /// Millions of elements of a long vector.
    stream: usize,
    /// Rows and widths.
    norm: &'static [(usize, usize)],
    activation: [usize; 2],
    /// Rows of a cross-entropy, and of one fused with its linear layer.
    loss: (usize, usize),
    gemm: &'static [Product],
    attention: &'static [(Heads, DType)],
    /// Whose kernels, where there is a choice.
    implementation: &'static [Implementation],
    /// Whether calls that compute nothing and ranks on the CPU are timed; they say nothing about a device.
    calls: bool,
}

impl Sizes {
    pub(crate) const CPU: Sizes = Sizes {
        optimizer: (100, 32),
        stream: 64,
        norm: &[(4096, 768), (4096, 8192)],
        activation: [4096, 3072],
        loss: (4096, 1024),
        // A square, a layer of GPT-2 with its two gradients, its LM head.
        gemm: &[
            (2048, 2048, 2048, false, false),
            (1024, 768, 3072, false, true),
            (1024, 3072, 768, false, false),
            (3072, 1024, 768, true, false),
            (1024, 768, 50304, false, true),
        ],
        attention: &[
            ((4, 1024, 12, 64), BF16),
            ((4, 1024, 12, 64), F16),
            ((8, 256, 6, 64), BF16),
            ((8, 256, 6, 64), F32),
        ],
        implementation: &[Implementation::Auto],
        calls: true,
    };

    pub(crate) const CUDA: Sizes = Sizes {
        optimizer: (1000, 1000),
        stream: 1000,
        norm: &[(16384, 4096), (16384, 768)],
        activation: [16384, 4096],
        loss: (16384, 8192),
        gemm: &[
            (8192, 8192, 8192, false, false),
            (4096, 4096, 4096, false, true),
            (8192, 768, 3072, false, true),
            (8192, 3072, 768, false, false),
            (3072, 8192, 768, true, false),
            (8192, 768, 50304, false, true),
        ],
        attention: &[((4, 4096, 16, 128), BF16), ((1, 16384, 16, 128), BF16), ((8, 1024, 12, 64), BF16)],
        implementation: &[Implementation::Auto, Implementation::Own],
        calls: false,
    };
}

/// AdamW in some format of its state.
fn adamw<'a>(gradient: View<'a>, master: Master<'a>, [moment1, moment2]: [Moment<'a>; 2]) -> AdamW<'a> {
    AdamW {
        gradient,
        gradient_scale: 1.0,
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        bias_correction1: 0.5,
        bias_correction2: 0.5,
        master,
        moment1,
        moment2,
        random: None,
        control: None,
    }
}

fn optimizers(cases: &mut Cases, sizes: &Sizes) {
    let (most, less) = sizes.optimizer;
    let state = |stream: &Stream, n| {
        (
            Buffer::filled(stream, BF16, &[n], 1e-3),
            Buffer::filled(stream, F32, &[n], 1.0),
            Buffer::zeros(stream, BF16, &[n]),
        )
    };
    add(cases, format!("adamw bf16 {most}M"), move |stream, name| {
        let n = most * MILLION;
        let ((gradient, master, weight), moment1, moment2) =
            (state(stream, n), Buffer::zeros(stream, F32, &[n]), Buffer::zeros(stream, F32, &[n]));
        let f32s = Master::F32 { master: master.view(), weight: Some(weight.view()) };
        let op = adamw(gradient.view(), f32s, [&moment1, &moment2].map(|moment| Moment::Plain(moment.view())));
        let traffic = Traffic { update: vec![4 * n; 3], read: vec![2 * n], write: vec![2 * n] };
        memory(stream, name, traffic, vec![gradient, master, weight, moment1, moment2], vec![call(op)])
    });
    add(cases, format!("adamw bf16 {most}M split16 int8"), move |stream, name| {
        let n = most * MILLION;
        let zeros = |dtype, n| Buffer::zeros(stream, dtype, &[n]);
        let gradient = Buffer::filled(stream, BF16, &[n], 1e-3);
        let weight = Buffer::filled(stream, BF16, &[n], 1.0);
        let (remainder, codes1, codes2) = (zeros(I16, n), zeros(U8, n), zeros(U8, n));
        let (absmax1, absmax2) = (zeros(F32, n.div_ceil(256)), zeros(F32, n.div_ceil(256)));
        let split = Master::Split16 { weight: weight.view(), remainder: remainder.view() };
        let moments = [(&codes1, &absmax1), (&codes2, &absmax2)];
        let moments = moments.map(|(codes, absmax)| Moment::Int8 { codes: codes.view(), absmax: absmax.view() });
        let op = adamw(gradient.view(), split, moments);
        // The scales are one part in 200.
        let traffic = Traffic { update: vec![2 * n, 2 * n, n, n], read: vec![2 * n], write: vec![] };
        let buffers = vec![gradient, weight, remainder, codes1, codes2, absmax1, absmax2];
        memory(stream, name, traffic, buffers, vec![call(op)])
    });
    add(cases, format!("lion bf16 {less}M"), move |stream, name| {
        let n = less * MILLION;
        let ((gradient, master, weight), moment) = (state(stream, n), Buffer::zeros(stream, F32, &[n]));
        let op = Lion {
            gradient: gradient.view(),
            gradient_scale: 1.0,
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.99,
            weight_decay: 0.1,
            master: Master::F32 { master: master.view(), weight: Some(weight.view()) },
            moment: Moment::Plain(moment.view()),
            random: None,
            control: None,
        };
        let traffic = Traffic { update: vec![4 * n; 2], read: vec![2 * n], write: vec![2 * n] };
        memory(stream, name, traffic, vec![gradient, master, weight, moment], vec![call(op)])
    });
    add(cases, format!("sgd bf16 {less}M"), move |stream, name| {
        let n = less * MILLION;
        let ((gradient, master, weight), buffer) = (state(stream, n), Buffer::zeros(stream, F32, &[n]));
        let op = Sgd {
            gradient: gradient.view(),
            gradient_scale: 1.0,
            learning_rate: 1e-2,
            momentum: 0.9,
            dampening: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            first_step: false,
            master: Master::F32 { master: master.view(), weight: Some(weight.view()) },
            momentum_buffer: Some(Moment::Plain(buffer.view())),
            random: None,
            control: None,
        };
        let traffic = Traffic { update: vec![4 * n; 2], read: vec![2 * n], write: vec![2 * n] };
        memory(stream, name, traffic, vec![gradient, master, weight, buffer], vec![call(op)])
    });
}

/// Casts, accumulation, sums and the residual: one pass over long vectors.
fn streams(cases: &mut Cases, millions: usize) {
    let n = millions * MILLION;
    for (from, to) in [(F32, BF16), (BF16, F32), (F32, F16), (F16, F32)] {
        add(cases, format!("cast {from} to {to} {millions}M"), move |stream, name| {
            let (x, y) = (Buffer::filled(stream, from, &[n], 1.0), Buffer::zeros(stream, to, &[n]));
            let op = Cast { x: x.view(), y: y.view(), rounding: Rounding::NearestEven };
            memory(stream, name, reads_writes(&[&x], &[&y]), vec![x, y], vec![call(op)])
        });
    }
    for with_sum in [false, true] {
        let what = if with_sum { " with square sum" } else { "" };
        add(cases, format!("accumulate bf16 {millions}M{what}"), move |stream, name| {
            let (x, y) = (Buffer::filled(stream, BF16, &[n], 1e-3), Buffer::zeros(stream, F32, &[n]));
            let (nonfinite, sum) = (Buffer::zeros(stream, I64, &[1]), Buffer::zeros(stream, I64, &[68]));
            let op = Accumulate {
                x: x.view(),
                overwrite: false,
                y: y.view(),
                nonfinite: nonfinite.view(),
                square_sum: with_sum.then(|| sum.view()),
                overflow: None,
                overflow_mark: 0,
            };
            let traffic = Traffic { update: vec![y.bytes()], read: vec![x.bytes()], write: Vec::new() };
            memory(stream, name, traffic, vec![x, y, nonfinite, sum], vec![call(op)])
        });
    }
    for dtype in [F32, BF16] {
        add(cases, format!("exact sum of squares {dtype} {millions}M"), move |stream, name| {
            let (x, sum) = (Buffer::filled(stream, dtype, &[n], 1.0), Buffer::zeros(stream, I64, &[68]));
            let op = ExactSum { x: x.view(), square: true, accumulator: sum.view() };
            memory(stream, name, reads_writes(&[&x], &[]), vec![x, sum], vec![call(op)])
        });
    }
    add(cases, format!("norm, overflow check, clip factor f32 {millions}M"), move |stream, name| {
        let x = Buffer::filled(stream, F32, &[n], 1e-3);
        let [sum, overflow, control] = [68, 1, Control::WORDS].map(|words| Buffer::zeros(stream, I64, &[words]));
        let decide = StepControl {
            square_sum: sum.view(),
            overflow: overflow.view(),
            loss_scale_state: None,
            minimum_loss_scale: 1.0,
            loss_scale: 65536.0,
            gradient_scale: 1.0,
            max_norm: 1.0,
            restart: Restart::default(),
            control: control.view(),
        };
        let ops = vec![call(ExactSum { x: x.view(), square: true, accumulator: sum.view() }), call(decide)];
        memory(stream, name, reads_writes(&[&x], &[]), vec![x, sum, overflow, control], ops)
    });
    add(cases, format!("add bf16 {millions}M"), move |stream, name| {
        let (a, b, y) = (
            Buffer::filled(stream, BF16, &[n], 1.0),
            Buffer::filled(stream, BF16, &[n], 1.0),
            Buffer::zeros(stream, BF16, &[n]),
        );
        let op = Add { a: a.view(), b: b.view(), y: y.view() };
        memory(stream, name, reads_writes(&[&a, &b], &[&y]), vec![a, b, y], vec![call(op)])
    });
}

fn norms(cases: &mut Cases, sizes: &Sizes) {
    for &(rows, width) in sizes.norm {
        for layer in [true, false] {
            let norm = if layer { "layer norm" } else { "RMS norm" };
            add(cases, format!("{norm} forward bf16 {rows}x{width}"), move |stream, name| {
                let t = NormTensors::new(stream, rows, width);
                let ops = vec![t.forward(layer)];
                memory(stream, name, reads_writes(&[&t.x], &[&t.y]), t.into_buffers(), ops)
            });
            add(cases, format!("{norm} backward bf16 {rows}x{width}"), move |stream, name| {
                let t = NormTensors::new(stream, rows, width);
                t.forward(layer)(stream);
                let ops = vec![t.backward(layer)];
                memory(stream, name, reads_writes(&[&t.x, &t.dy], &[&t.dx]), t.into_buffers(), ops)
            });
        }
    }
}

struct NormTensors {
    x: Buffer,
    y: Buffer,
    dy: Buffer,
    dx: Buffer,
    weight: Buffer,
    bias: Buffer,
    mean: Buffer,
    rstd: Buffer,
    dweight: Buffer,
    dbias: Buffer,
}

impl NormTensors {
    fn new(stream: &Stream, rows: usize, width: usize) -> NormTensors {
        let shape = [rows, width];
        NormTensors {
            x: Buffer::filled(stream, BF16, &shape, 1.0),
            y: Buffer::zeros(stream, BF16, &shape),
            dy: Buffer::filled(stream, BF16, &shape, 1.0),
            dx: Buffer::zeros(stream, BF16, &shape),
            weight: Buffer::filled(stream, BF16, &[width], 1.0),
            bias: Buffer::filled(stream, BF16, &[width], 1.0),
            mean: Buffer::zeros(stream, F32, &[rows]),
            rstd: Buffer::zeros(stream, F32, &[rows]),
            dweight: Buffer::zeros(stream, F32, &[width]),
            dbias: Buffer::zeros(stream, F32, &[width]),
        }
    }

    fn forward(&self, layer: bool) -> Call {
        let (x, weight, y, rstd) = (self.x.view(), Some(self.weight.view()), self.y.view(), Some(self.rstd.view()));
        if layer {
            let (bias, mean) = (Some(self.bias.view()), Some(self.mean.view()));
            call(LayerNormForward { x, weight, bias, epsilon: 1e-5, y, mean, rstd })
        } else {
            call(RmsNormForward { x, weight, epsilon: 1e-5, y, rstd })
        }
    }

    fn backward(&self, layer: bool) -> Call {
        let (dy, x, weight, rstd) = (self.dy.view(), self.x.view(), Some(self.weight.view()), self.rstd.view());
        let (dx, dweight) = (self.dx.view(), Some(self.dweight.view()));
        if layer {
            let (mean, dbias) = (self.mean.view(), Some(self.dbias.view()));
            call(LayerNormBackward { dy, x, weight, mean, rstd, accumulate: false, dx, dweight, dbias })
        } else {
            call(RmsNormBackward { dy, x, weight, rstd, accumulate: false, dx, dweight })
        }
    }

    fn into_buffers(self) -> Vec<Buffer> {
        vec![self.x, self.y, self.dy, self.dx, self.weight, self.bias, self.mean, self.rstd, self.dweight, self.dbias]
    }
}

fn activations(cases: &mut Cases, shape: [usize; 2]) {
    let [rows, width] = shape;
    for (kind, label) in [(GeluKind::Tanh, "tanh"), (GeluKind::Exact, "exact")] {
        add(cases, format!("GELU {label} forward bf16 {rows}x{width}"), move |stream, name| {
            let (x, y) = (Buffer::filled(stream, BF16, &shape, 3.0), Buffer::zeros(stream, BF16, &shape));
            let op = GeluForward { x: x.view(), kind, y: y.view() };
            memory(stream, name, reads_writes(&[&x], &[&y]), vec![x, y], vec![call(op)])
        });
        add(cases, format!("GELU {label} backward bf16 {rows}x{width}"), move |stream, name| {
            let (x, dy) = (Buffer::filled(stream, BF16, &shape, 3.0), Buffer::filled(stream, BF16, &shape, 1.0));
            let dx = Buffer::zeros(stream, BF16, &shape);
            let op = GeluBackward { x: x.view(), dy: dy.view(), kind, dx: dx.view() };
            memory(stream, name, reads_writes(&[&x, &dy], &[&dx]), vec![x, dy, dx], vec![call(op)])
        });
    }
    let inputs = move |stream: &Stream| {
        let f = || Buffer::filled(stream, BF16, &shape, 3.0);
        (f(), f(), f())
    };
    add(cases, format!("SwiGLU forward bf16 {rows}x{width}"), move |stream, name| {
        let (gate, up, y) = inputs(stream);
        let op = SwigluForward { gate: gate.view(), up: up.view(), y: y.view() };
        memory(stream, name, reads_writes(&[&gate, &up], &[&y]), vec![gate, up, y], vec![call(op)])
    });
    add(cases, format!("SwiGLU backward bf16 {rows}x{width}"), move |stream, name| {
        let (gate, up, dy) = inputs(stream);
        let (dgate, dup) = (Buffer::zeros(stream, BF16, &shape), Buffer::zeros(stream, BF16, &shape));
        let op =
            SwigluBackward { gate: gate.view(), up: up.view(), dy: dy.view(), dgate: dgate.view(), dup: dup.view() };
        let traffic = reads_writes(&[&gate, &up, &dy], &[&dgate, &dup]);
        memory(stream, name, traffic, vec![gate, up, dy, dgate, dup], vec![call(op)])
    });
}

fn losses(cases: &mut Cases, sizes: &Sizes) {
    let ((rows, fused_rows), vocabulary, width) = (sizes.loss, 50257, 768);
    add(cases, format!("cross-entropy forward+backward bf16 {rows}x{vocabulary}"), move |stream, name| {
        let logits = Buffer::filled(stream, BF16, &[rows, vocabulary], 2.0);
        let (targets, losses) = (Buffer::zeros(stream, I32, &[rows]), Buffer::zeros(stream, F32, &[rows]));
        let dlogits = Buffer::zeros(stream, BF16, &[rows, vocabulary]);
        let op = CrossEntropy {
            logits: logits.view(),
            targets: targets.view(),
            ignore_index: 0,
            gradient_scale: 1.0,
            loss_scale: None,
            losses: losses.view(),
            dlogits: Some(dlogits.view()),
        };
        let traffic = reads_writes(&[&logits], &[&dlogits]);
        memory(stream, name, traffic, vec![logits, targets, losses, dlogits], vec![call(op)])
    });
    let rows = fused_rows;
    add(cases, format!("linear+cross-entropy bf16 {rows}x{width}x{vocabulary}"), move |stream, name| {
        let x = Buffer::filled(stream, BF16, &[rows, width], 1.0);
        let weight = Buffer::filled(stream, BF16, &[vocabulary, width], 0.1);
        let (targets, losses) = (Buffer::zeros(stream, I32, &[rows]), Buffer::zeros(stream, F32, &[rows]));
        let (dx, dweight) =
            (Buffer::zeros(stream, BF16, &[rows, width]), Buffer::zeros(stream, F32, &[vocabulary, width]));
        let op = LinearCrossEntropy {
            x: x.view(),
            weight: weight.view(),
            targets: targets.view(),
            ignore_index: 0,
            gradient_scale: 1.0,
            loss_scale: None,
            losses: losses.view(),
            dx: Some(dx.view()),
            dweight: Some(dweight.view()),
            accumulate_dweight: false,
        };
        let flops = 6.0 * (rows * width * vocabulary) as f64;
        let bound = (flops, Ceiling::Bf16Dot);
        arithmetic(stream, name, bound, vec![x, weight, targets, losses, dx, dweight], vec![call(op)])
    });
}

fn gemms(cases: &mut Cases, sizes: &Sizes) {
    let dtypes = [F32, BF16, F16].into_iter().flat_map(|d| sizes.implementation.iter().map(move |i| (d, *i)));
    for (dtype, implementation) in dtypes {
        for &(m, k, n, transpose_a, transpose_b) in sizes.gemm {
            let letter = |t| if t { 't' } else { 'n' };
            let own = if implementation == Implementation::Own { " own" } else { "" };
            let name = format!("gemm {dtype} {}{} {m}x{k}x{n}{own}", letter(transpose_a), letter(transpose_b));
            add(cases, name, move |stream, name| {
                let (a_shape, b_shape) =
                    (if transpose_a { [k, m] } else { [m, k] }, if transpose_b { [n, k] } else { [k, n] });
                let a = Buffer::filled(stream, dtype, &a_shape, 1.0);
                let b = Buffer::filled(stream, dtype, &b_shape, 1.0);
                let c = Buffer::zeros(stream, dtype, &[m, n]);
                let op = Gemm {
                    transpose_a,
                    transpose_b,
                    a: a.view(),
                    b: b.view(),
                    c: c.view(),
                    alpha: 1.0,
                    beta: 0.0,
                    bias: None,
                    activation: Activation::None,
                    pre_activation: None,
                    compute: Compute::Default,
                    implementation,
                };
                let ceiling = if dtype == BF16 || (dtype == F16 && stream.runtime().device() == DeviceKind::Cuda) {
                    Ceiling::Bf16Dot
                } else {
                    Ceiling::Fma
                };
                arithmetic(stream, name, (2.0 * (m * k * n) as f64, ceiling), vec![a, b, c], vec![call(op)])
            });
        }
    }
}

fn attentions(cases: &mut Cases, sizes: &Sizes) {
    for &((batch, time, heads, width), dtype) in sizes.attention {
        let passes = [false, true].into_iter().flat_map(|p| sizes.implementation.iter().map(move |i| (p, *i)));
        for (backward, implementation) in passes {
            let what = if backward { "forward+backward" } else { "forward" };
            let own = if implementation == Implementation::Own { " own" } else { "" };
            let name = format!("attention causal {what} {dtype} B{batch} T{time} {heads}x{width}{own}");
            add(cases, name, move |stream, name| {
                let shape = [batch, time, heads, width];
                let [q, k, v, dout] = [(); 4].map(|()| Buffer::filled(stream, dtype, &shape, 1.0));
                let [out, dq, dk, dv] = [(); 4].map(|()| Buffer::zeros(stream, dtype, &shape));
                let log_sum_exp = Buffer::zeros(stream, F32, &[batch, heads, time]);
                let forward = AttentionForward {
                    q: q.view(),
                    k: k.view(),
                    v: v.view(),
                    causal: true,
                    scale: 0.0,
                    out: out.view(),
                    log_sum_exp: Some(log_sum_exp.view()),
                    implementation,
                };
                let mut ops = vec![call(forward)];
                // Two products forward, five backward, each over the lower triangle.
                let products = if backward { 7.0 } else { 2.0 };
                let flops = products * 2.0 * (batch * heads * time * (time + 1) / 2 * width) as f64;
                if backward {
                    ops.push(call(AttentionBackward {
                        q: q.view(),
                        k: k.view(),
                        v: v.view(),
                        out: out.view(),
                        log_sum_exp: log_sum_exp.view(),
                        dout: dout.view(),
                        causal: true,
                        scale: 0.0,
                        dq: dq.view(),
                        dk: dk.view(),
                        dv: dv.view(),
                        implementation,
                    }));
                }
                let ceiling = if dtype == BF16 { Ceiling::Bf16Dot } else { Ceiling::Fma };
                arithmetic(stream, name, (flops, ceiling), vec![q, k, v, dout, out, dq, dk, dv, log_sum_exp], ops)
            });
        }
    }
}
