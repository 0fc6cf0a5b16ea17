//! The product by cuBLASLt.
//!
//! Row-major c = op(a) op(b) is column-major c' = op(b)' op(a)', where x' is the same memory read column by column. So
//! b comes first, c's rows are columns, and what is stored transposed here is transposed there.
//!
//! What cuBLASLt does after its product, and within the contract, is done there: beta c, and a bias of c's dtype. Else
//! the products of a stretch of rows go to the workspace in f32, short enough to stay in the cache, and an own kernel
//! leads from there to c. cuBLASLt's GELU approximates tanh more coarsely than the contract allows: it is used only for
//! those who ask for [`Implementation::Vendor`].

use super::own;
use super::product::{BATCH_DIMS, Matrix, Product};
use super::{Activation, Compute, Gemm};
use crate::backend::cuda::cublaslt::{Epilogue, Layout, Matmul, Operands};
use crate::backend::cuda::{CudaError, Device, DevicePointer, Gpu, Implementation, Properties};
use crate::dtype::DType;

/// Bytes of f32 products in the workspace, unless that is less than [`LEAST_ROWS`] rows.
const SUM_BYTES: usize = 32 << 20;
const LEAST_ROWS: usize = 128;
/// Least k for which products that pass through the workspace are faster than the own kernel.
const LEAST_K: usize = 768;
/// Most calls for a batch that no single stride describes.
const MOST_CALLS: usize = 16;
/// Alignment of addresses and strides that the epilogues need, in elements and bytes.
const SAVED_ELEMENTS: usize = 8;
const EPILOGUE_BYTES: usize = 16;

/// What cuBLASLt itself may use.
fn library_bytes(properties: &Properties) -> usize {
    if properties.capability >= 90 { 32 << 20 } else { 8 << 20 }
}

/// Rows of c whose products are in the workspace at a time.
fn rows_at_once(product: &Product) -> usize {
    let row = own::sum_bytes(1, product.n);
    (SUM_BYTES / row / LEAST_ROWS * LEAST_ROWS).max(LEAST_ROWS).min(product.m)
}

/// Bytes of workspace.
pub(super) fn workspace(gemm: &Gemm<'_>, product: &Product, properties: &Properties) -> usize {
    let plain = matches!(fused(gemm, product), Some(Epilogue::None | Epilogue::Bias));
    let sums = if plain { 0 } else { own::sum_bytes(rows_at_once(product), product.n) };
    library_bytes(properties) + sums
}

/// The epilogue that cuBLASLt applies, or none if an own kernel must.
fn fused(gemm: &Gemm<'_>, product: &Product) -> Option<Epilogue> {
    if let Some(bias) = &gemm.bias
        && (bias.dtype() != gemm.c.dtype() || !(bias.data() as usize).is_multiple_of(EPILOGUE_BYTES))
    {
        return None;
    }
    let saved_fits = product.pre_activation.as_ref().is_none_or(|saved| {
        (saved.data as usize).is_multiple_of(EPILOGUE_BYTES)
            && leading(saved, product.m, product.n).is_multiple_of(SAVED_ELEMENTS)
            && saved.batch_stride.iter().all(|stride| stride.is_multiple_of(SAVED_ELEMENTS))
    });
    let coarse = gemm.implementation == Implementation::Vendor && saved_fits;
    match (gemm.activation, gemm.bias.is_some(), product.pre_activation.is_some()) {
        (Activation::None, false, _) => Some(Epilogue::None),
        (Activation::None, true, _) => Some(Epilogue::Bias),
        (Activation::GeluTanh, false, false) if coarse => Some(Epilogue::Gelu),
        (Activation::GeluTanh, true, false) if coarse => Some(Epilogue::BiasGelu),
        (Activation::GeluTanh, false, true) if coarse => Some(Epilogue::GeluSaved),
        (Activation::GeluTanh, true, true) if coarse => Some(Epilogue::BiasGeluSaved),
        // There, beta c is multiplied too; and nothing says that the argument may be d itself.
        (Activation::GeluTanhBackward, false, true) if coarse && gemm.beta == 0.0 => {
            let apart = product.pre_activation.as_ref().is_some_and(|saved| saved.data != product.c.data);
            apart.then_some(Epilogue::GeluBackward)
        }
        _ => None,
    }
}

/// Elements from row to row of a matrix; of a single row, its width.
fn leading(matrix: &Matrix, rows: usize, columns: usize) -> usize {
    if rows == 1 { columns } else { matrix.row_stride }
}

fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

/// How the batch is covered.
#[derive(Clone, Copy)]
struct Batch {
    /// Matrices in a call.
    count: usize,
    calls: usize,
}

/// The longest run of innermost dimensions that one stride describes for every matrix.
fn batch(product: &Product) -> Batch {
    let matrices = [Some(&product.a), Some(&product.b), Some(&product.c), product.pre_activation.as_ref()];
    let mut count = 1;
    for d in (0..BATCH_DIMS).rev() {
        let continues = |matrix: &Matrix| matrix.batch_stride[d] == stride_within(product, matrix, d + 1) * count;
        if product.batch[d] != 1 && count > 1 && !matrices.iter().flatten().all(|matrix| continues(matrix)) {
            break;
        }
        count *= product.batch[d];
    }
    Batch { count, calls: product.batches() / count }
}

/// The stride of the innermost dimension, from `first` on, that is not 1; 0 if there is none.
fn stride_within(product: &Product, matrix: &Matrix, first: usize) -> usize {
    (first..BATCH_DIMS).rev().find(|d| product.batch[*d] != 1).map_or(0, |d| matrix.batch_stride[d])
}

/// A product that cuBLASLt takes.
pub(super) struct Plan {
    /// None: an own kernel leads from the products to c.
    epilogue: Option<Epilogue>,
    batch: Batch,
}

/// One call of cuBLASLt: where c, and what is stored beside it, go.
struct Call<'a> {
    gemm: &'a Gemm<'a>,
    product: &'a Product,
    properties: &'a Properties,
    count: usize,
    workspace: DevicePointer,
}

impl Call<'_> {
    /// The arguments for the matrices of the batch from `index` on; sums go to `sums` instead of c if it is given.
    fn arguments(
        &self,
        index: [usize; BATCH_DIMS],
        epilogue: Epilogue,
        sums: Option<DevicePointer>,
    ) -> Option<(Matmul, Operands)> {
        let (gemm, product) = (self.gemm, self.product);
        let (m, n, k) = (product.m, product.n, product.k);
        let layout = |matrix: &Matrix, rows: usize, columns: usize| {
            let address = matrix.at(index, 0, 0) as u64;
            let leading = leading(matrix, rows, columns);
            // Rows of inputs may share memory, which no leading dimension describes.
            let layout = Layout {
                rows: columns as u64,
                columns: rows as u64,
                leading: i64::try_from(leading).ok()?,
                batch_stride: stride_within(product, matrix, 0) as i64,
                alignment: alignment(address),
            };
            (leading >= columns).then_some((layout, address))
        };
        let (b, b_address) = if gemm.transpose_b { layout(&product.b, n, k) } else { layout(&product.b, k, n) }?;
        let (a, a_address) = if gemm.transpose_a { layout(&product.a, k, m) } else { layout(&product.a, m, k) }?;
        let (mut d, mut d_address) = layout(&product.c, m, n)?;
        let (mut d_dtype, mut alpha, mut beta) = (gemm.c.dtype(), gemm.alpha, gemm.beta);
        let mut factors = product.factors;
        if let Some(sums) = sums {
            (d_dtype, alpha, beta, factors, d_address) = (DType::F32, 1.0, 0.0, 0, sums);
            d.leading = (own::sum_bytes(1, n) / size_of::<f32>()) as i64;
            d.alignment = alignment(sums);
        }
        let saved = product.pre_activation.as_ref().filter(|_| sums.is_none());
        let saved_layout =
            saved.map_or((0, 0), |saved| (leading(saved, m, n) as i64, stride_within(product, saved, 0) as i64));
        let bias = gemm.bias.filter(|_| sums.is_none()).map_or(0, |bias| bias.data() as u64);
        let matmul = Matmul {
            dtype: gemm.a.dtype(),
            d_dtype,
            transpose_a: gemm.transpose_b,
            transpose_b: gemm.transpose_a,
            a: b,
            b: a,
            d,
            batch: i32::try_from(self.count).ok()?,
            epilogue,
            saved: saved_layout,
            device_factors: factors != 0,
            workspace_bytes: library_bytes(self.properties),
        };
        let operands = Operands {
            a: b_address,
            b: a_address,
            d: d_address,
            bias,
            saved: saved.map_or(0, |saved| saved.at(index, 0, 0) as u64),
            alpha,
            beta,
            factors,
            workspace: self.workspace,
        };
        Some((matmul, operands))
    }
}

impl Plan {
    /// How cuBLASLt computes the product, or none if it cannot, or is the slower one and was not asked for.
    pub(super) fn new(gemm: &Gemm<'_>, product: &Product, device: &Device) -> Result<Option<Plan>, CudaError> {
        let asked = gemm.implementation == Implementation::Vendor;
        let widened = gemm.compute == Compute::ExactF32 && gemm.a.dtype() != DType::F32;
        if product.k == 0 || widened {
            return Ok(None);
        }
        let fused = fused(gemm, product);
        // What it does not take with a GELU of its own, it may take without.
        let plain = matches!(fused, Some(Epilogue::None | Epilogue::Bias));
        let candidates = [fused.map(Some), (!plain).then_some(None)];
        for epilogue in candidates.into_iter().flatten() {
            let plan = Plan::with(epilogue, product);
            if (asked || plan.is_worthwhile(product, device)) && plan.is_taken(gemm, product, device)? {
                return Ok(Some(plan));
            }
        }
        Ok(None)
    }

    /// Through the workspace there is a call for each matrix, at least.
    fn with(epilogue: Option<Epilogue>, product: &Product) -> Plan {
        let single = Batch { count: 1, calls: product.batches() };
        Plan { epilogue, batch: if epilogue.is_some() { batch(product) } else { single } }
    }

    /// Whether it is faster than the own kernels.
    fn is_worthwhile(&self, product: &Product, device: &Device) -> bool {
        let passes = product.k >= LEAST_K && device.properties().capability >= 90;
        self.batch.calls <= MOST_CALLS && (self.epilogue.is_some() || passes)
    }

    fn is_taken(&self, gemm: &Gemm<'_>, product: &Product, device: &Device) -> Result<bool, CudaError> {
        // An address with the alignment that the workspace has.
        let pretended = Gpu::WORKSPACE_ALIGNMENT as u64;
        let call =
            Call { gemm, product, properties: device.properties(), count: self.batch.count, workspace: pretended };
        let arguments = match self.epilogue {
            Some(epilogue) => call.arguments([0; BATCH_DIMS], epilogue, None),
            None => {
                let part = product.part(gemm, [0; BATCH_DIMS], 0, rows_at_once(product));
                Call { product: &part, ..call }.arguments([0; BATCH_DIMS], Epilogue::None, Some(pretended))
            }
        };
        let Some((matmul, operands)) = arguments else { return Ok(false) };
        device.cublas_lt().takes(device.driver(), &matmul, &operands)
    }

    /// Name for traces.
    pub(super) fn name(&self) -> &'static str {
        if self.epilogue.is_some() { "cuBLASLt" } else { "cuBLASLt, own epilogue" }
    }

    /// Enqueues the product. What cuBLASLt refuses, as a matrix of the batch that is aligned less than the first, runs
    /// on the own kernels.
    ///
    /// # Safety
    /// As for [`super::cuda::run`].
    pub(super) unsafe fn run(
        &self,
        gemm: &Gemm<'_>,
        product: &Product,
        gpu: &Gpu<'_>,
        workspace: DevicePointer,
    ) -> Result<(), CudaError> {
        let count = self.batch.count;
        let call = Call { gemm, product, properties: gpu.properties(), count, workspace };
        let Some(epilogue) = self.epilogue else {
            // SAFETY: the caller's promise.
            return unsafe { run_by_parts(&call, gpu) };
        };
        for first in (0..product.batches()).step_by(count) {
            let arguments = call.arguments(product.batch_index(first), epilogue, None);
            // SAFETY: the caller's promise; the views' memory outlives the work, as their maker promised. The own
            // kernels take less workspace than the library.
            unsafe {
                if !enqueue(gpu, arguments)? {
                    for index in first..first + count {
                        let one = product.part(gemm, product.batch_index(index), 0, product.m);
                        own::run(gemm, &one, gpu, workspace)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// # Safety
/// As for [`crate::backend::cuda::cublaslt::CublasLt::enqueue`].
unsafe fn enqueue(gpu: &Gpu<'_>, arguments: Option<(Matmul, Operands)>) -> Result<bool, CudaError> {
    let Some((matmul, operands)) = arguments else { return Ok(false) };
    let device = gpu.device();
    // SAFETY: the caller's promise.
    unsafe { device.cublas_lt().enqueue(device.driver(), &matmul, &operands, gpu.stream()) }
}

/// Enqueues the products of stretches of rows, and for each what leads from there to c.
///
/// # Safety
/// As for [`super::cuda::run`].
unsafe fn run_by_parts(call: &Call<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let (gemm, product) = (call.gemm, call.product);
    let rows = rows_at_once(product);
    let sums = call.workspace + library_bytes(call.properties) as u64;
    for index in 0..product.batches() {
        for first in (0..product.m).step_by(rows) {
            let part = product.part(gemm, product.batch_index(index), first, rows.min(product.m - first));
            let arguments = Call { product: &part, ..*call }.arguments([0; BATCH_DIMS], Epilogue::None, Some(sums));
            // SAFETY: the caller's promise; the workspace has room for the sums of this many rows. The own kernels take
            // less workspace than the library.
            unsafe {
                if enqueue(gpu, arguments)? {
                    own::finish(gemm, gpu, &part, sums, 1)?;
                } else {
                    own::run(gemm, &part, gpu, call.workspace)?;
                }
            }
        }
    }
    Ok(())
}
