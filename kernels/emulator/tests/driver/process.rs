//! What the environment decides: each case in a process of its own.

use crate::api::*;
use std::ffi::{CString, c_char, c_void};
use std::process::{Command, Output};

/// Runs an ignored test of this file in another process.
fn run(test: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("this test is a file"));
    command.args(["--exact", &format!("process::{test}"), "--ignored", "--nocapture", "--test-threads=1"]);
    command.envs(variables.iter().copied()).output().expect("it starts")
}

fn assert_passes(test: &str, variables: &[(&str, &str)]) -> Output {
    let output = run(test, variables);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn the_environment_decides() {
    assert_passes("without_devices", &[("SCALERT_EMULATED_DEVICES", "0")]);
    assert_passes("with_three_devices", &[("SCALERT_EMULATED_DEVICES", "3")]);
    assert_passes("with_little_memory", &[("SCALERT_EMULATED_BYTES", "1000")]);
    let failures = "cuMemAlloc_v2:2:2, cuStreamCreate:1:999, nonsense";
    assert_passes("with_failures", &[("SCALERT_EMULATED_FAIL", failures)]);
}

#[test]
fn faults_are_told_where_the_environment_says() {
    let quiet = assert_passes("with_a_fault", &[]);
    assert_eq!(String::from_utf8_lossy(&quiet.stderr), "");
    let told = assert_passes("with_a_fault", &[("SCALERT_EMULATOR_REPORT", "stderr")]);
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(text.contains("kernel store: out of bounds"), "{text}");
    let file = std::env::temp_dir().join(format!("emulator-report-{}", std::process::id()));
    let path = file.to_str().expect("a name in UTF-8");
    let told = assert_passes("with_a_fault", &[("SCALERT_EMULATOR_REPORT", path)]);
    assert_eq!(String::from_utf8_lossy(&told.stderr), "");
    let written = std::fs::read_to_string(&file).expect("a report");
    std::fs::remove_file(&file).expect("the report was there");
    assert_eq!(written, text);
}

/// Where cargo leaves the shared library of this crate: next to the tests, or one folder up.
fn shared_library() -> std::path::PathBuf {
    let test = std::env::current_exe().expect("this test is a file");
    let folders = test.ancestors().skip(1).take(2);
    let candidates = folders.map(|folder| folder.join("libscalert_ptx_emulator.so"));
    candidates.into_iter().find(|file| file.exists()).expect("cargo has built the shared library")
}

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: i32) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn atexit(function: extern "C" fn()) -> i32;
    fn _exit(code: i32) -> !;
    fn fork() -> i32;
    fn waitpid(process: i32, status: *mut i32, options: i32) -> i32;
}

#[test]
fn the_shared_library_exports_the_same_names() {
    const NOW: i32 = 2;
    let file = CString::new(shared_library().to_str().expect("a name in UTF-8")).expect("no NUL");
    // SAFETY: loading it runs no code of its own.
    let library = unsafe { dlopen(file.as_ptr(), NOW) };
    assert!(!library.is_null());
    for name in [c"cuInit", c"cuMemAlloc_v2", c"cuLaunchKernel", c"cuGetProcAddress_v2", c"cuGraphLaunch"] {
        // SAFETY: the library stays loaded.
        assert!(!unsafe { dlsym(library, name.as_ptr()) }.is_null(), "{name:?}");
        assert!(scalert_ptx_emulator::driver::symbol(name.to_str().unwrap()).is_some(), "{name:?}");
    }
    // SAFETY: the function is there, as found above, and has this type.
    let init: extern "C" fn(u32) -> i32 = unsafe { std::mem::transmute(dlsym(library, c"cuInit".as_ptr())) };
    assert_eq!((init(1), init(0)), (INVALID_VALUE, SUCCESS));
}

const SAW_IT: i32 = 42;

extern "C" fn ask_late() {
    let saw = cuDeviceGetCount(&mut 0) == DEINITIALIZED && cuCtxSynchronize() == DEINITIALIZED;
    // SAFETY: it ends the process at once.
    unsafe { _exit(if saw { SAW_IT } else { 1 }) }
}

#[test]
fn the_driver_is_gone_when_the_process_ends() {
    assert_eq!(run("until_the_end", &[]).status.code(), Some(SAW_IT));
}

#[test]
#[ignore = "ends its process in its own way"]
fn until_the_end() {
    // SAFETY: the handler is a function that may run at the end.
    assert_eq!(unsafe { atexit(ask_late) }, 0);
    assert_eq!(cuInit(0), SUCCESS);
    assert_eq!(cuDeviceGetCount(&mut 0), SUCCESS);
}

#[test]
fn a_forked_process_has_no_driver() {
    assert_passes("a_fork", &[]);
}

#[test]
#[ignore = "forks its process"]
fn a_fork() {
    let session = Session::new();
    // SAFETY: the child makes calls that take no lock which another thread could hold, and ends.
    let child = unsafe { fork() };
    if child == 0 {
        let outcomes = [cuInit(0), cuDeviceGetCount(&mut 0), cuCtxSynchronize()];
        let code = if outcomes == [NOT_INITIALIZED; 3] { SAW_IT } else { 1 };
        // SAFETY: it ends the process at once.
        unsafe { _exit(code) }
    }
    let mut status = 0;
    // SAFETY: the child is one of this process, and the status has room.
    assert_eq!(unsafe { waitpid(child, &mut status, 0) }, child);
    assert_eq!(status >> 8, SAW_IT);
    session.allocate(4);
}

#[test]
#[ignore = "needs an environment of its own"]
fn without_devices() {
    let mut count = 7;
    assert_eq!(cuDeviceGetCount(&mut count), NOT_INITIALIZED);
    assert_eq!(cuInit(0), NO_DEVICE);
    assert_eq!(cuDeviceGetCount(&mut count), NOT_INITIALIZED);
    assert_eq!(cuCtxCreate_v2(&mut 0, 0, 0), NOT_INITIALIZED);
}

#[test]
#[ignore = "needs an environment of its own"]
fn with_three_devices() {
    assert_eq!(cuInit(1), INVALID_VALUE);
    assert_eq!(cuInit(0), SUCCESS);
    let (mut count, mut context, mut device) = (0, 0, 9);
    assert_eq!((cuDeviceGetCount(&mut count), count), (SUCCESS, 3));
    assert_eq!(cuDeviceGet(&mut 0, 3), INVALID_DEVICE);
    assert_eq!(cuDevicePrimaryCtxRetain(&mut context, 2), SUCCESS);
    assert_eq!(cuCtxPushCurrent_v2(context), SUCCESS);
    assert_eq!((cuCtxGetDevice(&mut device), device), (SUCCESS, 2));
    assert_eq!(cuDevicePrimaryCtxRelease_v2(1), INVALID_CONTEXT);
    assert_eq!(cuDevicePrimaryCtxRelease_v2(2), SUCCESS);
}

#[test]
#[ignore = "needs an environment of its own"]
fn with_little_memory() {
    let session = Session::new();
    session.allocate(600);
    assert_eq!(cuMemAlloc_v2(&mut 0, 401), OUT_OF_MEMORY);
    session.allocate(400);
    let mut pinned = std::ptr::null_mut();
    assert_eq!(cuMemAllocHost_v2(&mut pinned, 5000), SUCCESS, "it is no memory of the device");
}

#[test]
#[ignore = "needs an environment of its own"]
fn with_failures() {
    let session = Session::new();
    assert_eq!(cuStreamCreate(&mut 0, 0), 999);
    assert_eq!(cuStreamCreate(&mut 0, 0), SUCCESS);
    session.allocate(4);
    assert_eq!(cuMemAlloc_v2(&mut 0, 4), OUT_OF_MEMORY);
    session.allocate(4);
}

#[test]
#[ignore = "needs an environment of its own"]
fn with_a_fault() {
    let session = Session::new();
    let function = session.function("store");
    assert_eq!(store(function, 0, 64, 1), SUCCESS);
    assert_eq!(cuCtxSynchronize(), ILLEGAL_ADDRESS);
}
