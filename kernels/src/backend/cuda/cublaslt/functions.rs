//! The functions of the library, and what they exchange.

use crate::backend::cuda::driver::{CudaError, DevicePointer, Handle, Library};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;

/// Numbers of cublasStatus_t.
pub(super) const INVALID_VALUE: i64 = 7;
pub(super) const ARCHITECTURE_MISMATCH: i64 = 8;
pub(super) const NOT_SUPPORTED: i64 = 15;
/// cublasLtGetStatusName, which older libraries lack.
type StatusName = unsafe extern "C" fn(c_int) -> *const c_char;

macro_rules! functions {
    ($(fn $name:ident = $symbol:literal($($argument:ident: $type:ty),*);)*) => {
        /// The functions of the library.
        pub(super) struct Functions {
            status_name: Option<StatusName>,
            $($name: unsafe extern "C" fn($($type),*) -> c_int,)*
        }

        impl Functions {
            /// The functions that `symbol` finds; the error names the first that is missing.
            ///
            /// # Safety
            /// `symbol` gives the address of the cuBLASLt function of that name, or null.
            unsafe fn from_symbols(symbol: &dyn Fn(&CStr) -> *const c_void) -> Result<Functions, String> {
                let find = |name: &str| symbol(&CString::new(name).expect("no NUL in a function's name"));
                let require = |name: &str| {
                    let address = find(name);
                    if address.is_null() { Err(format!("cuBLASLt has no {name}")) } else { Ok(address) }
                };
                // SAFETY: the caller promises that each address is the function of that name, whose signature
                // cublasLt.h fixes; a null pointer is the absent function.
                unsafe {
                    Ok(Functions {
                        status_name: std::mem::transmute::<*const c_void, Option<StatusName>>(
                            find("cublasLtGetStatusName"),
                        ),
                        $($name: std::mem::transmute::<*const c_void, unsafe extern "C" fn($($type),*) -> c_int>(
                            require($symbol)?,
                        ),)*
                    })
                }
            }

            $(
                /// # Safety
                /// As cublasLt.h says.
                pub(super) unsafe fn $name(&self $(, $argument: $type)*) -> Result<(), CudaError> {
                    // SAFETY: the caller's promise.
                    let code = unsafe { (self.$name)($($argument),*) };
                    if code == 0 { Ok(()) } else { Err(self.error($symbol, code)) }
                }
            )*
        }
    };
}

functions! {
    fn create = "cublasLtCreate"(handle: *mut Handle);
    fn destroy = "cublasLtDestroy"(handle: Handle);
    fn desc_create = "cublasLtMatmulDescCreate"(desc: *mut Handle, compute_type: c_int, scale_type: c_int);
    fn desc_destroy = "cublasLtMatmulDescDestroy"(desc: Handle);
    fn desc_set = "cublasLtMatmulDescSetAttribute"(
        desc: Handle, attribute: c_int, value: *const c_void, bytes: usize
    );
    fn layout_create = "cublasLtMatrixLayoutCreate"(
        layout: *mut Handle, dtype: c_int, rows: u64, columns: u64, leading: i64
    );
    fn layout_destroy = "cublasLtMatrixLayoutDestroy"(layout: Handle);
    fn layout_set = "cublasLtMatrixLayoutSetAttribute"(
        layout: Handle, attribute: c_int, value: *const c_void, bytes: usize
    );
    fn preference_create = "cublasLtMatmulPreferenceCreate"(preference: *mut Handle);
    fn preference_destroy = "cublasLtMatmulPreferenceDestroy"(preference: Handle);
    fn preference_set = "cublasLtMatmulPreferenceSetAttribute"(
        preference: Handle, attribute: c_int, value: *const c_void, bytes: usize
    );
    fn heuristic = "cublasLtMatmulAlgoGetHeuristic"(
        handle: Handle, desc: Handle, a: Handle, b: Handle, c: Handle, d: Handle, preference: Handle,
        wanted: c_int, results: *mut HeuristicResult, found: *mut c_int
    );
    fn matmul = "cublasLtMatmul"(
        handle: Handle, desc: Handle, alpha: *const c_void, a: DevicePointer, a_layout: Handle,
        b: DevicePointer, b_layout: Handle, beta: *const c_void, c: DevicePointer, c_layout: Handle,
        d: DevicePointer, d_layout: Handle, algorithm: *const Algorithm,
        workspace: DevicePointer, workspace_bytes: usize, stream: Handle
    );
}

/// cublasLtMatmulAlgo_t.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Algorithm(pub(super) [u64; 8]);

/// cublasLtMatmulHeuristicResult_t.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct HeuristicResult {
    pub(super) algorithm: Algorithm,
    pub(super) workspace_bytes: usize,
    pub(super) state: c_int,
    pub(super) waves: f32,
    pub(super) reserved: [c_int; 4],
}

static FUNCTIONS: OnceLock<Result<Functions, String>> = OnceLock::new();

/// Uses the functions that `symbol` finds in place of this machine's library; false if that is in use already.
///
/// # Safety
/// `symbol` gives the address of the cuBLASLt function of that name, or null.
pub unsafe fn provide(symbol: &dyn Fn(&CStr) -> *const c_void) -> bool {
    // SAFETY: the caller's promise.
    FUNCTIONS.set(unsafe { Functions::from_symbols(symbol) }).is_ok()
}

impl Functions {
    pub(super) fn of_machine() -> Result<&'static Functions, &'static str> {
        FUNCTIONS.get_or_init(Functions::open).as_ref().map_err(String::as_str)
    }

    fn open() -> Result<Functions, String> {
        let mut reason = String::new();
        for name in ["libcublasLt.so.13", "libcublasLt.so.12"] {
            // SAFETY: the library's initialisers are those of a system library.
            let library = match unsafe { libloading::Library::new(name) } {
                Ok(library) => library,
                Err(error) => {
                    reason = format!("no cuBLASLt: {error}");
                    continue;
                }
            };
            // SAFETY: the library is cuBLASLt; the addresses are used as its functions, whose signatures it fixes.
            let functions = unsafe {
                Functions::from_symbols(&|name| {
                    library.get::<*const c_void>(name.to_bytes_with_nul()).map_or(std::ptr::null(), |symbol| *symbol)
                })
            };
            // It registers what it runs with the CUDA runtime, which outlives it.
            std::mem::forget(library);
            return functions;
        }
        Err(reason)
    }

    pub(super) fn error(&self, call: &'static str, code: c_int) -> CudaError {
        let name = self.status_name.and_then(|status_name| {
            // SAFETY: gives a static string, or null.
            unsafe {
                let name = status_name(code);
                (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
            }
        });
        let message = name.unwrap_or_else(|| "an unknown status".to_owned());
        CudaError { library: Library::CublasLt, code: code.into(), call, message }
    }
}
