//! Launches of this library's kernels: tensor cores for 16-bit dtypes, exact f32 otherwise.

use super::{AttentionBackward, AttentionForward};
use crate::backend::cuda::{CudaError, Gpu, Launch};
use crate::by_dtype;
use crate::dtype::DType;
use crate::view::View;

/// `Heads` of attention.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct Heads {
    data: u64,
    batch: i64,
    token: i64,
    head: i64,
    aligned: i64,
}

impl Heads {
    fn new(view: &View<'_>) -> Heads {
        // Of one element, the stride says nothing; but kernels take addresses of rows that they do not read.
        let [batch, token, head] = [0, 1, 2].map(|d| if view.shape()[d] > 1 { view.stride()[d] as i64 } else { 0 });
        let rows = [batch, token, head].map(|stride| stride as usize * view.dtype().size());
        let aligned = rows.into_iter().chain([view.data() as usize]).all(|at| at.is_multiple_of(16));
        Heads { data: view.data() as u64, batch, token, head, aligned: i64::from(aligned) }
    }
}

/// `Statistics` of attention.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct Statistics {
    data: u64,
    batch: i64,
    head: i64,
}

impl Statistics {
    fn new(view: &View<'_>) -> Statistics {
        Statistics { data: view.data() as u64, batch: view.stride()[0] as i64, head: view.stride()[1] as i64 }
    }
}

/// `Problem` of attention.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct Problem {
    q: Heads,
    k: Heads,
    v: Heads,
    t: i32,
    s: i32,
    d: i32,
    query_heads: i32,
    key_heads: i32,
    group: i32,
    blocks: i32,
    scale: f32,
    scale2: f32,
    causal: i32,
}

/// `ForwardParameters` of attention.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct ForwardParameters {
    problem: Problem,
    out: Heads,
    log_sum_exp: Statistics,
}

/// `BackwardParameters` of attention.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct BackwardParameters {
    problem: Problem,
    out: Heads,
    dout: Heads,
    dq: Heads,
    dk: Heads,
    dv: Heads,
    log_sum_exp: Statistics,
    sums: u64,
    padded: i64,
    heads: i64,
}

/// More than this would overflow the kernels' positions.
pub(super) const MOST_TOKENS: usize = 1 << 29;

/// The factor of the scores that an operation means.
pub(super) fn scale(scale: f32, d: usize) -> f32 {
    if scale == 0.0 { 1.0 / (d as f32).sqrt() } else { scale }
}

/// Name of the kernels, for traces.
pub(super) fn name(dtype: DType) -> &'static str {
    if dtype == DType::F32 { "own simt" } else { "own mma" }
}

impl Problem {
    fn new(call: &'static str, [q, k, v]: [&View<'_>; 3], causal: bool, scale: f32) -> Result<Problem, CudaError> {
        let &[_, t, hq, d] = q.shape() else { unreachable!("the operation's check passed") };
        let (s, hk) = (k.shape()[1], k.shape()[2]);
        if t.max(s).max(hq).max(hk) > MOST_TOKENS {
            return Err(Gpu::unavailable(call, format!("more than {MOST_TOKENS} tokens or heads")));
        }
        let scale = self::scale(scale, d);
        Ok(Problem {
            q: Heads::new(q),
            k: Heads::new(k),
            v: Heads::new(v),
            t: t as i32,
            s: s as i32,
            d: d as i32,
            query_heads: hq as i32,
            key_heads: hk as i32,
            group: hq.checked_div(hk).unwrap_or(0) as i32,
            blocks: 0,
            scale,
            scale2: scale * std::f32::consts::LOG2_E,
            causal: i32::from(causal),
        })
    }
}

/// The size of head that a kernel is made for, and how its blocks are laid out: as the `KERNELS` of the `.cu` files.
#[derive(Clone, Copy)]
struct Sizes {
    /// Elements of a head in shared memory.
    d: usize,
    /// Index in tables by size.
    at: usize,
}

impl Sizes {
    fn of(dtype: DType, d: usize) -> Sizes {
        let made: &[usize] = if dtype == DType::F32 { &F32_SIZES } else { &SIZES };
        let at = made.iter().position(|size| d <= *size).expect("the operation's check passed");
        Sizes { d: made[at], at }
    }
}

const SIZES: [usize; 6] = [32, 64, 96, 128, 192, 256];
const F32_SIZES: [usize; 3] = [64, 128, 256];

/// A kernel's block of rows, tile of rows of the other side, threads, and blocks that share one block of rows.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    tile: usize,
    threads: u32,
    parts: usize,
}

const fn shape(m: usize, warps: usize, tile: usize, parts: usize) -> Shape {
    Shape { rows: 16 * m * warps, tile, threads: 32 * warps as u32, parts }
}

/// For each of [`SIZES`].
const FORWARD: [Shape; 6] = [
    shape(2, 4, 64, 1),
    shape(2, 4, 64, 1),
    shape(2, 4, 48, 1),
    shape(2, 4, 48, 1),
    shape(1, 4, 32, 1),
    shape(1, 4, 32, 1),
];
const BACKWARD_QUERIES: [Shape; 6] = [
    shape(2, 4, 32, 1),
    shape(2, 4, 32, 1),
    shape(2, 4, 32, 1),
    shape(2, 4, 32, 1),
    shape(1, 2, 32, 1),
    shape(1, 2, 32, 1),
];
const BACKWARD_KEYS: [Shape; 6] = [
    shape(2, 4, 32, 1),
    shape(2, 4, 32, 1),
    shape(1, 4, 64, 1),
    shape(1, 4, 64, 1),
    shape(1, 2, 32, 2),
    shape(1, 2, 32, 2),
];
/// With its shared memory in the kernel.
const F32: Shape = Shape { rows: 64, tile: 64, threads: 256, parts: 1 };

/// Rows of statistics are padded to a multiple of every block and tile.
const STATISTICS: usize = 128;

/// Bytes of tiles in 16-bit elements: `resident` rows, and two stages of two tiles.
fn tile_bytes(shape: &Shape, size: usize, resident: usize) -> usize {
    (resident + 4 * shape.tile) * size * 2
}

fn launch(call: &'static str, blocks: usize, threads: u32, shared_bytes: usize) -> Result<Launch, CudaError> {
    match i32::try_from(blocks) {
        Ok(blocks) => Ok(Launch { grid: [blocks as u32, 1, 1], threads, shared_bytes: shared_bytes as u32 }),
        Err(_) => Err(Gpu::unavailable(call, format!("{blocks} blocks of rows are more than a launch can have"))),
    }
}

/// The name of a kernel: `name!("attention_forward", dtype, at)`, with the index of the head size.
macro_rules! name {
    ($prefix:literal, $dtype:expr, $at:expr) => {
        match $dtype {
            DType::F32 => {
                [concat!($prefix, "_f32_64"), concat!($prefix, "_f32_128"), concat!($prefix, "_f32_256")][$at]
            }
            DType::BF16 => name!(@sizes $prefix, "_bf16")[$at],
            _ => name!(@sizes $prefix, "_f16")[$at],
        }
    };
    (@sizes $prefix:literal, $dtype:literal) => {
        [
            concat!($prefix, $dtype, "_32"),
            concat!($prefix, $dtype, "_64"),
            concat!($prefix, $dtype, "_96"),
            concat!($prefix, $dtype, "_128"),
            concat!($prefix, $dtype, "_192"),
            concat!($prefix, $dtype, "_256"),
        ]
    };
}

/// The file of a kernel.
fn file(dtype: DType, file: &'static str) -> &'static str {
    if dtype == DType::F32 { "attention_f32" } else { file }
}

pub(super) fn forward(op: &AttentionForward<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    const NAME: &str = "attention_forward";
    if op.q.numel() == 0 {
        return Ok(());
    }
    let dtype = op.q.dtype();
    let sizes = Sizes::of(dtype, op.q.shape()[3]);
    let (shape, shared) = match dtype {
        DType::F32 => (F32, 0),
        _ => (FORWARD[sizes.at], tile_bytes(&FORWARD[sizes.at], sizes.d, FORWARD[sizes.at].rows)),
    };
    let mut problem = Problem::new(NAME, [&op.q, &op.k, &op.v], op.causal, op.scale)?;
    let blocks = op.q.shape()[1].div_ceil(shape.rows);
    problem.blocks = blocks as i32;
    let none = Statistics { data: 0, batch: 0, head: 0 };
    let parameters = ForwardParameters {
        problem,
        out: Heads::new(&op.out),
        log_sum_exp: op.log_sum_exp.as_ref().map_or(none, Statistics::new),
    };
    let heads = op.q.shape()[0] * op.q.shape()[2];
    let launch = launch(NAME, blocks * heads, shape.threads, shared)?;
    let name = name!("attention_forward", dtype, sizes.at);
    // SAFETY: the parameters are those of attention.cuh, and the views' memory outlives the work, as their maker
    // promised.
    unsafe { gpu.launch(file(dtype, "attention_forward"), name, launch, &parameters) }
}

/// Values of a row of statistics.
fn padded(op: &AttentionBackward<'_>) -> usize {
    op.q.shape()[1].next_multiple_of(STATISTICS)
}

/// Bytes of the statistics: two f32 for each row of each query head.
pub(super) fn backward_workspace(op: &AttentionBackward<'_>) -> usize {
    2 * op.q.shape()[0] * op.q.shape()[2] * padded(op) * size_of::<f32>()
}

pub(super) fn backward(op: &AttentionBackward<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    const NAME: &str = "attention_backward";
    let dtype = op.q.dtype();
    let &[b, t, hq, d] = op.q.shape() else { unreachable!("the operation's check passed") };
    let (s, hk) = (op.k.shape()[1], op.k.shape()[2]);
    let sizes = Sizes::of(dtype, d);
    let mut parameters = BackwardParameters {
        problem: Problem::new(NAME, [&op.q, &op.k, &op.v], op.causal, op.scale)?,
        out: Heads::new(&op.out),
        dout: Heads::new(&op.dout),
        dq: Heads::new(&op.dq),
        dk: Heads::new(&op.dk),
        dv: Heads::new(&op.dv),
        log_sum_exp: Statistics::new(&op.log_sum_exp),
        sums: gpu.workspace(backward_workspace(op)),
        padded: padded(op) as i64,
        heads: (b * hq) as i64,
    };
    if op.q.numel() > 0 {
        let launch = launch(NAME, b * hq * padded(op) / 32, 256, 0)?;
        // SAFETY: the parameters are those of attention.cuh, and the memory of the views and of the workspace outlives
        // the work, as their makers promised.
        unsafe { gpu.launch("attention_sums", by_dtype!("attention_sums", dtype), launch, &parameters) }?;
    }
    // Statistics of the rows of a block of queries, and of two tiles of them.
    let (queries, queries_shared, keys, keys_shared) = match dtype {
        DType::F32 => (F32, 0, F32, 0),
        _ => {
            let (queries, keys) = (BACKWARD_QUERIES[sizes.at], BACKWARD_KEYS[sizes.at]);
            let queries_shared = tile_bytes(&queries, sizes.d, 2 * queries.rows) + 8 * queries.rows;
            let keys_shared = tile_bytes(&keys, sizes.d, 2 * keys.rows) + 16 * keys.tile;
            (queries, queries_shared, keys, keys_shared)
        }
    };
    if op.q.numel() > 0 {
        let blocks = t.div_ceil(queries.rows);
        parameters.problem.blocks = blocks as i32;
        let launch = launch(NAME, blocks * b * hq, queries.threads, queries_shared)?;
        let name = name!("attention_backward_queries", dtype, sizes.at);
        // SAFETY: as above.
        unsafe { gpu.launch(file(dtype, "attention_backward_queries"), name, launch, &parameters) }?;
    }
    if op.k.numel() > 0 {
        let blocks = s.div_ceil(keys.rows);
        parameters.problem.blocks = blocks as i32;
        let launch = launch(NAME, blocks * b * hk * keys.parts, keys.threads, keys_shared)?;
        let name = name!("attention_backward_keys", dtype, sizes.at);
        // SAFETY: as above.
        unsafe { gpu.launch(file(dtype, "attention_backward_keys"), name, launch, &parameters) }?;
    }
    Ok(())
}
