//! The CUDA driver API, loaded at run time: a machine without a driver gets a reason, not a panic.
//!
//! Results are plain integers: a newer driver may return codes that no enumeration here knows.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// An opaque handle of the driver: a context, stream, event, module, function, graph.
pub type Handle = *mut c_void;

/// An address in the unified address space.
pub type DevicePointer = u64;

/// Oldest driver that loads the kernels of this build, as `cuDriverGetVersion` counts.
pub const OLDEST_DRIVER: i32 = 13000;

/// Numbers of `CUdevice_attribute`.
pub mod attribute {
    /// Most shared memory of a block without opting in.
    pub const SHARED_MEMORY_PER_BLOCK: i32 = 8;
    /// Multiprocessors.
    pub const MULTIPROCESSORS: i32 = 16;
    /// Bytes of the second-level cache.
    pub const L2_BYTES: i32 = 38;
    /// Major compute capability.
    pub const CAPABILITY_MAJOR: i32 = 75;
    /// Minor compute capability.
    pub const CAPABILITY_MINOR: i32 = 76;
    /// Most shared memory of a block that opts in.
    pub const SHARED_MEMORY_OPT_IN: i32 = 97;
}

/// A call of a CUDA library that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaError {
    /// Whose code it is.
    pub library: Library,
    /// Its native code.
    pub code: i64,
    /// The function that returned it.
    pub call: &'static str,
    /// The library's own name of the code, and what else is known.
    pub message: String,
}

/// Where a code comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// The driver: a CUresult.
    Driver,
    /// cuBLASLt: a cublasStatus_t.
    CublasLt,
    /// cuDNN: a cudnnStatus_t.
    Cudnn,
}

impl std::fmt::Display for CudaError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({})", self.call, self.message, self.code)
    }
}

impl std::error::Error for CudaError {}

/// cuGetErrorName and cuGetErrorString.
type ErrorText = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;

macro_rules! functions {
    ($($(#[$doc:meta])* fn $name:ident = $symbol:literal($($argument:ident: $type:ty),*);)*) => {
        /// The functions of one driver.
        pub struct Driver {
            error_name: ErrorText,
            error_string: ErrorText,
            $($name: unsafe extern "C" fn($($type),*) -> c_int,)*
        }

        impl Driver {
            /// The driver whose functions `symbol` finds; the error names the first that is missing.
            ///
            /// # Safety
            /// `symbol` gives the address of the driver function of that name, or null.
            pub unsafe fn from_symbols(symbol: &dyn Fn(&CStr) -> *const c_void) -> Result<Driver, String> {
                let find = |name: &str| {
                    let address = symbol(&CString::new(name).expect("no NUL in a function's name"));
                    if address.is_null() { Err(format!("the CUDA driver has no {name}")) } else { Ok(address) }
                };
                // SAFETY: the caller promises that each address is the function of that name, whose signature the
                // CUDA driver API fixes.
                unsafe {
                    Ok(Driver {
                        error_name: std::mem::transmute::<*const c_void, ErrorText>(find("cuGetErrorName")?),
                        error_string: std::mem::transmute::<*const c_void, ErrorText>(find("cuGetErrorString")?),
                        $($name: std::mem::transmute::<*const c_void, unsafe extern "C" fn($($type),*) -> c_int>(
                            find($symbol)?,
                        ),)*
                    })
                }
            }

            $(
                $(#[$doc])*
                ///
                /// # Safety
                #[doc = concat!("As the CUDA driver API says of `", $symbol, "`.")]
                pub unsafe fn $name(&self $(, $argument: $type)*) -> Result<(), CudaError> {
                    // SAFETY: the caller's promise.
                    let code = unsafe { (self.$name)($($argument),*) };
                    if code == 0 { Ok(()) } else { Err(self.error($symbol, code)) }
                }
            )*
        }
    };
}

functions! {
    /// Initialises the driver.
    fn init = "cuInit"(flags: c_uint);
    /// Version of the newest CUDA that the driver supports, 1000 major + 10 minor.
    fn driver_version = "cuDriverGetVersion"(version: *mut c_int);
    /// Number of devices.
    fn device_count = "cuDeviceGetCount"(count: *mut c_int);
    /// The device with an ordinal.
    fn device_get = "cuDeviceGet"(device: *mut c_int, ordinal: c_int);
    /// Name of a device.
    fn device_name = "cuDeviceGetName"(name: *mut c_char, bytes: c_int, device: c_int);
    /// Memory of a device.
    fn device_bytes = "cuDeviceTotalMem_v2"(bytes: *mut usize, device: c_int);
    /// A number of [`attribute`].
    fn device_attribute = "cuDeviceGetAttribute"(value: *mut c_int, attribute: c_int, device: c_int);
    /// Retains the primary context of a device.
    fn primary_context_retain = "cuDevicePrimaryCtxRetain"(context: *mut Handle, device: c_int);
    /// Releases the primary context of a device.
    fn primary_context_release = "cuDevicePrimaryCtxRelease_v2"(device: c_int);
    /// Makes a context current on this thread.
    fn context_push = "cuCtxPushCurrent_v2"(context: Handle);
    /// Takes the current context off this thread.
    fn context_pop = "cuCtxPopCurrent_v2"(context: *mut Handle);
    /// The current context of this thread, or null.
    fn context_current = "cuCtxGetCurrent"(context: *mut Handle);
    /// Replaces the current context of this thread.
    fn context_set = "cuCtxSetCurrent"(context: Handle);
    /// Device of the current context.
    fn context_device = "cuCtxGetDevice"(device: *mut c_int);
    /// A number of a context that is never used again.
    fn context_id = "cuCtxGetId"(context: Handle, id: *mut u64);
    /// Blocks until everything in the current context is done.
    fn context_synchronize = "cuCtxSynchronize"();
    /// Device memory.
    fn memory_alloc = "cuMemAlloc_v2"(address: *mut DevicePointer, bytes: usize);
    /// Gives device or managed memory back.
    fn memory_free = "cuMemFree_v2"(address: DevicePointer);
    /// Memory that host and device address alike.
    fn memory_alloc_managed = "cuMemAllocManaged"(address: *mut DevicePointer, bytes: usize, flags: c_uint);
    /// Pins host memory.
    fn host_register = "cuMemHostRegister_v2"(memory: *mut c_void, bytes: usize, flags: c_uint);
    /// Unpins host memory.
    fn host_unregister = "cuMemHostUnregister"(memory: *mut c_void);
    /// Free and total bytes of the current context's device.
    fn memory_info = "cuMemGetInfo_v2"(free: *mut usize, total: *mut usize);
    /// Copies between any two addresses in stream order.
    fn copy_async = "cuMemcpyAsync"(to: DevicePointer, from: DevicePointer, bytes: usize, stream: Handle);
    /// Sets bytes in stream order.
    fn set_bytes_async = "cuMemsetD8Async"(to: DevicePointer, value: u8, bytes: usize, stream: Handle);
    /// What is known of an address.
    fn pointer_attribute = "cuPointerGetAttribute"(value: *mut c_void, attribute: c_int, address: DevicePointer);
    /// Several things that are known of an address; those that are not known are zero.
    fn pointer_attributes = "cuPointerGetAttributes"(
        count: c_uint, attributes: *mut c_int, values: *mut *mut c_void, address: DevicePointer
    );
    /// A stream with a priority.
    fn stream_create = "cuStreamCreateWithPriority"(stream: *mut Handle, flags: c_uint, priority: c_int);
    /// Destroys a stream.
    fn stream_destroy = "cuStreamDestroy_v2"(stream: Handle);
    /// Whether all work of a stream is done.
    fn stream_query = "cuStreamQuery"(stream: Handle);
    /// Blocks until all work of a stream is done.
    fn stream_synchronize = "cuStreamSynchronize"(stream: Handle);
    /// Later work of a stream waits for an event.
    fn stream_wait_event = "cuStreamWaitEvent"(stream: Handle, event: Handle, flags: c_uint);
    /// Context of a stream.
    fn stream_context = "cuStreamGetCtx"(stream: Handle, context: *mut Handle);
    /// Whether a stream records a graph: 0 none, 1 active, 2 invalidated.
    fn stream_is_capturing = "cuStreamIsCapturing"(stream: Handle, status: *mut c_int);
    /// Whether a stream records a graph, as above, and the number of that capture; other results may be null.
    fn stream_capture_info = "cuStreamGetCaptureInfo_v3"(
        stream: Handle, status: *mut c_int, id: *mut u64, graph: *mut Handle,
        dependencies: *mut *const Handle, edges: *mut *const c_void, count: *mut usize
    );
    /// Exchanges how this thread treats calls that a capture on another stream may forbid.
    fn exchange_capture_mode = "cuThreadExchangeStreamCaptureMode"(mode: *mut c_int);
    /// An event.
    fn event_create = "cuEventCreate"(event: *mut Handle, flags: c_uint);
    /// Destroys an event.
    fn event_destroy = "cuEventDestroy_v2"(event: Handle);
    /// Records an event in a stream.
    fn event_record = "cuEventRecord"(event: Handle, stream: Handle);
    /// Whether an event is complete.
    fn event_query = "cuEventQuery"(event: Handle);
    /// Blocks until an event is complete.
    fn event_synchronize = "cuEventSynchronize"(event: Handle);
    /// Milliseconds between two events.
    fn event_elapsed = "cuEventElapsedTime"(milliseconds: *mut f32, start: Handle, end: Handle);
    /// Loads a cubin or PTX text.
    fn module_load = "cuModuleLoadData"(module: *mut Handle, image: *const c_void);
    /// Unloads a module.
    fn module_unload = "cuModuleUnload"(module: Handle);
    /// A function of a module.
    fn module_function = "cuModuleGetFunction"(function: *mut Handle, module: Handle, name: *const c_char);
    /// An attribute of a function.
    fn function_attribute = "cuFuncGetAttribute"(value: *mut c_int, attribute: c_int, function: Handle);
    /// Sets an attribute of a function.
    fn function_set_attribute = "cuFuncSetAttribute"(function: Handle, attribute: c_int, value: c_int);
    /// Offset and size of a parameter of a function.
    fn function_parameter = "cuFuncGetParamInfo"(function: Handle, index: usize, offset: *mut usize, bytes: *mut usize);
    /// Launches a function.
    fn launch = "cuLaunchKernel"(
        function: Handle, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
        block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared_bytes: c_uint, stream: Handle, parameters: *mut *mut c_void, extra: *mut *mut c_void
    );
}

impl Driver {
    /// Runs `body` while this thread may call what a capture on another stream would forbid.
    pub(super) fn relaxed<R>(&self, body: impl FnOnce() -> Result<R, CudaError>) -> Result<R, CudaError> {
        const RELAXED: i32 = 2;
        let mut mode = RELAXED;
        // SAFETY: exchanges this thread's mode, which is put back below.
        unsafe { self.exchange_capture_mode(&mut mode) }?;
        let result = body();
        // SAFETY: as above.
        unsafe { self.exchange_capture_mode(&mut mode) }?;
        result
    }

    /// The driver of this machine, initialised; the error says what is missing. Loaded once.
    pub fn of_machine() -> Result<&'static Driver, &'static str> {
        static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();
        DRIVER.get_or_init(Driver::open).as_ref().map_err(String::as_str)
    }

    fn open() -> Result<Driver, String> {
        // SAFETY: the driver's initialisers are those of a system library.
        let library =
            unsafe { libloading::Library::new("libcuda.so.1") }.map_err(|error| format!("no CUDA driver: {error}"))?;
        // SAFETY: the library is the CUDA driver; the addresses are used as its functions, whose signatures it fixes.
        let driver = unsafe {
            Driver::from_symbols(&|name| {
                library.get::<*const c_void>(name.to_bytes_with_nul()).map_or(std::ptr::null(), |symbol| *symbol)
            })
        };
        // Unloading a driver is not safe once it has started threads.
        std::mem::forget(library);
        let driver = driver?;
        driver.start()?;
        Ok(driver)
    }

    /// Initialises the driver and requires a version that loads this build's kernels.
    pub fn start(&self) -> Result<(), String> {
        let mut version = 0;
        // SAFETY: both calls may come first, and write one integer.
        unsafe {
            self.driver_version(&mut version).map_err(|error| error.to_string())?;
            if version < OLDEST_DRIVER {
                let text = |version: i32| format!("{}.{}", version / 1000, version % 1000 / 10);
                return Err(format!(
                    "the CUDA driver supports CUDA {}, this build needs {}: update the driver",
                    text(version),
                    text(OLDEST_DRIVER)
                ));
            }
            self.init(0).map_err(|error| error.to_string())
        }
    }

    /// The error of a code that `call` returned.
    pub fn error(&self, call: &'static str, code: i32) -> CudaError {
        let text = |function: ErrorText| {
            let mut text = std::ptr::null();
            // SAFETY: writes a pointer to a static string, or leaves null for a code that it does not know.
            unsafe {
                (function(code, &mut text) == 0 && !text.is_null())
                    .then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        let name = text(self.error_name).unwrap_or_else(|| "an unknown error".to_owned());
        let message = text(self.error_string).map_or(name.clone(), |string| format!("{name}, {string}"));
        CudaError { library: Library::Driver, code: code.into(), call, message }
    }
}
