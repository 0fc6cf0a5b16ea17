//! The exported functions with their types, and what most tests begin with.

use scalert_ptx_emulator::driver::symbol;
use std::ffi::{CString, c_char, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

macro_rules! api {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {$(
        #[allow(non_snake_case)]
        pub(crate) fn $name($($argument: $kind),*) -> i32 {
            let address = symbol(stringify!($name)).expect(stringify!($name));
            // SAFETY: the function has this type in the driver API.
            let function: unsafe extern "C" fn($($kind),*) -> i32 = unsafe { std::mem::transmute(address) };
            // SAFETY: the tests pass null, or pointers to what is long enough.
            unsafe { function($($argument),*) }
        }
    )*};
}

api! {
    cuInit(flags: u32);
    cuDriverGetVersion(version: *mut i32);
    cuDeviceGetCount(count: *mut i32);
    cuDeviceGet(device: *mut i32, ordinal: i32);
    cuDeviceGetName(name: *mut c_char, length: i32, device: i32);
    cuDeviceTotalMem_v2(bytes: *mut usize, device: i32);
    cuDeviceGetAttribute(value: *mut i32, attribute: i32, device: i32);
    cuDevicePrimaryCtxRetain(context: *mut usize, device: i32);
    cuDevicePrimaryCtxRelease_v2(device: i32);
    cuDevicePrimaryCtxReset_v2(device: i32);
    cuDevicePrimaryCtxGetState(device: i32, flags: *mut u32, active: *mut i32);
    cuCtxCreate_v2(context: *mut usize, flags: u32, device: i32);
    cuCtxDestroy_v2(context: usize);
    cuCtxPushCurrent_v2(context: usize);
    cuCtxPopCurrent_v2(context: *mut usize);
    cuCtxSetCurrent(context: usize);
    cuCtxGetCurrent(context: *mut usize);
    cuCtxGetDevice(device: *mut i32);
    cuCtxSynchronize();
    cuMemAlloc_v2(address: *mut u64, bytes: usize);
    cuMemFree_v2(address: u64);
    cuMemAllocHost_v2(address: *mut *mut u8, bytes: usize);
    cuMemFreeHost(address: *mut u8);
    cuMemAllocManaged(address: *mut u64, bytes: usize, flags: u32);
    cuMemPrefetchAsync(address: u64, bytes: usize, device: i32, stream: usize);
    cuMemAdvise(address: u64, bytes: usize, advice: i32, device: i32);
    cuCtxGetLimit(value: *mut usize, limit: i32);
    cuCtxSetLimit(limit: i32, value: usize);
    cuMemAllocAsync(address: *mut u64, bytes: usize, stream: usize);
    cuMemFreeAsync(address: u64, stream: usize);
    cuDeviceGetDefaultMemPool(pool: *mut usize, device: i32);
    cuMemPoolSetAttribute(pool: usize, attribute: i32, value: *mut c_void);
    cuMemPoolTrimTo(pool: usize, keep: usize);
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    cuMemHostRegister_v2(address: *mut c_void, bytes: usize, flags: u32);
    cuMemHostUnregister(address: *mut c_void);
    cuMemHostGetDevicePointer_v2(device_address: *mut u64, address: *mut c_void, flags: u32);
    cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize);
    cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize);
    cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: usize);
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: usize);
    cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize);
    cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: usize);
    cuMemsetD8Async(to: u64, value: u8, count: usize, stream: usize);
    cuMemsetD16_v2(to: u64, value: u16, count: usize);
    cuMemsetD32Async(to: u64, value: u32, count: usize, stream: usize);
    cuPointerGetAttribute(data: *mut c_void, kind: i32, address: u64);
    cuPointerGetAttributes(count: u32, kinds: *const i32, data: *const *mut c_void, address: u64);
    cuMemGetAddressRange_v2(base: *mut u64, bytes: *mut usize, address: u64);
    cuStreamCreate(stream: *mut usize, flags: u32);
    cuStreamCreateWithPriority(stream: *mut usize, flags: u32, priority: i32);
    cuStreamDestroy_v2(stream: usize);
    cuStreamQuery(stream: usize);
    cuStreamSynchronize(stream: usize);
    cuStreamGetCtx(stream: usize, context: *mut usize);
    cuStreamGetFlags(stream: usize, flags: *mut u32);
    cuStreamGetPriority(stream: usize, priority: *mut i32);
    cuStreamGetId(stream: usize, id: *mut u64);
    cuStreamWaitEvent(stream: usize, event: usize, flags: u32);
    cuLaunchHostFunc(stream: usize, function: Option<unsafe extern "C" fn(*mut c_void)>, user: *mut c_void);
    cuStreamBeginCapture_v2(stream: usize, mode: i32);
    cuStreamEndCapture(stream: usize, graph: *mut usize);
    cuStreamIsCapturing(stream: usize, status: *mut i32);
    cuStreamGetCaptureInfo_v2(
        stream: usize,
        status: *mut i32,
        id: *mut u64,
        graph: *mut usize,
        dependencies: *mut *const usize,
        count: *mut usize
    );
    cuThreadExchangeStreamCaptureMode(mode: *mut i32);
    cuGraphInstantiateWithFlags(exec: *mut usize, graph: usize, flags: u64);
    cuGraphLaunch(exec: usize, stream: usize);
    cuGraphExecDestroy(exec: usize);
    cuGraphDestroy(graph: usize);
    cuGraphGetNodes(graph: usize, nodes: *mut usize, count: *mut usize);
    cuGraphGetEdges(graph: usize, from: *mut usize, to: *mut usize, count: *mut usize);
    cuGraphNodeGetType(node: usize, kind: *mut i32);
    cuEventCreate(event: *mut usize, flags: u32);
    cuEventDestroy_v2(event: usize);
    cuEventRecord(event: usize, stream: usize);
    cuEventRecordWithFlags(event: usize, stream: usize, flags: u32);
    cuEventQuery(event: usize);
    cuEventSynchronize(event: usize);
    cuEventElapsedTime(milliseconds: *mut f32, start: usize, end: usize);
    cuModuleLoad(module: *mut usize, path: *const c_char);
    cuModuleLoadData(module: *mut usize, image: *const c_void);
    cuModuleLoadDataEx(
        module: *mut usize,
        image: *const c_void,
        count: u32,
        options: *const i32,
        values: *const *mut c_void
    );
    cuModuleUnload(module: usize);
    cuModuleGetFunction(function: *mut usize, module: usize, name: *const c_char);
    cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: usize, name: *const c_char);
    cuFuncGetAttribute(value: *mut i32, attribute: i32, function: usize);
    cuFuncSetAttribute(function: usize, attribute: i32, value: i32);
    cuFuncGetParamInfo(function: usize, index: usize, offset: *mut usize, bytes: *mut usize);
    cuFuncGetName(name: *mut *const c_char, function: usize);
    cuLaunchKernel(
        function: usize,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        dynamic_shared: u32,
        stream: usize,
        arguments: *const *const c_void,
        extra: *const *const c_void
    );
    cuLaunchKernelEx(
        config: *const c_void,
        function: usize,
        arguments: *const *const c_void,
        extra: *const *const c_void
    );
    cuOccupancyMaxActiveBlocksPerMultiprocessor(count: *mut i32, function: usize, threads: i32, dynamic: usize);
    cuGetErrorName(code: i32, name: *mut *const c_char);
    cuGetErrorString(code: i32, text: *mut *const c_char);
    cuGetProcAddress_v2(
        name: *const c_char,
        function: *mut *const c_void,
        version: i32,
        flags: u64,
        found: *mut i32
    );
}

pub(crate) const SUCCESS: i32 = 0;
pub(crate) const INVALID_VALUE: i32 = 1;
pub(crate) const OUT_OF_MEMORY: i32 = 2;
pub(crate) const NOT_INITIALIZED: i32 = 3;
pub(crate) const DEINITIALIZED: i32 = 4;
pub(crate) const NO_DEVICE: i32 = 100;
pub(crate) const INVALID_DEVICE: i32 = 101;
pub(crate) const INVALID_CONTEXT: i32 = 201;
pub(crate) const NO_BINARY_FOR_GPU: i32 = 209;
pub(crate) const INVALID_PTX: i32 = 218;
pub(crate) const INVALID_HANDLE: i32 = 400;
pub(crate) const ILLEGAL_STATE: i32 = 401;
pub(crate) const NOT_FOUND: i32 = 500;
pub(crate) const NOT_READY: i32 = 600;
pub(crate) const ILLEGAL_ADDRESS: i32 = 700;
pub(crate) const CONTEXT_IS_DESTROYED: i32 = 709;
pub(crate) const ALREADY_REGISTERED: i32 = 712;
pub(crate) const NOT_REGISTERED: i32 = 713;
pub(crate) const MISALIGNED_ADDRESS: i32 = 716;
pub(crate) const LAUNCH_FAILED: i32 = 719;
pub(crate) const NOT_PERMITTED: i32 = 800;
pub(crate) const NOT_SUPPORTED: i32 = 801;
pub(crate) const CAPTURE_UNSUPPORTED: i32 = 900;
pub(crate) const CAPTURE_INVALIDATED: i32 = 901;
pub(crate) const CAPTURE_MERGE: i32 = 902;
pub(crate) const CAPTURE_UNMATCHED: i32 = 903;
pub(crate) const CAPTURE_UNJOINED: i32 = 904;
pub(crate) const CAPTURE_ISOLATION: i32 = 905;
pub(crate) const CAPTURE_IMPLICIT: i32 = 906;
pub(crate) const CAPTURED_EVENT: i32 = 907;
pub(crate) const CAPTURE_WRONG_THREAD: i32 = 908;

/// `add(a, b, c, n)`: c = a + b, f32. `store(p, v)`: one u32. `stop()`: a trap.
pub(crate) const KERNELS: &str = "
.version 8.0
.target sm_80
.address_size 64

.global .align 4 .u32 counter = 7;

.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
    .reg .pred %p<2>;
    .reg .f32 %f<4>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<12>;
    ld.param.u64 %rd1, [a];
    ld.param.u64 %rd2, [b];
    ld.param.u64 %rd3, [c];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd4, %rd1;
    cvta.to.global.u64 %rd5, %rd2;
    cvta.to.global.u64 %rd6, %rd3;
    mul.wide.u32 %rd7, %r5, 4;
    add.s64 %rd8, %rd4, %rd7;
    add.s64 %rd9, %rd5, %rd7;
    add.s64 %rd10, %rd6, %rd7;
    ld.global.f32 %f1, [%rd8];
    ld.global.f32 %f2, [%rd9];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%rd10], %f3;
DONE:
    ret;
}

.visible .entry store(.param .u64 p, .param .u32 v)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [p];
    ld.param.u32 %r1, [v];
    cvta.to.global.u64 %rd2, %rd1;
    st.global.u32 [%rd2], %r1;
    ret;
}

.visible .entry stop()
{
    trap;
    ret;
}
";

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A context of its own for a test; only one test runs at a time, as captures and injections reach other threads.
pub(crate) struct Session {
    pub(crate) context: usize,
    _alone: MutexGuard<'static, ()>,
}

impl Session {
    pub(crate) fn new() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(cuInit(0), SUCCESS);
        let mut context = 0;
        assert_eq!(cuCtxCreate_v2(&mut context, 0, 0), SUCCESS);
        Self { context, _alone: alone }
    }

    pub(crate) fn stream(&self) -> usize {
        let mut stream = 0;
        assert_eq!(cuStreamCreate(&mut stream, 1), SUCCESS);
        stream
    }

    pub(crate) fn blocking_stream(&self) -> usize {
        let mut stream = 0;
        assert_eq!(cuStreamCreate(&mut stream, 0), SUCCESS);
        stream
    }

    pub(crate) fn event(&self) -> usize {
        let mut event = 0;
        assert_eq!(cuEventCreate(&mut event, 0), SUCCESS);
        event
    }

    pub(crate) fn allocate(&self, bytes: usize) -> u64 {
        let mut address = 0;
        assert_eq!(cuMemAlloc_v2(&mut address, bytes), SUCCESS);
        address
    }

    /// Device memory that holds `values`.
    pub(crate) fn upload(&self, values: &[f32]) -> u64 {
        let address = self.allocate(size_of_val(values));
        assert_eq!(cuMemcpyHtoD_v2(address, values.as_ptr().cast(), size_of_val(values)), SUCCESS);
        address
    }

    pub(crate) fn download(&self, address: u64, count: usize) -> Vec<f32> {
        let mut values = vec![0.0; count];
        assert_eq!(cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), address, 4 * count), SUCCESS);
        values
    }

    pub(crate) fn function(&self, name: &str) -> usize {
        let (mut module, mut function) = (0, 0);
        let text = CString::new(KERNELS).unwrap();
        let name = CString::new(name).unwrap();
        assert_eq!(cuModuleLoadData(&mut module, text.as_ptr().cast()), SUCCESS);
        assert_eq!(cuModuleGetFunction(&mut function, module, name.as_ptr()), SUCCESS);
        function
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = cuCtxDestroy_v2(self.context);
        while cuCtxPopCurrent_v2(std::ptr::null_mut()) == SUCCESS {}
    }
}

/// Launches `add` over `n` elements in blocks of 32.
pub(crate) fn add(function: usize, stream: usize, [a, b, c]: [u64; 3], n: u32) -> i32 {
    let arguments: [*const c_void; 4] =
        [(&raw const a).cast(), (&raw const b).cast(), (&raw const c).cast(), (&raw const n).cast()];
    let none = std::ptr::null();
    cuLaunchKernel(function, n.div_ceil(32), 1, 1, 32, 1, 1, 0, stream, arguments.as_ptr(), none)
}

/// Launches `store` with one thread.
pub(crate) fn store(function: usize, stream: usize, address: u64, value: u32) -> i32 {
    let arguments: [*const c_void; 2] = [(&raw const address).cast(), (&raw const value).cast()];
    cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, arguments.as_ptr(), std::ptr::null())
}

/// Launches `stop`.
pub(crate) fn stop(function: usize, stream: usize) -> i32 {
    cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, std::ptr::null(), std::ptr::null())
}
