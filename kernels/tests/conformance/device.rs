//! The CUDA device that the suite runs on: the machine's first GPU where there is one, else the emulated one.
//! `SCALERT_TEST_DEVICE=emulated` takes the emulated one in any case.

use scalert_kernels::backend::cuda::{CudaError, Device, Driver, Gpu, Handle, Properties, cublaslt, cudnn, image};
use scalert_kernels::ops::Op;
use std::ffi::{CStr, c_void};
use std::sync::OnceLock;

/// A device with its context, and a stream of each thread.
pub struct Cuda {
    device: Device,
    context: usize,
    pub emulated: bool,
}

/// The device, or none in a build without device code.
pub fn cuda() -> Option<&'static Cuda> {
    static CUDA: OnceLock<Option<Cuda>> = OnceLock::new();
    let cuda = CUDA.get_or_init(|| image::built().is_ok().then(Cuda::open)).as_ref();
    if let Some(cuda) = cuda {
        cuda.enter();
    }
    cuda
}

/// The device with cuBLASLt: its own where it is a GPU, else a stand-in that computes on the host.
pub fn cuda_with_cublas_lt() -> Option<&'static Cuda> {
    cuda_with_libraries(cublaslt::available)
}

/// The device with cuDNN: its own where it is a GPU, else a stand-in that computes on the host.
pub fn cuda_with_cudnn() -> Option<&'static Cuda> {
    cuda_with_libraries(cudnn::available)
}

fn cuda_with_libraries(available: fn() -> Result<(), &'static str>) -> Option<&'static Cuda> {
    static CUDA: OnceLock<Option<Cuda>> = OnceLock::new();
    let plain = cuda()?;
    if !plain.emulated {
        return available().is_ok().then_some(plain);
    }
    let open = || {
        // SAFETY: the stand-in's functions have the signatures of cuDNN's.
        assert!(unsafe { cudnn::provide(&crate::cudnn::symbol) }, "nothing has loaded cuDNN before");
        // SAFETY: the stand-in's functions have the signatures of cuBLASLt's.
        assert!(unsafe { cublaslt::provide(&crate::cublaslt::symbol) }, "nothing has loaded cuBLASLt before");
        let device = Device::new(plain.device.driver(), 0).expect("the device says what it has").with_libraries();
        Some(Cuda { device, context: plain.context, emulated: true })
    };
    CUDA.get_or_init(open).as_ref()
}

fn emulated_symbol(name: &CStr) -> *const c_void {
    scalert_ptx_emulator::symbol(name.to_str().expect("function names are ASCII")).unwrap_or(std::ptr::null())
}

fn emulated() -> &'static Driver {
    // SAFETY: the emulator's symbols are functions of the driver API.
    let driver = unsafe { Driver::from_symbols(&emulated_symbol) }.expect("the emulator is complete");
    driver.start().expect("the emulated driver starts");
    Box::leak(Box::new(driver))
}

impl Cuda {
    fn open() -> Cuda {
        let wanted = std::env::var("SCALERT_TEST_DEVICE").is_ok_and(|device| device == "emulated");
        let machine = Driver::of_machine().ok().filter(|driver| {
            let mut count = 0;
            // SAFETY: writes one integer.
            !wanted && unsafe { driver.device_count(&mut count) }.is_ok() && count > 0
        });
        let driver = machine.unwrap_or_else(emulated);
        let mut context: Handle = std::ptr::null_mut();
        // SAFETY: the first device's primary context, retained for as long as the process lives.
        let device = unsafe {
            driver.primary_context_retain(&mut context, 0).expect("the device has a context");
            driver.context_set(context).expect("the context is valid");
            Device::new(driver, 0).expect("the device says what it has")
        };
        Cuda { device, context: context as usize, emulated: machine.is_none() }
    }

    /// Makes the context current on this thread.
    fn enter(&self) {
        // SAFETY: the context is retained for ever.
        unsafe { self.device.driver().context_set(self.context as Handle) }.expect("the context is valid");
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn properties(&self) -> &Properties {
        self.device.properties()
    }

    /// `words` 64-bit words that host and device address alike; not null.
    pub fn allocate(&self, words: usize) -> *mut u64 {
        const GLOBAL: u32 = 1;
        let mut address = 0;
        // SAFETY: writes one address.
        unsafe { self.device.driver().memory_alloc_managed(&mut address, words.max(1) * 8, GLOBAL) }
            .expect("the device has memory for the tests");
        address as *mut u64
    }

    /// Gives memory back.
    pub fn free(&self, memory: *mut u64) {
        // SAFETY: the memory came from `allocate`, and all work on it has been waited for.
        let freed = unsafe { self.device.driver().memory_free(memory as u64) };
        // After a fault nothing works any more; the panic under way says why.
        assert!(freed.is_ok() || std::thread::panicking(), "{freed:?}");
    }

    /// Runs `op` on a workspace full of NaN, and waits.
    pub fn run<O: Op>(&self, op: &O) {
        let bytes = op.cuda_workspace(self.properties());
        let words = bytes.div_ceil(8) + Gpu::WORKSPACE_ALIGNMENT / 8;
        let storage = self.allocate(words);
        // SAFETY: the storage has this many words, and no one else uses it.
        unsafe { std::slice::from_raw_parts_mut(storage, words).fill(u64::MAX) };
        let workspace = (storage as usize).next_multiple_of(Gpu::WORKSPACE_ALIGNMENT) as u64;
        let per_thread_stream = 2 as Handle;
        // SAFETY: the stream is the driver's own, and the workspace lives until the work is done.
        let gpu = unsafe { Gpu::new(&self.device, per_thread_stream, workspace, bytes) };
        let done = op.cuda(&gpu).and_then(|()| {
            // SAFETY: waits for this thread's stream.
            unsafe { self.device.driver().stream_synchronize(per_thread_stream) }
        });
        done.unwrap_or_else(|error| panic!("{}: {}", O::NAME, self.explain(&error)));
        self.free(storage);
    }

    fn explain(&self, error: &CudaError) -> String {
        let fault = self.emulated.then(scalert_ptx_emulator::last_fault).flatten();
        fault.map_or_else(|| error.to_string(), |fault| format!("{error}\n{fault}"))
    }
}
