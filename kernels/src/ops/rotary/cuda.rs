use super::{Rotary, RotaryLayout};
use crate::backend::cuda::{CudaError, Gpu, Launch, Strided};
use crate::by_dtype;

/// Most threads of a block.
const THREADS: usize = 256;
/// Bytes of an access, and of a sine and cosine.
const ACCESS: usize = 16;
const TURN: usize = 8;

/// `Parameters` of rotary.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    x: Strided,
    y: Strided,
    positions: Strided,
    frequency: u64,
    t: i64,
    heads: i64,
    d: i64,
    batch: i64,
    base: f64,
    direction: f64,
    tasks: i64,
    step_heads: i64,
    step_packs: i64,
    tabled: i64,
}

pub(super) fn workspace(op: &Rotary<'_>) -> usize {
    op.x.width() / 2 * size_of::<f64>()
}

pub(super) fn run(op: &Rotary<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    if op.x.numel() == 0 {
        return Ok(());
    }
    let (d, t, batch, heads, dtype) = (op.x.width(), op.t(), op.batch(), op.heads(), op.x.dtype());
    let (x, y) = (Strided::rows(&op.x), Strided::rows(&op.y));
    let elements = ACCESS / dtype.size();
    let halves = op.layout == RotaryLayout::Halves;
    let aligned = [x, y].iter().all(|view| view.is_aligned(ACCESS, dtype.size()));
    let packed = aligned && if halves { (d / 2).is_multiple_of(elements) } else { d.is_multiple_of(elements) };
    let (name, pairs) = match (halves, packed) {
        (true, true) => (by_dtype!("rotary_halves", dtype), elements),
        (true, false) => (by_dtype!("rotary_halves_scalar", dtype), 1),
        (false, true) => (by_dtype!("rotary_pairs", dtype), elements / 2),
        (false, false) => (by_dtype!("rotary_pairs_scalar", dtype), 1),
    };
    let packs = d / 2 / pairs;
    let threads = (heads * packs).next_multiple_of(32).min(THREADS);
    let blocks = gpu.blocks(t * batch, (4096 / threads) as u32) as usize;
    let tasks = (t * batch).div_ceil(blocks);
    let table = d / 2 * TURN;
    let tabled = table <= gpu.properties().shared_bytes as usize;
    let parameters = Parameters {
        x,
        y,
        positions: op.positions.as_ref().map_or(Strided::NONE, Strided::elements),
        frequency: gpu.workspace(workspace(op)),
        t: t as i64,
        heads: heads as i64,
        d: d as i64,
        batch: batch as i64,
        base: op.base.into(),
        direction: if op.inverse { -1.0 } else { 1.0 },
        tasks: tasks as i64,
        step_heads: (threads / packs) as i64,
        step_packs: (threads % packs) as i64,
        tabled: tabled.into(),
    };
    let frequencies = Launch::linear(gpu.blocks((d / 2).div_ceil(64), 16), 64);
    let shared_bytes = if tabled { table as u32 } else { 0 };
    let turn = Launch { shared_bytes, ..Launch::linear((t * batch).div_ceil(tasks) as u32, threads as u32) };
    // SAFETY: the parameters are those of rotary.cu; the views' memory outlives the work, as their maker promised, and so
    // does the workspace. The frequencies are complete when the second kernel runs.
    unsafe {
        gpu.launch("rotary", "rotary_frequencies", frequencies, &parameters)?;
        gpu.launch("rotary", name, turn, &parameters)
    }
}
