//! What an operation runs with on a CUDA device: a stream to enqueue on, and a workspace lent by the caller.

use super::device::{Device, Properties};
use super::driver::{CudaError, DevicePointer, Handle, Library};
use std::ffi::c_void;

/// What an operation runs with on a CUDA device. The context is current on the calling thread.
pub struct Gpu<'a> {
    device: &'a Device,
    stream: Handle,
    workspace: DevicePointer,
    workspace_bytes: usize,
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
}

impl Launch {
    /// Blocks in one dimension, without dynamic shared memory.
    pub fn linear(blocks: u32, threads: u32) -> Launch {
        Launch { grid: [blocks, 1, 1], threads, shared_bytes: 0 }
    }
}

impl<'a> Gpu<'a> {
    /// Alignment of the workspace in bytes.
    pub const WORKSPACE_ALIGNMENT: usize = 256;

    /// A context over `stream` and a workspace in device memory, aligned to [`Self::WORKSPACE_ALIGNMENT`], whose
    /// content is undefined before and after each operation.
    ///
    /// # Safety
    /// While work enqueued through this runs, the stream lives and the workspace is used by nothing else.
    pub unsafe fn new(device: &'a Device, stream: Handle, workspace: DevicePointer, workspace_bytes: usize) -> Gpu<'a> {
        assert!(workspace.is_multiple_of(Self::WORKSPACE_ALIGNMENT as u64), "workspace is not aligned");
        Gpu { device, stream, workspace, workspace_bytes }
    }

    /// The device.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// What launches are sized by.
    pub fn properties(&self) -> &Properties {
        self.device.properties()
    }

    /// The stream to enqueue on.
    pub fn stream(&self) -> Handle {
        self.stream
    }

    /// The first `bytes` of the workspace. Panics when the operation asked for less than it uses.
    pub fn workspace(&self, bytes: usize) -> DevicePointer {
        assert!(bytes <= self.workspace_bytes, "workspace of {} bytes, {bytes} used", self.workspace_bytes);
        self.workspace
    }

    /// Blocks of a grid-stride launch over `tasks`: all of them, but no more than `per_multiprocessor` times the
    /// multiprocessors. At least 1.
    pub fn blocks(&self, tasks: usize, per_multiprocessor: u32) -> u32 {
        let most = (self.properties().multiprocessors * per_multiprocessor) as usize;
        tasks.clamp(1, most) as u32
    }

    /// Enqueues the kernel `name` of the file `file` with the one parameter that it takes, a `repr(C)` struct.
    ///
    /// # Safety
    /// `P` has the layout of the kernel's parameter, and every address in it stays valid, as the kernel uses it, until
    /// the work is done.
    pub unsafe fn launch<P: Copy>(
        &self,
        file: &'static str,
        name: &'static str,
        launch: Launch,
        parameter: &P,
    ) -> Result<(), CudaError> {
        let function = self.device.function(file, name)?;
        assert_eq!(function.parameter_bytes, size_of::<P>(), "{name}: the parameter's size differs from the kernel's");
        let mut parameters = [(parameter as *const P).cast_mut().cast::<c_void>()];
        let [x, y, z] = launch.grid;
        // SAFETY: the function is loaded, and the driver copies the parameter before it returns.
        unsafe {
            self.device.driver().launch(
                function.handle,
                x,
                y,
                z,
                launch.threads,
                1,
                1,
                launch.shared_bytes,
                self.stream,
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .map_err(|error| CudaError { message: format!("{name}: {}", error.message), ..error })
    }

    /// Enqueues setting `bytes` bytes at `to` to zero.
    ///
    /// # Safety
    /// The bytes are device memory that stays valid, and that nothing else uses, until the work is done.
    pub unsafe fn zero(&self, to: DevicePointer, bytes: usize) -> Result<(), CudaError> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.device.driver().set_bytes_async(to, 0, bytes, self.stream) }
    }

    /// An error of this machine's libraries: what an operation asked for cannot be had.
    pub fn unavailable(call: &'static str, message: impl Into<String>) -> CudaError {
        const NOT_SUPPORTED: i64 = 801;
        CudaError { library: Library::Driver, code: NOT_SUPPORTED, call, message: message.into() }
    }
}

/// The name of a kernel for a dtype: `by_dtype!("add", dtype)` is "add_f32", "add_bf16" or "add_f16". It may begin with
/// several literals.
#[macro_export]
macro_rules! by_dtype {
    ($($prefix:literal)+, $dtype:expr) => {
        match $dtype {
            $crate::dtype::DType::F32 => concat!($($prefix,)+ "_f32"),
            $crate::dtype::DType::BF16 => concat!($($prefix,)+ "_bf16"),
            $crate::dtype::DType::F16 => concat!($($prefix,)+ "_f16"),
            other => unreachable!("{other} is not a float: the operation's check let it through"),
        }
    };
}

/// The name of a kernel for two dtypes: `by_dtypes!("cast", f32, bf16)` is "cast_f32_bf16".
#[macro_export]
macro_rules! by_dtypes {
    ($prefix:literal, $first:expr, $second:expr) => {
        match $first {
            $crate::dtype::DType::F32 => $crate::by_dtype!($prefix "_f32", $second),
            $crate::dtype::DType::BF16 => $crate::by_dtype!($prefix "_bf16", $second),
            $crate::dtype::DType::F16 => $crate::by_dtype!($prefix "_f16", $second),
            other => unreachable!("{other} is not a float: the operation's check let it through"),
        }
    };
}
