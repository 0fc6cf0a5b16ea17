use super::{EmbeddingBackward, EmbeddingForward};
use crate::backend::cuda::{CudaError, DevicePointer, Gpu, Launch, Strided};
use crate::by_dtype;
use crate::dtype::DType;
use crate::view::View;

/// Bytes of an access.
const ACCESS: usize = 16;
/// Threads of a block of the forward pass, and of one that sums.
const THREADS: usize = 256;
const SUM_THREADS: usize = 128;
/// Packs of a row that fall to one thread of the forward pass, about.
const PACKS: usize = 4;
/// Places of a block that sums: WINDOW of embedding.cu.
const WINDOW: usize = 64;
/// Places of a block that sorts, and digits: CHUNK and DIGITS of embedding_sort.cu.
const CHUNK: usize = 2048;
const DIGITS: usize = 256;
/// Blocks along y that one launch may have.
const MOST_STRIPS: usize = 65535;

/// `ForwardParameters` of embedding.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct ForwardParameters {
    tokens: Strided,
    token_table: Strided,
    position_table: Strided,
    y: Strided,
    places: i64,
    vocabulary: i64,
    width: i64,
    positions: i64,
    group: i64,
}

/// `BackwardParameters` of embedding.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct BackwardParameters {
    dy: Strided,
    table: Strided,
    token: u64,
    place: u64,
    partial: u64,
    places: i64,
    rows: i64,
    width: i64,
    positions: i64,
    accumulate: i64,
}

/// `Parameters` of embedding_sort.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct SortParameters {
    tokens: Strided,
    token: u64,
    place: u64,
    to_token: u64,
    to_place: u64,
    counts: u64,
    places: i64,
    vocabulary: i64,
    chunks: i64,
    shift: i64,
}

/// Whether the rows of all tables may be read in packs of the elements that `dtype` has in one.
fn packed(dtype: DType, tables: &[View<'_>]) -> bool {
    let aligned = |view: &View<'_>| Strided::rows(view).is_aligned(ACCESS, view.dtype().size());
    tables[0].width().is_multiple_of(ACCESS / dtype.size()) && tables.iter().all(aligned)
}

pub(super) fn forward(op: &EmbeddingForward<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let (places, width, dtype) = (op.tokens.numel(), op.y.width(), op.y.dtype());
    if places == 0 || width == 0 {
        return Ok(());
    }
    let tables = [op.y, op.token_table, op.position_table.unwrap_or(op.token_table)];
    let (elements, name) = if packed(dtype, &tables) {
        (ACCESS / dtype.size(), by_dtype!("embedding_forward", dtype))
    } else {
        (1, by_dtype!("embedding_forward_scalar", dtype))
    };
    let group = (width / elements).div_ceil(PACKS).next_power_of_two().min(THREADS);
    let parameters = ForwardParameters {
        tokens: Strided::elements(&op.tokens),
        token_table: Strided::rows(&op.token_table),
        position_table: Strided::rows_of(&op.position_table),
        y: Strided::rows(&op.y),
        places: places as i64,
        vocabulary: op.token_table.row_count() as i64,
        width: width as i64,
        positions: op.tokens.width() as i64,
        group: group as i64,
    };
    let launch = Launch::linear(gpu.blocks((places * group).div_ceil(THREADS), 16), THREADS as u32);
    // SAFETY: the parameters are those of embedding.cu, and the views' memory outlives the work, as their maker promised.
    unsafe { gpu.launch("embedding", name, launch, &parameters) }
}

/// The parts of the backward pass's workspace: two pairs of arrays between which the sort goes back and forth, the counts
/// of the digits, and the partial sums. Offsets in bytes.
struct Space {
    token: [usize; 2],
    place: [usize; 2],
    counts: usize,
    partial: usize,
    bytes: usize,
}

impl Space {
    fn new(op: &EmbeddingBackward<'_>) -> Space {
        let (places, mut bytes) = (op.tokens.numel(), 0);
        let mut take = |elements: usize| {
            let at = bytes;
            bytes += (elements * size_of::<u32>()).next_multiple_of(Gpu::WORKSPACE_ALIGNMENT);
            at
        };
        let token = [take(places), take(places)];
        let place = [take(places), take(places)];
        let counts = take(DIGITS * places.div_ceil(CHUNK));
        let partial = take(places.div_ceil(WINDOW) * 2 * op.dy.width());
        Space { token, place, counts, partial, bytes }
    }
}

pub(super) fn backward_workspace(op: &EmbeddingBackward<'_>) -> usize {
    if op.dy.width() == 0 { 0 } else { Space::new(op).bytes }
}

/// Enqueues the sort; the addresses are those of the sorted tokens and of their places.
///
/// # Safety
/// The workspace at `base` is this operation's until the work is done.
unsafe fn sort(
    op: &EmbeddingBackward<'_>,
    gpu: &Gpu<'_>,
    base: DevicePointer,
) -> Result<(DevicePointer, DevicePointer), CudaError> {
    let (space, places, vocabulary) = (Space::new(op), op.tokens.numel(), op.dtoken_table.row_count());
    let at = |offset: usize| base + offset as u64;
    let chunks = places.div_ceil(CHUNK);
    let mut parameters = SortParameters {
        tokens: Strided::elements(&op.tokens),
        token: 0,
        place: 0,
        to_token: at(space.token[0]),
        to_place: at(space.place[0]),
        counts: at(space.counts),
        places: places as i64,
        vocabulary: vocabulary as i64,
        chunks: chunks as i64,
        shift: 0,
    };
    // The largest key is the vocabulary itself; a token is an i32.
    let bits = usize::BITS - vocabulary.min(1 << 31).leading_zeros();
    for pass in 0..bits.div_ceil(8).max(1) {
        if pass > 0 {
            (parameters.token, parameters.place) = (parameters.to_token, parameters.to_place);
            let to = pass as usize % 2;
            (parameters.to_token, parameters.to_place) = (at(space.token[to]), at(space.place[to]));
        }
        parameters.shift = i64::from(8 * pass);
        let (every, one) = (Launch::linear(chunks as u32, DIGITS as u32), Launch::linear(1, 1024));
        // SAFETY: the parameters are those of embedding_sort.cu; the tokens outlive the work, as their maker promised,
        // and so does the workspace.
        unsafe {
            gpu.launch("embedding_sort", "embedding_sort_count", every, &parameters)?;
            gpu.launch("embedding_sort", "embedding_sort_scan", one, &parameters)?;
            gpu.launch("embedding_sort", "embedding_sort_move", every, &parameters)?;
        }
    }
    Ok((parameters.to_token, parameters.to_place))
}

/// The name of a kernel that reads dy and writes a table, for `packed` rows or others.
macro_rules! by_tables {
    ($prefix:literal, $packed:expr, $dy:expr, $table:expr) => {
        match ($packed, $dy, $table) {
            (true, DType::F32, _) => concat!($prefix, "_f32_f32"),
            (true, DType::BF16, DType::F32) => concat!($prefix, "_bf16_f32"),
            (true, DType::BF16, _) => concat!($prefix, "_bf16_bf16"),
            (true, _, DType::F32) => concat!($prefix, "_f16_f32"),
            (true, _, _) => concat!($prefix, "_f16_f16"),
            (false, DType::F32, _) => concat!($prefix, "_scalar_f32_f32"),
            (false, DType::BF16, DType::F32) => concat!($prefix, "_scalar_bf16_f32"),
            (false, DType::BF16, _) => concat!($prefix, "_scalar_bf16_bf16"),
            (false, _, DType::F32) => concat!($prefix, "_scalar_f16_f32"),
            (false, _, _) => concat!($prefix, "_scalar_f16_f16"),
        }
    };
}

pub(super) fn backward(op: &EmbeddingBackward<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let (places, width, dtype) = (op.tokens.numel(), op.dy.width(), op.dy.dtype());
    if width == 0 {
        return Ok(());
    }
    let space = Space::new(op);
    let base = gpu.workspace(space.bytes);
    let parameters = |table: &View<'_>| BackwardParameters {
        dy: Strided::rows(&op.dy),
        table: Strided::rows(table),
        token: 0,
        place: 0,
        partial: base + space.partial as u64,
        places: places as i64,
        rows: table.row_count() as i64,
        width: width as i64,
        positions: op.tokens.width() as i64,
        accumulate: op.accumulate.into(),
    };
    if !op.accumulate {
        clear(&op.dtoken_table, gpu, &parameters(&op.dtoken_table))?;
    }
    if places > 0 && op.dtoken_table.row_count() > 0 {
        let table = &op.dtoken_table;
        // SAFETY: the workspace is this operation's.
        let (token, place) = unsafe { sort(op, gpu, base) }?;
        let parameters = BackwardParameters { token, place, ..parameters(table) };
        let packed = packed(dtype, &[op.dy, *table]);
        let columns = if packed { ACCESS / dtype.size() } else { 1 };
        let windows = places.div_ceil(WINDOW) as u32;
        let strips = |of: usize| {
            let strips = width.div_ceil(of);
            let message = || format!("a width of {width} is more than a launch counts");
            if strips > MOST_STRIPS {
                Err(Gpu::unavailable("embedding_backward", message()))
            } else {
                Ok(strips as u32)
            }
        };
        let launch = |strips: u32, threads: usize| Launch {
            grid: [windows, strips, 1],
            threads: threads as u32,
            shared_bytes: 0,
        };
        let sums = launch(strips(SUM_THREADS * columns)?, SUM_THREADS);
        let finish = launch(strips(THREADS)?, THREADS);
        let name = by_tables!("embedding_token_sums", packed, dtype, table.dtype());
        let finish_name = by_dtype!("embedding_token_finish", table.dtype());
        // SAFETY: the parameters are those of embedding.cu; the views' memory outlives the work, as their maker promised,
        // and so does the workspace. The partial sums are complete when the second kernel runs.
        unsafe {
            gpu.launch("embedding", name, sums, &parameters)?;
            gpu.launch("embedding", finish_name, finish, &parameters)?;
        }
    }
    let Some(table) = &op.dposition_table else { return Ok(()) };
    let packed = packed(dtype, &[op.dy, *table]);
    let tasks = table.row_count() * width.div_ceil(if packed { ACCESS / dtype.size() } else { 1 });
    if tasks == 0 {
        return Ok(());
    }
    let launch = Launch::linear(gpu.blocks(tasks.div_ceil(SUM_THREADS), 16), SUM_THREADS as u32);
    let name = by_tables!("embedding_position_sums", packed, dtype, table.dtype());
    // SAFETY: as above.
    unsafe { gpu.launch("embedding", name, launch, &parameters(table)) }
}

/// Enqueues setting a table to 0.
fn clear(table: &View<'_>, gpu: &Gpu<'_>, parameters: &BackwardParameters) -> Result<(), CudaError> {
    if table.is_contiguous() {
        // SAFETY: the view's memory, which nothing else uses meanwhile, as its maker promised.
        return unsafe { gpu.zero(table.data() as u64, table.numel() * table.dtype().size()) };
    }
    let launch = Launch::linear(gpu.blocks(table.row_count(), 16), THREADS as u32);
    // SAFETY: the parameters are those of embedding.cu, and the view's memory outlives the work, as its maker promised.
    unsafe { gpu.launch("embedding", by_dtype!("embedding_clear", table.dtype()), launch, parameters) }
}
