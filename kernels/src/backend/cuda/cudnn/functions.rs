//! The functions of the library, and when they are used.
//!
//! They are taken from `libcudnn_graph.so.9`, which has them all. `libcudnn.so.9` only finds them there, and aborts the
//! process when it does not. The graph library in turn aborts when its heuristics look for a cuBLASLt that the machine
//! lacks, so that one is loaded first.

use crate::backend::cuda::driver::{CudaError, Handle, Library};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;

/// A cudnnStatus_t of the category "not supported".
pub(super) const NOT_SUPPORTED: i64 = 3000;
/// Oldest version with masks and a described softmax in its attention operation, as cudnnGetVersion counts.
const OLDEST: usize = 92100;

type Version = unsafe extern "C" fn() -> usize;
type ErrorString = unsafe extern "C" fn(c_int) -> *const c_char;
type LastErrorString = unsafe extern "C" fn(*mut c_char, usize);

macro_rules! functions {
    ($(fn $name:ident = $symbol:literal($($argument:ident: $type:ty),*);)*) => {
        /// The functions of the library.
        pub(super) struct Functions {
            cudart_version: Version,
            error_string: ErrorString,
            last_error_string: LastErrorString,
            $($name: unsafe extern "C" fn($($type),*) -> c_int,)*
        }

        impl Functions {
            /// The functions that `symbol` finds; the error names the first that is missing, or the version that is
            /// too old.
            ///
            /// # Safety
            /// `symbol` gives the address of the cuDNN function of that name, or null.
            unsafe fn from_symbols(symbol: &dyn Fn(&CStr) -> *const c_void) -> Result<Functions, String> {
                let require = |name: &str| {
                    let address = symbol(&CString::new(name).expect("no NUL in a function's name"));
                    if address.is_null() { Err(format!("cuDNN has no {name}")) } else { Ok(address) }
                };
                // SAFETY: the caller promises that each address is the function of that name, whose signature
                // cudnn_graph.h fixes.
                unsafe {
                    let version = std::mem::transmute::<*const c_void, Version>(require("cudnnGetVersion")?)();
                    if version < OLDEST {
                        return Err(format!("cuDNN {} is too old, attention needs {}", text(version), text(OLDEST)));
                    }
                    Ok(Functions {
                        cudart_version: std::mem::transmute::<*const c_void, Version>(
                            require("cudnnGetCudartVersion")?,
                        ),
                        error_string: std::mem::transmute::<*const c_void, ErrorString>(
                            require("cudnnGetErrorString")?,
                        ),
                        last_error_string: std::mem::transmute::<*const c_void, LastErrorString>(
                            require("cudnnGetLastErrorString")?,
                        ),
                        $($name: std::mem::transmute::<*const c_void, unsafe extern "C" fn($($type),*) -> c_int>(
                            require($symbol)?,
                        ),)*
                    })
                }
            }

            $(
                /// # Safety
                /// As cudnn_graph.h says.
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
    fn create = "cudnnCreate"(handle: *mut Handle);
    fn destroy = "cudnnDestroy"(handle: Handle);
    fn set_stream = "cudnnSetStream"(handle: Handle, stream: Handle);
    fn descriptor_create = "cudnnBackendCreateDescriptor"(kind: c_int, descriptor: *mut Handle);
    fn descriptor_destroy = "cudnnBackendDestroyDescriptor"(descriptor: Handle);
    fn descriptor_finalize = "cudnnBackendFinalize"(descriptor: Handle);
    fn descriptor_set = "cudnnBackendSetAttribute"(
        descriptor: Handle, attribute: c_int, kind: c_int, count: i64, elements: *const c_void
    );
    fn descriptor_get = "cudnnBackendGetAttribute"(
        descriptor: Handle, attribute: c_int, kind: c_int, room: i64, count: *mut i64, elements: *mut c_void
    );
    fn execute = "cudnnBackendExecute"(handle: Handle, plan: Handle, variant_pack: Handle);
}

/// 92101 is 9.21.1.
fn text(version: usize) -> String {
    format!("{}.{}.{}", version / 10000, version / 100 % 100, version % 100)
}

static FUNCTIONS: OnceLock<Result<Functions, String>> = OnceLock::new();

/// Uses the functions that `symbol` finds in place of this machine's library; false if that is in use already.
///
/// # Safety
/// `symbol` gives the address of the cuDNN function of that name, or null.
pub unsafe fn provide(symbol: &dyn Fn(&CStr) -> *const c_void) -> bool {
    // SAFETY: the caller's promise.
    FUNCTIONS.set(unsafe { Functions::from_symbols(symbol) }).is_ok()
}

impl Functions {
    pub(super) fn of_machine() -> Result<&'static Functions, &'static str> {
        FUNCTIONS.get_or_init(|| Functions::open("libcudnn_graph.so.9")).as_ref().map_err(String::as_str)
    }

    fn open(name: &str) -> Result<Functions, String> {
        let library = load(name).map_err(|error| format!("no cuDNN: {error}"))?;
        // SAFETY: the library is cuDNN; the addresses are used as its functions, whose signatures it fixes.
        let functions = unsafe {
            Functions::from_symbols(&|name| {
                library.get::<*const c_void>(name.to_bytes_with_nul()).map_or(std::ptr::null(), |symbol| *symbol)
            })
        };
        // It registers what it runs with the CUDA runtime, which outlives it.
        std::mem::forget(library);
        let functions = functions?;
        // SAFETY: gives a number.
        let cuda = unsafe { (functions.cudart_version)() } / 1000;
        let companion = load(&format!("libcublasLt.so.{cuda}"))
            .map_err(|error| format!("cuDNN cannot be used without cuBLASLt: {error}"))?;
        // cuDNN finds the one that is loaded, for as long as it is.
        std::mem::forget(companion);
        Ok(functions)
    }

    pub(super) fn error(&self, call: &'static str, code: c_int) -> CudaError {
        let mut room = [0 as c_char; 1024];
        // SAFETY: the library gives a static string, or null, and writes a string that ends within the room; the last
        // byte, which it is not told of, stays NUL.
        let (name, detail) = unsafe {
            let name = (self.error_string)(code);
            (self.last_error_string)(room.as_mut_ptr(), room.len() - 1);
            let name = if name.is_null() { "an unknown status".into() } else { CStr::from_ptr(name).to_string_lossy() };
            (name, CStr::from_ptr(room.as_ptr()).to_string_lossy())
        };
        let message = if detail.is_empty() { name.into_owned() } else { format!("{name}, {}", detail.trim()) };
        CudaError { library: Library::Cudnn, code: code.into(), call, message }
    }
}

fn load(name: &str) -> Result<libloading::Library, libloading::Error> {
    // SAFETY: the library's initialisers are those of a system library.
    unsafe { libloading::Library::new(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn old() -> usize {
        92005
    }
    unsafe extern "C" fn new() -> usize {
        92801
    }

    fn reason(version: Version) -> String {
        let symbol = |name: &CStr| {
            if name.to_bytes() == b"cudnnGetVersion" { version as *const c_void } else { std::ptr::null() }
        };
        // SAFETY: the one function that is there has the signature of its name.
        unsafe { Functions::from_symbols(&symbol) }.err().expect("a library of one function is not enough")
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        assert_eq!(reason(old), "cuDNN 9.20.5 is too old, attention needs 9.21.0");
        assert_eq!(reason(new), "cuDNN has no cudnnGetCudartVersion");
        let reason = Functions::open("libcudnn_absent.so.9").err().expect("no such file");
        assert!(reason.starts_with("no cuDNN: ") && reason.contains("libcudnn_absent.so.9"), "{reason}");
    }
}
