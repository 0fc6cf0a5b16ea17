//! What a CUDA device can do, measured with the libraries that come with it: a copy from device to device by the driver,
//! and a matrix product by cuBLASLt.

use crate::buffer::Buffer;
use scalert_runtime::ops::gemm::{Activation, Compute, Gemm, Implementation};
use scalert_runtime::{DType, Stream};
use std::sync::Arc;

/// A probe ready to run on a stream: each call of `run` enqueues it once.
pub(crate) struct DeviceProbe {
    /// Bytes or operations of one run.
    pub(crate) work: f64,
    pub(crate) run: Box<dyn FnMut()>,
}

/// The largest copy: what a few seconds of memory traffic need, and far more than a cache holds.
const COPY_BYTES: usize = 2 << 30;

/// Bytes read plus bytes written by a copy as large as the case's streams.
pub(crate) fn copy(stream: &Arc<Stream>, bytes: usize) -> DeviceProbe {
    let bytes = (bytes / 2).clamp(1 << 20, COPY_BYTES) / 4 * 4;
    let from = Buffer::zeros(stream, DType::F32, &[bytes / 4]);
    let to = Buffer::zeros(stream, DType::F32, &[bytes / 4]);
    let stream = Arc::clone(stream);
    let run = Box::new(move || {
        // SAFETY: two buffers of this size, which the closure owns; the case waits before they are dropped.
        unsafe { stream.copy(to.view().data(), from.view().data(), bytes) }.expect("both are on the device");
    });
    DeviceProbe { work: 2.0 * bytes as f64, run }
}

/// Operations of a large square product on random data, by cuBLASLt where it is installed.
pub(crate) fn product(stream: &Arc<Stream>, dtype: DType) -> DeviceProbe {
    let n = if dtype == DType::F32 { 4096 } else { 8192 };
    let [a, b] = [(); 2].map(|()| Buffer::filled(stream, dtype, &[n, n], 1.0));
    let c = Buffer::zeros(stream, dtype, &[n, n]);
    let stream = Arc::clone(stream);
    let run = Box::new(move || {
        let op = Gemm {
            transpose_a: false,
            transpose_b: false,
            a: a.view(),
            b: b.view(),
            c: c.view(),
            alpha: 1.0,
            beta: 0.0,
            bias: None,
            activation: Activation::None,
            pre_activation: None,
            compute: Compute::Default,
            implementation: Implementation::Auto,
        };
        stream.submit(&op).expect("a valid product");
    });
    DeviceProbe { work: 2.0 * (n as f64).powi(3), run }
}
