//! The product by this library's kernels.

use super::product::{BATCH_DIMS, Matrix, Product};
use super::{Activation, Compute, Gemm};
use crate::backend::cuda::{CudaError, DevicePointer, Gpu, Launch, Properties};
use crate::dtype::DType;

/// Sides of a tile of c, and of a small one.
const SIDE: usize = 128;
const SMALL_SIDE: usize = 64;
/// Tiles below which k is cut in parts, and up to how many there may be then. These and the next two decide the order
/// of sums, so they depend on no device.
const FEW_TILES: usize = 128;
const MOST_TILES: usize = 256;
/// Least elements of k in a part, and the multiple that they are.
const LEAST_PART: usize = 512;
const PART_UNIT: usize = 64;
/// Columns of a group of sums: `GROUP` of gemm.cuh.
const GROUP: usize = 4;
/// Elements that the tensor core kernels copy and store at once: `PIECE` of gemm_mma.cu.
const PIECE: usize = 8;
/// Blocks along z that one launch may have.
const MOST_BATCHES: usize = 65535;

/// `Matrix` of gemm.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct DeviceMatrix {
    data: u64,
    stride: i64,
    batch_stride: [i64; BATCH_DIMS],
}

impl DeviceMatrix {
    const NONE: DeviceMatrix = DeviceMatrix { data: 0, stride: 0, batch_stride: [0; BATCH_DIMS] };

    fn new(matrix: &Matrix, rows: usize) -> DeviceMatrix {
        DeviceMatrix {
            data: matrix.data as u64,
            // That of a single row may be anything, while the addresses past it, of which nothing is read, are aligned
            // as the first.
            stride: if rows > 1 { matrix.row_stride as i64 } else { 0 },
            batch_stride: matrix.batch_stride.map(|stride| stride as i64),
        }
    }
}

/// `Parameters` of gemm.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    a: DeviceMatrix,
    b: DeviceMatrix,
    c: DeviceMatrix,
    saved: DeviceMatrix,
    bias: u64,
    factors: u64,
    sums: u64,
    m: i64,
    n: i64,
    k: i64,
    part: i64,
    batch: [i64; BATCH_DIMS],
    first_batch: i64,
    batches: i64,
    alpha: f32,
    beta: f32,
    activation: i32,
    parts: i32,
    transpose_a: i32,
    transpose_b: i32,
    c_f32: i32,
    bias_f32: i32,
    a_aligned: i32,
    b_aligned: i32,
    c_aligned: i32,
    saved_aligned: i32,
    bias_aligned: i32,
    padding: i32,
}

/// How k is cut: how many parts, and how many elements in each.
fn parts(product: &Product) -> (usize, usize) {
    let tiles = product.m.div_ceil(SMALL_SIDE) * product.n.div_ceil(SMALL_SIDE) * product.batches();
    if tiles >= FEW_TILES || product.k < 2 * LEAST_PART {
        return (1, product.k);
    }
    let parts = (MOST_TILES / tiles).min(product.k / LEAST_PART).min(16);
    let part = product.k.div_ceil(parts).next_multiple_of(PART_UNIT);
    (product.k.div_ceil(part), part)
}

/// Bytes of `rows` rows of sums.
pub(super) fn sum_bytes(rows: usize, columns: usize) -> usize {
    rows * columns.next_multiple_of(GROUP) * size_of::<f32>()
}

/// Bytes for the partial sums.
pub(super) fn workspace(product: &Product) -> usize {
    match parts(product) {
        (1, _) => 0,
        (parts, _) => sum_bytes(parts * product.batches() * product.m, product.n),
    }
}

/// Whether the product runs on tensor cores.
pub(super) fn on_tensor_cores(gemm: &Gemm<'_>) -> bool {
    gemm.a.dtype() != DType::F32 && gemm.compute == Compute::Default
}

/// Name of the kernel that runs, for traces.
pub(super) fn name(gemm: &Gemm<'_>) -> &'static str {
    if on_tensor_cores(gemm) { "own mma" } else { "own simt" }
}

/// Whether `width` elements at any multiple of them in any row can be accessed at once, in 16 bytes at most.
fn aligned(matrix: &Matrix, rows: usize, width: usize) -> bool {
    let elements = width.min(16 / matrix.size);
    (matrix.data as usize).is_multiple_of(elements * matrix.size)
        && (rows == 1 || matrix.row_stride.is_multiple_of(elements))
        && matrix.batch_stride.iter().all(|stride| stride.is_multiple_of(elements))
}

/// The parameters of a product whose kernel handles groups of `width` elements.
fn parameters(gemm: &Gemm<'_>, product: &Product, width: usize) -> Parameters {
    let saved = product.pre_activation.as_ref();
    let a_rows = if gemm.transpose_a { product.k } else { product.m };
    let b_rows = if gemm.transpose_b { product.n } else { product.k };
    let (parts, part) = parts(product);
    let bias_aligned = |bias: &crate::view::View<'_>| {
        let size = bias.dtype().size();
        (bias.data() as usize).is_multiple_of(width.min(16 / size) * size)
    };
    Parameters {
        a: DeviceMatrix::new(&product.a, a_rows),
        b: DeviceMatrix::new(&product.b, b_rows),
        c: DeviceMatrix::new(&product.c, product.m),
        saved: saved.map_or(DeviceMatrix::NONE, |matrix| DeviceMatrix::new(matrix, product.m)),
        bias: gemm.bias.map_or(0, |bias| bias.data() as u64),
        factors: product.factors,
        sums: 0,
        m: product.m as i64,
        n: product.n as i64,
        k: product.k as i64,
        part: part as i64,
        batch: product.batch.map(|extent| extent as i64),
        first_batch: 0,
        batches: product.batches() as i64,
        alpha: gemm.alpha,
        beta: gemm.beta,
        activation: match gemm.activation {
            Activation::None => 0,
            Activation::GeluTanh => 1,
            Activation::GeluExact => 2,
            Activation::GeluTanhBackward => 3,
            Activation::GeluExactBackward => 4,
        },
        parts: parts as i32,
        transpose_a: gemm.transpose_a.into(),
        transpose_b: gemm.transpose_b.into(),
        c_f32: (gemm.c.dtype() == DType::F32).into(),
        bias_f32: gemm.bias.is_some_and(|bias| bias.dtype() == DType::F32).into(),
        a_aligned: aligned(&product.a, a_rows, width).into(),
        b_aligned: aligned(&product.b, b_rows, width).into(),
        c_aligned: aligned(&product.c, product.m, width).into(),
        saved_aligned: saved.is_some_and(|matrix| aligned(matrix, product.m, width)).into(),
        bias_aligned: gemm.bias.as_ref().is_some_and(bias_aligned).into(),
        padding: 0,
    }
}

/// Shared memory of a tensor core kernel: `STAGES` stages of both operands.
fn mma_shared_bytes(side: usize) -> u32 {
    const STAGES: usize = 4;
    const STEP: usize = 32;
    (STAGES * 2 * side * STEP * 2) as u32
}

/// The kernel of the product: its file, name, threads and dynamic shared memory.
fn kernel(gemm: &Gemm<'_>, small: bool) -> (&'static str, &'static str, u32, u32) {
    if !on_tensor_cores(gemm) {
        let name = match gemm.a.dtype() {
            DType::BF16 => "gemm_simt_64x64_bf16",
            DType::F16 => "gemm_simt_64x64_f16",
            _ if small => "gemm_simt_64x64_f32",
            _ => "gemm_simt_128x128_f32",
        };
        return ("gemm_simt", name, 256, 0);
    }
    macro_rules! names {
        ($tile:literal, $suffix:literal) => {
            [
                concat!("gemm_", $tile, "_nn_", $suffix),
                concat!("gemm_", $tile, "_nt_", $suffix),
                concat!("gemm_", $tile, "_tn_", $suffix),
                concat!("gemm_", $tile, "_tt_", $suffix),
            ]
        };
    }
    let names = match (gemm.a.dtype(), small) {
        (DType::BF16, false) => names!("128x128", "bf16"),
        (DType::BF16, true) => names!("64x64", "bf16"),
        (_, false) => names!("128x128", "f16"),
        (_, true) => names!("64x64", "f16"),
    };
    let name = names[2 * usize::from(gemm.transpose_a) + usize::from(gemm.transpose_b)];
    let (side, threads) = if small { (SMALL_SIDE, 128) } else { (SIDE, 256) };
    ("gemm_mma", name, threads, mma_shared_bytes(side))
}

/// Whether the small tiles are the better ones on this device: the large ones would not fill it. (Any tile gives the
/// same bits.)
fn small_tiles(gemm: &Gemm<'_>, product: &Product, properties: &Properties) -> bool {
    let tiles = product.m.div_ceil(SIDE) * product.n.div_ceil(SIDE) * product.batches() * parts(product).0;
    let widened = !on_tensor_cores(gemm) && gemm.a.dtype() != DType::F32;
    widened || product.m <= SMALL_SIDE || product.n <= SMALL_SIDE || tiles < properties.multiprocessors as usize
}

/// Launches `kernel` for each stretch of the batch that one launch can hold.
///
/// # Safety
/// As for [`Gpu::launch`].
unsafe fn launch_batches(
    gpu: &Gpu<'_>,
    (file, name): (&'static str, &'static str),
    launch: Launch,
    mut parameters: Parameters,
) -> Result<(), CudaError> {
    let batches = parameters.batches as usize;
    for first in (0..batches).step_by(MOST_BATCHES) {
        parameters.first_batch = first as i64;
        let [x, y, _] = launch.grid;
        let grid = [x, y, (batches - first).min(MOST_BATCHES) as u32];
        // SAFETY: the caller's promise.
        unsafe { gpu.launch(file, name, Launch { grid, ..launch }, &parameters) }?;
    }
    Ok(())
}

/// Enqueues the product; c is not empty.
///
/// # Safety
/// `workspace` is aligned to [`Gpu::WORKSPACE_ALIGNMENT`], has [`workspace`] bytes of device memory and no other user
/// until the work is done.
pub(super) unsafe fn run(
    gemm: &Gemm<'_>,
    product: &Product,
    gpu: &Gpu<'_>,
    workspace: DevicePointer,
) -> Result<(), CudaError> {
    let width = if on_tensor_cores(gemm) { PIECE } else { GROUP };
    let mut parameters = parameters(gemm, product, width);
    if parameters.parts > 1 {
        parameters.sums = workspace;
    }
    let small = small_tiles(gemm, product, gpu.properties());
    let side = if small { SMALL_SIDE } else { SIDE };
    let tiles = product.m.div_ceil(side) * product.n.div_ceil(side);
    let most = i32::MAX as usize;
    if tiles > most || product.batches() > most {
        let message = format!("{tiles} tiles and {} matrices are more than a launch counts", product.batches());
        return Err(Gpu::unavailable("gemm", message));
    }
    let grid = [tiles as u32, parameters.parts as u32, 1];
    let (file, name, threads, shared_bytes) = kernel(gemm, small);
    // SAFETY: the parameters are those of the kernel; the views' memory outlives the work, as their maker promised, and
    // so does the workspace.
    unsafe { launch_batches(gpu, (file, name), Launch { grid, threads, shared_bytes }, parameters) }?;
    if parameters.parts == 1 {
        return Ok(());
    }
    // SAFETY: as above; the sums are complete when this runs.
    unsafe { finish(gemm, gpu, product, workspace, parameters.parts) }
}

/// Enqueues what leads from sums to c. There are `parts` sums of each element, unscaled, rows padded to [`GROUP`].
///
/// # Safety
/// `sums` is device memory that holds them, aligned to 16 bytes, until the work is done.
pub(super) unsafe fn finish(
    gemm: &Gemm<'_>,
    gpu: &Gpu<'_>,
    product: &Product,
    sums: DevicePointer,
    parts: i32,
) -> Result<(), CudaError> {
    let parameters = Parameters { sums, parts, ..parameters(gemm, product, GROUP) };
    let across = product.n.div_ceil(GROUP * 256).min(MOST_BATCHES) as u32;
    let grid = [gpu.blocks(product.m, 16.max(64 / across)), across, 1];
    let name = crate::by_dtype!("gemm_finish", gemm.a.dtype());
    // SAFETY: the parameters are those of the kernel, and the memory outlives the work.
    unsafe { launch_batches(gpu, ("gemm_finish", name), Launch { grid, threads: 256, shared_bytes: 0 }, parameters) }
}
