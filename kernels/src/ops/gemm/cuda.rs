//! Which kernels a product runs on: cuBLASLt's or this library's.

use super::product::Product;
use super::{Gemm, own, vendor};
use crate::backend::cuda::{CudaError, Device, DevicePointer, Gpu, Implementation, Properties, cublaslt};

/// Bytes of workspace, whichever kernels run.
pub(super) fn workspace(gemm: &Gemm<'_>, properties: &Properties) -> usize {
    if gemm.c.numel() == 0 {
        return 0;
    }
    let product = Product::new(gemm);
    let bytes = own::workspace(&product);
    let may_be_vendor =
        gemm.implementation != Implementation::Own && properties.native && cublaslt::available().is_ok();
    if may_be_vendor { bytes.max(vendor::workspace(gemm, &product, properties)) } else { bytes }
}

/// How cuBLASLt would compute the product, or none if this library's kernels do.
fn choose(gemm: &Gemm<'_>, product: &Product, device: &Device) -> Result<Option<vendor::Plan>, CudaError> {
    if gemm.implementation == Implementation::Own {
        return Ok(None);
    }
    let available = if device.properties().native {
        device.cublas_lt().check(device.driver())
    } else {
        Err(Gpu::unavailable("gemm", "an emulated device has no cuBLASLt"))
    };
    match available {
        Ok(()) => vendor::Plan::new(gemm, product, device),
        Err(error) if gemm.implementation == Implementation::Vendor => Err(error),
        Err(_) => Ok(None),
    }
}

/// Name of what runs, for traces.
pub(super) fn name(gemm: &Gemm<'_>, device: &Device) -> Result<&'static str, CudaError> {
    if gemm.c.numel() == 0 {
        return Ok("nothing");
    }
    let plan = choose(gemm, &Product::new(gemm), device)?;
    Ok(plan.map_or_else(|| own::name(gemm), |plan| plan.name()))
}

/// Enqueues the product. Unless `factors` is 0, the device finds alpha there, and beta after it, which is 0 if and only
/// if the operation's is.
///
/// # Safety
/// `workspace` is aligned to [`Gpu::WORKSPACE_ALIGNMENT`], has [`workspace`] bytes of device memory and no other user
/// until the work is done. `factors`, if not 0, is the address of two f32 in device memory.
pub(super) unsafe fn run(
    gemm: &Gemm<'_>,
    gpu: &Gpu<'_>,
    workspace: DevicePointer,
    factors: DevicePointer,
) -> Result<(), CudaError> {
    if gemm.c.numel() == 0 {
        return Ok(());
    }
    let product = Product { factors, ..Product::new(gemm) };
    if let Some(plan) = choose(gemm, &product, gpu.device())? {
        // SAFETY: the caller's promise.
        return unsafe { plan.run(gemm, &product, gpu, workspace) };
    }
    // SAFETY: the caller's promise.
    unsafe { own::run(gemm, &product, gpu, workspace) }
}
