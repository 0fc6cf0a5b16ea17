//! The functions of NCCL, from the library of the machine, which is loaded when it is first asked for.

use crate::error::{Error, NativeDomain, Result, Status};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;

/// An ncclComm_t, or a CUstream.
pub(super) type Handle = *mut c_void;

/// An ncclUniqueId, which travels by value.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId(pub(super) [u8; super::UNIQUE_ID_BYTES]);

/// An ncclConfig_t of [`OLDEST`], which later versions read as such.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

impl Config {
    /// Calls return while what they have begun goes on, so that a rank that does not come can be given up.
    pub(super) const NON_BLOCKING: Config =
        Config { size: size_of::<Config>(), magic: 0xcafe_beef, version: OLDEST as u32, blocking: 0 };
}

/// ncclSuccess and ncclInProgress.
pub(super) const SUCCESS: c_int = 0;
pub(super) const IN_PROGRESS: c_int = 7;

/// Oldest version with communicators that do not block, as ncclGetVersion counts: 2.14.0.
const OLDEST: c_int = 21400;

macro_rules! functions {
    ($($(#[$doc:meta])* fn $name:ident = $symbol:literal($($argument:ident: $type:ty),*);)*) => {
        /// The functions of the library.
        pub(super) struct Functions {
            error_string: unsafe extern "C" fn(c_int) -> *const c_char,
            $($name: unsafe extern "C" fn($($type),*) -> c_int,)*
        }

        impl Functions {
            /// The functions that `symbol` finds; the error names the first that is missing.
            ///
            /// # Safety
            /// `symbol` gives the address of the NCCL function of that name, or null.
            unsafe fn from_symbols(symbol: &dyn Fn(&CStr) -> *mut c_void) -> std::result::Result<Functions, String> {
                let require = |name: &str| {
                    let address = symbol(&CString::new(name).expect("no NUL in a function's name"));
                    if address.is_null() { Err(format!("NCCL has no {name}")) } else { Ok(address) }
                };
                // SAFETY: the caller promises that each address is the function of that name, whose signature nccl.h fixes.
                unsafe {
                    Ok(Functions {
                        error_string: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int) -> *const c_char>(
                            require("ncclGetErrorString")?,
                        ),
                        $($name: std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) -> c_int>(
                            require($symbol)?,
                        ),)*
                    })
                }
            }

            $(
                /// Its result; nothing waits for what goes on.
                ///
                /// # Safety
                /// As nccl.h says.
                pub(super) unsafe fn $name(&self $(, $argument: $type)*) -> Result<()> {
                    // SAFETY: the caller's promise.
                    match unsafe { (self.$name)($($argument),*) } {
                        SUCCESS | IN_PROGRESS => Ok(()),
                        code => Err(self.error($symbol, code)),
                    }
                }
            )*
        }
    };
}

functions! {
    fn version = "ncclGetVersion"(version: *mut c_int);
    fn unique_id = "ncclGetUniqueId"(id: *mut UniqueId);
    fn init = "ncclCommInitRankConfig"(
        comm: *mut Handle, world: c_int, id: UniqueId, rank: c_int, config: *const Config
    );
    fn finalize = "ncclCommFinalize"(comm: Handle);
    fn destroy = "ncclCommDestroy"(comm: Handle);
    fn abort = "ncclCommAbort"(comm: Handle);
    fn async_error = "ncclCommGetAsyncError"(comm: Handle, error: *mut c_int);
    fn group_start = "ncclGroupStart"();
    fn group_end = "ncclGroupEnd"();
    fn all_reduce = "ncclAllReduce"(
        input: *const c_void, output: *mut c_void, n: usize, dtype: c_int, reduction: c_int, comm: Handle, stream: Handle
    );
    fn reduce = "ncclReduce"(
        input: *const c_void, output: *mut c_void, n: usize, dtype: c_int, reduction: c_int, root: c_int, comm: Handle,
        stream: Handle
    );
    fn reduce_scatter = "ncclReduceScatter"(
        input: *const c_void, output: *mut c_void, n: usize, dtype: c_int, reduction: c_int, comm: Handle, stream: Handle
    );
    fn all_gather = "ncclAllGather"(
        input: *const c_void, output: *mut c_void, n: usize, dtype: c_int, comm: Handle, stream: Handle
    );
    fn broadcast = "ncclBroadcast"(
        input: *const c_void, output: *mut c_void, n: usize, dtype: c_int, root: c_int, comm: Handle, stream: Handle
    );
    fn send = "ncclSend"(input: *const c_void, n: usize, dtype: c_int, to: c_int, comm: Handle, stream: Handle);
    fn receive = "ncclRecv"(output: *mut c_void, n: usize, dtype: c_int, from: c_int, comm: Handle, stream: Handle);
}

impl Functions {
    /// Those of this machine; `UNAVAILABLE` with the reason where there are none.
    pub(super) fn of_machine() -> Result<&'static Functions> {
        static FUNCTIONS: OnceLock<std::result::Result<Functions, String>> = OnceLock::new();
        let functions = FUNCTIONS.get_or_init(|| Functions::open(c"libnccl.so.2"));
        functions.as_ref().map_err(|reason| Error::new(Status::Unavailable, reason.as_str()))
    }

    fn open(name: &CStr) -> std::result::Result<Functions, String> {
        // SAFETY: opens a library by name; its initialisers are NCCL's. It stays loaded, as it keeps threads.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            // SAFETY: a string that is valid until the next dl call of this thread, or null.
            let reason = unsafe { libc::dlerror() };
            let reason = if reason.is_null() {
                name.to_string_lossy()
            } else {
                // SAFETY: as above.
                unsafe { CStr::from_ptr(reason) }.to_string_lossy()
            };
            return Err(format!("no NCCL: {reason}"));
        }
        // SAFETY: looks a name up in a library that is open; it is NCCL, whose signatures nccl.h fixes.
        let functions = unsafe { Functions::from_symbols(&|name| libc::dlsym(library, name.as_ptr())) }?;
        let mut version = 0;
        // SAFETY: writes one integer.
        unsafe { functions.version(&mut version) }.map_err(|error| error.message)?;
        if version < OLDEST {
            let text = if version < 10000 {
                format!("{}.{}.{}", version / 1000, version / 100 % 10, version % 100)
            } else {
                format!("{}.{}.{}", version / 10000, version / 100 % 100, version % 100)
            };
            return Err(format!("NCCL {text} is too old, 2.14.0 is needed"));
        }
        Ok(functions)
    }

    /// The error of a call.
    pub(super) fn error(&self, call: &str, code: c_int) -> Error {
        // SAFETY: gives a static string, or null.
        let text = unsafe { (self.error_string)(code) };
        let text = if text.is_null() {
            "an unknown error".into()
        } else {
            // SAFETY: as above.
            unsafe { CStr::from_ptr(text) }.to_string_lossy()
        };
        Error::new(Status::CommError, format!("{call}: {text} ({code})")).with_native(NativeDomain::Nccl, code.into())
    }
}
