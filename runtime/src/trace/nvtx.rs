//! NVTX ranges for the profiler that runs this process, such as Nsight Systems.
//!
//! A profiler names its library in `NVTX_INJECTION64_PATH`. Each user of NVTX in a process loads it, and hands it a table
//! of functions to fill in; without the variable nothing is loaded. Source of the tables, numbers and structs: NVTX 3,
//! `c/include/nvtx3/nvToolsExt.h` and `nvtxDetail/{nvtxTypes,nvtxImpl,nvtxInit}.h`.

use super::watch::Span;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStringExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// `NVTX_VERSION`.
const VERSION: u32 = 3;

/// Where a profiler puts one function.
type Slot = AtomicPtr<c_void>;

/// Slots of the modules `NVTX_CB_MODULE_*`, with one more at index 0, which is none.
struct Module<const N: usize> {
    slots: [Slot; N],
    table: OnceLock<[usize; N]>,
}

impl<const N: usize> Module<N> {
    const fn new() -> Module<N> {
        Module { slots: [const { AtomicPtr::new(std::ptr::null_mut()) }; N], table: OnceLock::new() }
    }

    /// Addresses of the slots, the first being null, and how many there are.
    fn table(&'static self) -> (*const usize, c_uint) {
        let address = |i: usize| if i == 0 { 0 } else { (&raw const self.slots[i]).addr() };
        // The slots are static: exposing them keeps the profiler's writes valid.
        self.slots.iter().for_each(|slot| {
            (&raw const *slot).expose_provenance();
        });
        (self.table.get_or_init(|| std::array::from_fn(address)).as_ptr(), N as c_uint)
    }

    fn function(&self, index: usize) -> Option<*mut c_void> {
        Some(self.slots[index].load(Ordering::Acquire)).filter(|function| !function.is_null())
    }
}

static CORE: Module<16> = Module::new();
static CUDA: Module<9> = Module::new();
static OPENCL: Module<15> = Module::new();
static CUDART: Module<7> = Module::new();
static CORE2: Module<16> = Module::new();
static SYNC: Module<7> = Module::new();

/// Indices in [`CORE2`].
const DOMAIN_RANGE_PUSH: usize = 4;
const DOMAIN_RANGE_POP: usize = 5;
const DOMAIN_CREATE: usize = 12;

unsafe extern "C" fn module_functions(module: c_int, table: *mut *const usize, size: *mut c_uint) -> c_int {
    let (functions, count) = match module {
        1 => CORE.table(),
        2 => CUDA.table(),
        3 => OPENCL.table(),
        4 => CUDART.table(),
        5 => CORE2.table(),
        6 => SYNC.table(),
        _ => return 0,
    };
    // SAFETY: the profiler gives NULL or where to write.
    unsafe {
        if !size.is_null() {
            size.write(count);
        }
        if !table.is_null() {
            table.write(functions);
        }
    }
    1
}

unsafe extern "C" fn set_injection_version(_version: u32) {}

/// `NvtxExportTableCallbacks`.
#[repr(C)]
struct Callbacks {
    struct_size: usize,
    module_functions: unsafe extern "C" fn(c_int, *mut *const usize, *mut c_uint) -> c_int,
}

/// `NvtxExportTableVersionInfo`.
#[repr(C)]
struct VersionInfo {
    struct_size: usize,
    version: u32,
    reserved: u32,
    set_injection_version: unsafe extern "C" fn(u32),
}

static CALLBACKS: Callbacks = Callbacks { struct_size: size_of::<Callbacks>(), module_functions };
static VERSION_INFO: VersionInfo =
    VersionInfo { struct_size: size_of::<VersionInfo>(), version: VERSION, reserved: 0, set_injection_version };

unsafe extern "C" fn export_table(id: u32) -> *const c_void {
    match id {
        1 => (&raw const CALLBACKS).cast(),
        3 => (&raw const VERSION_INFO).cast(),
        _ => std::ptr::null(),
    }
}

/// `nvtxEventAttributes_t`.
#[repr(C)]
struct Attributes {
    version: u16,
    size: u16,
    category: u32,
    color_type: i32,
    color: u32,
    payload_type: i32,
    reserved: i32,
    payload: u64,
    message_type: i32,
    message: *const c_char,
}

/// `nvtxDomainRangePushEx`, `nvtxDomainRangePop` and `nvtxDomainCreateA`.
type Push = unsafe extern "C" fn(*mut c_void, *const Attributes) -> c_int;
type Pop = unsafe extern "C" fn(*mut c_void) -> c_int;
type Create = unsafe extern "C" fn(*const c_char) -> *mut c_void;

/// A profiler that takes ranges, with the domain of this library.
pub(crate) struct Profiler {
    domain: *mut c_void,
    push: Push,
    pop: Pop,
}

// SAFETY: NVTX functions may be called from any thread; the domain is a handle.
unsafe impl Send for Profiler {}
// SAFETY: as above.
unsafe impl Sync for Profiler {}

/// The profiler of this process, if there is one. Loaded when the first operation runs.
pub(super) fn profiler() -> Option<&'static Profiler> {
    static PROFILER: OnceLock<Option<Profiler>> = OnceLock::new();
    PROFILER.get_or_init(load).as_ref()
}

fn load() -> Option<Profiler> {
    let path = CString::new(std::env::var_os("NVTX_INJECTION64_PATH")?.into_vec()).ok()?;
    // SAFETY: the user of the process names a profiler's library in the variable to have it loaded and called like this;
    // it stays loaded. The function's type is `NvtxInitializeInjectionNvtxFunc_t`.
    unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_LAZY);
        if library.is_null() {
            return None;
        }
        let initialize = libc::dlsym(library, c"InitializeInjectionNvtx2".as_ptr());
        if initialize.is_null() {
            libc::dlclose(library);
            return None;
        }
        type ExportTable = unsafe extern "C" fn(u32) -> *const c_void;
        let initialize = std::mem::transmute::<*mut c_void, unsafe extern "C" fn(ExportTable) -> c_int>(initialize);
        if initialize(export_table) == 0 {
            return None;
        }
    }
    let (push, pop) = (CORE2.function(DOMAIN_RANGE_PUSH)?, CORE2.function(DOMAIN_RANGE_POP)?);
    let create = CORE2.function(DOMAIN_CREATE);
    // SAFETY: the profiler put functions of these types there. The default domain is null.
    unsafe {
        let domain = create.map_or(std::ptr::null_mut(), |create| {
            std::mem::transmute::<*mut c_void, Create>(create)(c"scaleRT".as_ptr())
        });
        let push = std::mem::transmute::<*mut c_void, Push>(push);
        let pop = std::mem::transmute::<*mut c_void, Pop>(pop);
        Some(Profiler { domain, push, pop })
    }
}

impl Profiler {
    /// A span begins on this thread; spans of a thread nest.
    pub(super) fn begin(&self, span: &Span<'_>) {
        const UNSIGNED_INT64: i32 = 1;
        const ASCII: i32 = 1;
        let mut message = Message { text: [0; 96], bytes: 0 };
        message.push(span.name);
        if let Some(implementation) = span.implementation {
            message.push(b": ");
            message.push(implementation.as_bytes());
        }
        let attributes = Attributes {
            version: VERSION as u16,
            size: size_of::<Attributes>() as u16,
            category: 0,
            color_type: 0,
            color: 0,
            payload_type: UNSIGNED_INT64,
            reserved: 0,
            payload: span.bytes,
            message_type: ASCII,
            message: message.text.as_ptr().cast(),
        };
        // SAFETY: the profiler copies what it keeps; the message ends with NUL.
        unsafe { (self.push)(self.domain, &attributes) };
    }

    /// The span that began last on this thread ends.
    pub(super) fn end(&self) {
        // SAFETY: ends the range that `begin` began on this thread.
        unsafe { (self.pop)(self.domain) };
    }
}

/// The text of a range, which ends with NUL; what there is no room for is left out.
struct Message {
    text: [u8; 96],
    bytes: usize,
}

impl Message {
    fn push(&mut self, part: &[u8]) {
        let room = &mut self.text[self.bytes..95];
        let bytes = part.len().min(room.len());
        room[..bytes].copy_from_slice(&part[..bytes]);
        self.bytes += bytes;
    }
}
