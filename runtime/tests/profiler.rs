//! A profiler that the process names for NVTX sees each operation. In a process of its own: it is loaded once.

mod harness;

use harness::{Tensor, runtime};
use scalert_runtime::ops::fill::Fill;
use scalert_runtime::ops::scale::Scale;
use scalert_runtime::{DType, Stream, Trace, TraceDesc};
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::process::Command;

#[test]
fn a_profiler_gets_a_range_with_payload_for_each_operation_and_those_of_the_host() {
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("profiler.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/profiler.c");
    let cc = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut compile = Command::new(cc);
    compile.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]).arg(source).arg("-o").arg(&library);
    assert!(compile.status().expect("a C compiler").success());
    // SAFETY: no other thread of this process reads the environment yet.
    unsafe { std::env::set_var("NVTX_INJECTION64_PATH", &library) };

    let runtime = runtime(1);
    let stream = Stream::new(&runtime).unwrap();
    let trace = Trace::new(&runtime, &TraceDesc { spans: 1, rank: 0 }).unwrap();
    let y = Tensor::new(DType::BF16, &[100]);
    stream.submit(&Fill { value: 1.0, y: y.view() }).unwrap();
    trace.begin_range(Some(&stream), c"forward").unwrap(); // also while nothing records
    stream.submit(&Scale { alpha: 2.0, x: y.view(), y: y.view() }).unwrap();
    trace.end_range(Some(&stream)).unwrap();

    let path = CString::new(library.to_str().unwrap()).unwrap();
    // SAFETY: the library is loaded already, and the function is of this type.
    let log = unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        assert!(!handle.is_null(), "the library was loaded");
        let log = libc::dlsym(handle, c"profiler_log".as_ptr());
        let log = std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *const c_char>(log);
        CStr::from_ptr(log()).to_str().unwrap()
    };
    assert_eq!(log, "domain scaleRT\npush fill 200\npop\npush forward 0\npush scale 400\npop\npop\n");
}
