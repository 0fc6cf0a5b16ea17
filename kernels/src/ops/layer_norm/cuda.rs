//! Launches the row kernels of either norm: `rows.cuh`.

use super::{LayerNormBackward, LayerNormForward};
use crate::backend::cuda::{CudaError, Gpu, Launch, Strided};
use crate::by_dtype;
use crate::dtype::DType;
use crate::view::View;

/// Bytes of an access.
const ACCESS: usize = 16;
/// Most threads of a row: MOST_THREADS of rows.cuh.
const MOST_THREADS: usize = 512;
/// Threads of a block whose rows need fewer.
const THREADS: usize = 128;
/// Packs of a row that fall to one thread of the long path, and up to how many packs a row takes the short one.
const LONG_PACKS: usize = 4;
const SHORT_ROW: usize = 32;
/// Most chunks of rows of the backward pass, so few that all are under way at once on a large device, and the rows of a
/// chunk, at least: its sums are written and read again. Neither depends on the device.
const MOST_CHUNKS: usize = 384;
const LEAST_ROWS: usize = 8;
/// Shared memory that a kernel has besides the partial sums, and more.
const OTHER_SHARED_BYTES: usize = 512;
/// Columns and threads of a block that adds up chunks: FINISH_COLUMNS and FINISH_COLUMNS * FINISH_LANES of rows.cuh.
const FINISH_COLUMNS: usize = 32;
const FINISH_THREADS: u32 = 512;

/// `Vector` of rows.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct Vector {
    data: u64,
    is_f32: i64,
}

impl Vector {
    fn new(parameter: &Option<View<'_>>) -> Vector {
        match parameter {
            Some(view) => Vector { data: view.data() as u64, is_f32: (view.dtype() == DType::F32).into() },
            None => Vector { data: 0, is_f32: 0 },
        }
    }
}

/// `ForwardParameters` of rows.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct ForwardParameters {
    x: Strided,
    y: Strided,
    mean: Strided,
    rstd: Strided,
    weight: Vector,
    bias: Vector,
    rows: i64,
    width: i64,
    epsilon: f32,
    group: i32,
}

/// `BackwardParameters` of rows.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct BackwardParameters {
    dy: Strided,
    x: Strided,
    dx: Strided,
    mean: Strided,
    rstd: Strided,
    weight: Vector,
    sums: u64,
    rows: i64,
    width: i64,
    chunk: i64,
    group: i64,
}

/// `FinishParameters` of rows.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct FinishParameters {
    sums: u64,
    stride: i64,
    chunks: i64,
    gradient: u64,
    width: i64,
    accumulate: i64,
}

/// How a row is read: once, as one pack of 16 bytes of each thread, or as four; or again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    Short,
    Long,
    Loop,
}

/// The name of a kernel for a path, whether all is aligned, and a dtype: `by_path!("rms_norm_forward", path, dtype)`,
/// where `path` is a pair.
macro_rules! by_path {
    ($prefix:literal, $path:expr, $dtype:expr) => {{
        use $crate::{by_dtype, ops::layer_norm::cuda::Path};
        match $path {
            (Path::Short, true) => by_dtype!($prefix "_short", $dtype),
            (Path::Short, false) => by_dtype!($prefix "_short_unaligned", $dtype),
            (Path::Long, true) => by_dtype!($prefix "_long", $dtype),
            (Path::Long, false) => by_dtype!($prefix "_long_unaligned", $dtype),
            (Path::Loop, true) => by_dtype!($prefix "_loop", $dtype),
            (Path::Loop, false) => by_dtype!($prefix "_loop_unaligned", $dtype),
        }
    }};
}
pub(crate) use by_path;

/// How the rows are shared out: a function of their width and dtype, and with it the order of sums.
#[derive(Clone, Copy)]
struct Plan {
    path: Path,
    /// Threads of a row, and of a block.
    group: usize,
    threads: usize,
}

impl Plan {
    const LOOP: Plan = Plan { path: Path::Loop, group: MOST_THREADS, threads: MOST_THREADS };

    fn new(dtype: DType, width: usize) -> Plan {
        let packs = width.div_ceil(ACCESS / dtype.size());
        if packs <= SHORT_ROW {
            let group = packs.next_power_of_two().clamp(8, 32);
            return Plan { path: Path::Short, group, threads: MOST_THREADS };
        }
        let group = packs.div_ceil(LONG_PACKS).next_power_of_two();
        if group > MOST_THREADS { Plan::LOOP } else { Plan { path: Path::Long, group, threads: group.max(THREADS) } }
    }

    /// Rows that a block has at once.
    fn rows(&self) -> usize {
        self.threads / self.group
    }

    /// Bytes of shared memory for `gradients` partial sums of each column that a block's threads have.
    fn shared_bytes(&self, dtype: DType, gradients: usize) -> usize {
        let packs = match self.path {
            Path::Short => 1,
            Path::Long => LONG_PACKS,
            Path::Loop => return 0,
        };
        gradients * self.threads * packs * (ACCESS / dtype.size()) * size_of::<f32>()
    }
}

/// Whether all rows are whole packs, each at a multiple of its size.
fn all_aligned(rows: &[View<'_>], parameters: &[Option<View<'_>>]) -> bool {
    let aligned = |view: &View<'_>| Strided::rows(view).is_aligned(ACCESS, view.dtype().size());
    let whole = rows[0].width().is_multiple_of(ACCESS / rows[0].dtype().size());
    whole && rows.iter().chain(parameters.iter().flatten()).all(aligned)
}

fn statistic(view: &Option<View<'_>>) -> Strided {
    view.as_ref().map_or(Strided::NONE, Strided::elements)
}

/// The forward pass of either norm. `name` is the kernel's for a path.
pub(crate) struct Forward<'a> {
    pub(crate) x: View<'a>,
    pub(crate) weight: Option<View<'a>>,
    pub(crate) bias: Option<View<'a>>,
    pub(crate) epsilon: f32,
    pub(crate) y: View<'a>,
    pub(crate) mean: Option<View<'a>>,
    pub(crate) rstd: Option<View<'a>>,
}

impl Forward<'_> {
    /// Enqueues it: a kernel of `file`, whose name for a path is `name`.
    pub(crate) fn run(
        &self,
        gpu: &Gpu<'_>,
        file: &'static str,
        name: impl Fn((Path, bool)) -> &'static str,
    ) -> Result<(), CudaError> {
        let (rows, width) = (self.x.row_count(), self.x.width());
        if rows == 0 {
            return Ok(());
        }
        let aligned = all_aligned(&[self.x, self.y], &[self.weight, self.bias]);
        let plan = Plan::new(self.x.dtype(), width);
        let parameters = ForwardParameters {
            x: Strided::rows(&self.x),
            y: Strided::rows(&self.y),
            mean: statistic(&self.mean),
            rstd: statistic(&self.rstd),
            weight: Vector::new(&self.weight),
            bias: Vector::new(&self.bias),
            rows: rows as i64,
            width: width as i64,
            epsilon: self.epsilon,
            group: plan.group as i32,
        };
        let blocks = gpu.blocks(rows.div_ceil(plan.rows()), (4096 / plan.threads) as u32);
        let launch = Launch::linear(blocks, plan.threads as u32);
        // SAFETY: the parameters are those of rows.cuh, and the views' memory outlives the work, as their maker
        // promised.
        unsafe { gpu.launch(file, name((plan.path, aligned)), launch, &parameters) }
    }
}

/// The backward pass of either norm.
pub(crate) struct Backward<'a> {
    pub(crate) dy: View<'a>,
    pub(crate) x: View<'a>,
    pub(crate) weight: Option<View<'a>>,
    /// Present when centered.
    pub(crate) mean: Option<View<'a>>,
    pub(crate) rstd: View<'a>,
    pub(crate) dx: View<'a>,
    pub(crate) dweight: Option<View<'a>>,
    pub(crate) dbias: Option<View<'a>>,
    pub(crate) accumulate: bool,
}

impl Backward<'_> {
    /// Gradients of parameters that a chunk has sums of.
    fn gradients(&self) -> usize {
        if self.mean.is_some() { 2 } else { 1 }
    }

    fn wants_sums(&self) -> bool {
        self.dweight.is_some() || self.dbias.is_some()
    }

    /// The plan, and the rows of a chunk.
    fn plan(&self, shared_bytes: usize) -> (Plan, usize) {
        let dtype = self.x.dtype();
        let mut plan = Plan::new(dtype, self.x.width());
        if plan.shared_bytes(dtype, self.gradients()) + OTHER_SHARED_BYTES > shared_bytes {
            plan = Plan::LOOP;
        }
        let rows = self.x.row_count().div_ceil(MOST_CHUNKS).max(LEAST_ROWS);
        (plan, rows.next_multiple_of(plan.rows()))
    }

    /// Bytes of workspace on a device that has `shared_bytes` bytes of shared memory for a block.
    pub(crate) fn workspace(&self, shared_bytes: usize) -> usize {
        if !self.wants_sums() {
            return 0;
        }
        let chunks = self.x.row_count().div_ceil(self.plan(shared_bytes).1);
        chunks * self.gradients() * self.x.width() * size_of::<f32>()
    }

    /// Enqueues it: a kernel of `file`, whose name for a path is `name`, and the addition of the chunks.
    pub(crate) fn run(
        &self,
        gpu: &Gpu<'_>,
        file: &'static str,
        name: impl Fn((Path, bool)) -> &'static str,
    ) -> Result<(), CudaError> {
        let (rows, width) = (self.x.row_count(), self.x.width());
        if width == 0 {
            return Ok(());
        }
        let device_shared = gpu.properties().shared_bytes as usize;
        let (plan, chunk) = self.plan(device_shared);
        let sums = gpu.workspace(self.workspace(device_shared));
        let chunks = rows.div_ceil(chunk);
        let aligned = all_aligned(&[self.dy, self.x, self.dx], &[self.weight]);
        if chunks > 0 {
            let shared = if self.wants_sums() { plan.shared_bytes(self.x.dtype(), self.gradients()) } else { 0 };
            let parameters = BackwardParameters {
                dy: Strided::rows(&self.dy),
                x: Strided::rows(&self.x),
                dx: Strided::rows(&self.dx),
                mean: statistic(&self.mean),
                rstd: Strided::elements(&self.rstd),
                weight: Vector::new(&self.weight),
                sums: if self.wants_sums() { sums } else { 0 },
                rows: rows as i64,
                width: width as i64,
                chunk: chunk as i64,
                group: plan.group as i64,
            };
            let launch = Launch { shared_bytes: shared as u32, ..Launch::linear(chunks as u32, plan.threads as u32) };
            // SAFETY: the parameters are those of rows.cuh; the views' memory outlives the work, as their maker
            // promised, and so does the workspace.
            unsafe { gpu.launch(file, name((plan.path, aligned)), launch, &parameters) }?;
        }
        for (gradient, first) in [(self.dweight, 0), (self.dbias, width)] {
            let Some(gradient) = gradient else { continue };
            let parameters = FinishParameters {
                sums: sums + (first * size_of::<f32>()) as u64,
                stride: (self.gradients() * width) as i64,
                chunks: chunks as i64,
                gradient: gradient.data() as u64,
                width: width as i64,
                accumulate: self.accumulate.into(),
            };
            let launch = Launch::linear(width.div_ceil(FINISH_COLUMNS) as u32, FINISH_THREADS);
            // SAFETY: as above; the gradient has `width` elements, and the chunks' sums are complete when this runs.
            unsafe { gpu.launch("norm_finish", by_dtype!("norm_finish", gradient.dtype()), launch, &parameters) }?;
        }
        Ok(())
    }
}

pub(super) fn forward(op: &LayerNormForward<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let LayerNormForward { x, weight, bias, epsilon, y, mean, rstd } = *op;
    let rows = Forward { x, weight, bias, epsilon, y, mean, rstd };
    rows.run(gpu, "layer_norm", |path| by_path!("layer_norm_forward", path, x.dtype()))
}

fn rows<'a>(op: &LayerNormBackward<'a>) -> Backward<'a> {
    Backward {
        dy: op.dy,
        x: op.x,
        weight: op.weight,
        mean: Some(op.mean),
        rstd: op.rstd,
        dx: op.dx,
        dweight: op.dweight,
        dbias: op.dbias,
        accumulate: op.accumulate,
    }
}

pub(super) fn backward_workspace(op: &LayerNormBackward<'_>, shared_bytes: usize) -> usize {
    rows(op).workspace(shared_bytes)
}

pub(super) fn backward(op: &LayerNormBackward<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    rows(op).run(gpu, "layer_norm", |path| by_path!("layer_norm_backward", path, op.x.dtype()))
}
