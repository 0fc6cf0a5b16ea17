//! Ranks of NCCL over a library that computes nothing: what it is asked for, and what becomes of its failures. On the emulated
//! device.
#![allow(missing_docs)]

mod harness;

use scalert_kernels::backend::cuda::{Driver, image};
use scalert_runtime::comm::{Reduction, nccl};
use scalert_runtime::device::DeviceKind;
use scalert_runtime::{
    Arena, Comm, CommDesc, DType, Error, NativeDomain, Result, Runtime, RuntimeDesc, Status, Stream, Tier, View,
};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The fake library, loaded under the name that the library asks for.
struct Fake {
    library: *mut c_void,
}

impl Fake {
    fn load() -> Fake {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libnccl.so.2");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nccl/fake.c");
        let cc = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let arguments = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libnccl.so.2"];
        let built = Command::new(cc).args(arguments).arg("-o").arg(&path).arg(source).status().unwrap();
        assert!(built.success());
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a library without initialisers.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        assert!(!library.is_null());
        Fake { library }
    }

    fn symbol(&self, name: &CStr) -> *mut c_void {
        // SAFETY: looks a name up in an open library.
        let address = unsafe { libc::dlsym(self.library, name.as_ptr()) };
        assert!(!address.is_null());
        address
    }

    fn get(&self, name: &CStr) -> c_int {
        // SAFETY: the variables are ints; the test is one thread.
        unsafe { self.symbol(name).cast::<c_int>().read() }
    }

    fn set(&self, name: &CStr, value: c_int) {
        // SAFETY: as above.
        unsafe { self.symbol(name).cast::<c_int>().write(value) };
    }

    /// What has been called since it was last asked.
    fn log(&self) -> Vec<String> {
        let log = self.symbol(c"fake_log").cast::<c_char>();
        // SAFETY: a string of the library's, which is emptied.
        unsafe {
            let text = CStr::from_ptr(log).to_str().unwrap().to_string();
            log.write(0);
            text.lines().map(str::to_string).collect()
        }
    }
}

fn failed(outcome: Result<()>, status: Status, words: &str) -> Error {
    let error = outcome.expect_err("it fails");
    assert_eq!(error.status, status, "{error}");
    assert!(error.message.contains(words), "{error} does not say '{words}'");
    error
}

fn part(memory: *mut u8, start: usize, n: usize) -> View<'static> {
    // SAFETY: inside the arena, which outlives the test's views; nothing computes on it.
    unsafe { View::new("x", memory.wrapping_add(start * 4), DType::F32, &[n], &[1]) }.unwrap()
}

#[test]
fn calls_are_nccls_and_its_failures_are_told() {
    let runtime = Runtime::new(&RuntimeDesc { threads: 1, ..Default::default() }).unwrap();
    let id = [0x5a; nccl::UNIQUE_ID_BYTES];
    let desc = CommDesc { timeout: Duration::from_millis(100), ..CommDesc::default() };
    let create = |runtime: &Runtime, rank, world| Comm::nccl(runtime, &id, rank, world, &desc);
    failed(create(&runtime, 0, 0).map(drop), Status::InvalidArgument, "world: 0");
    failed(create(&runtime, 2, 2).map(drop), Status::InvalidArgument, "rank: 2");
    failed(create(&runtime, 0, 2).map(drop), Status::Unavailable, "a CUDA device");
    let fake = Fake::load();
    assert_eq!(nccl::unique_id().unwrap(), id);
    if image::built().is_err() {
        return; // a build without device code has no CUDA runtimes
    }
    let find = |name: &CStr| scalert_ptx_emulator::symbol(name.to_str().unwrap()).unwrap_or(std::ptr::null());
    // SAFETY: the emulator's symbols are functions of the driver API.
    let driver: &'static Driver = Box::leak(Box::new(unsafe { Driver::from_symbols(&find) }.unwrap()));
    driver.start().unwrap();
    scalert_runtime::cuda::provide_driver(driver);
    let desc_cuda = RuntimeDesc { device: DeviceKind::Cuda, threads: 1, ..Default::default() };
    let runtime = Runtime::new(&desc_cuda).unwrap();
    let stream = Stream::new(&runtime).unwrap();
    let arena = Arena::new(&runtime, Tier::Device, 4096).unwrap();
    let memory = arena.alloc(4096).unwrap().as_ptr();
    let (x, y, all) = (part(memory, 0, 10), part(memory, 20, 10), part(memory, 40, 30));

    fake.set(c"fake_busy", 3);
    let comm = create(&runtime, 1, 3).unwrap();
    assert_eq!((comm.rank(), comm.world(), comm.is_deterministic()), (1, 3, false));
    assert_eq!(fake.get(c"fake_busy"), 0, "it waited while NCCL was busy");
    comm.all_reduce(&stream, x, Reduction::Sum).unwrap();
    comm.reduce(&stream, x, None, Reduction::Max, 0).unwrap();
    comm.reduce(&stream, x, Some(y), Reduction::Mean, 1).unwrap();
    comm.reduce_scatter(&stream, all, y, Reduction::Sum).unwrap();
    comm.all_gather(&stream, y, all).unwrap();
    comm.broadcast(&stream, x, 2).unwrap();
    comm.send(&stream, x, 2).unwrap();
    comm.receive(&stream, y, 0).unwrap();
    comm.barrier(&stream).unwrap();
    let other = part(memory, 80, 30);
    comm.all_to_all(&stream, all, other).unwrap();
    let expected = [
        "all_reduce 10 7 0 1",
        "reduce to none 10 7 2 0",
        "reduce 10 7 4 1",
        "reduce_scatter 10 7 0 0",
        "all_gather 10 7 0 0",
        "broadcast 10 7 2 1",
        "send 10 7 2 0",
        "receive 10 7 0 0",
        "all_reduce 1 4 2 1",
        "start 0 0 0 0",
        "send 10 7 0 0",
        "receive 10 7 0 0",
        "send 10 7 1 0",
        "receive 10 7 1 0",
        "send 10 7 2 0",
        "receive 10 7 2 0",
        "end 0 0 0 0",
    ];
    assert_eq!(fake.log(), expected);
    drop(comm);
    assert_eq!(fake.log(), ["finalize 0 0 0 0", "destroy 0 0 0 0"]);

    // A failure of the group is told once as it is, and ends it.
    let comm = create(&runtime, 1, 3).unwrap();
    fake.set(c"fake_async", 6);
    let error = failed(comm.async_error(), Status::CommError, "a remote process exited (6)");
    assert_eq!(error.native, Some((NativeDomain::Nccl, 6)));
    let error = failed(comm.barrier(&stream), Status::CommError, "the group has failed: COMM_ERROR: NCCL: a remote");
    assert_eq!(error.native, Some((NativeDomain::Nccl, 6)));
    drop(comm);
    assert_eq!(fake.log(), ["abort 0 0 0 0"]);
    failed(create(&runtime, 0, 2).map(drop), Status::CommError, "ncclCommInitRankConfig: a remote process exited");
    assert_eq!(fake.log(), ["abort 0 0 0 0"]);

    // Operations that fail, that never end, and an abort.
    fake.set(c"fake_async", 0);
    let comm = create(&runtime, 0, 2).unwrap();
    fake.set(c"fake_result", 2);
    let error = failed(comm.broadcast(&stream, x, 0), Status::CommError, "ncclBroadcast: something else (2)");
    assert_eq!(error.native, Some((NativeDomain::Nccl, 2)));
    fake.set(c"fake_result", 0);
    failed(comm.broadcast(&stream, x, 0), Status::CommError, "the group has failed");
    drop(comm);
    let comm = create(&runtime, 0, 2).unwrap();
    fake.set(c"fake_busy", c_int::MAX);
    failed(comm.all_reduce(&stream, x, Reduction::Sum), Status::Timeout, "ncclAllReduce: another rank did not come");
    failed(create(&runtime, 0, 2).map(drop), Status::Timeout, "ncclCommInitRankConfig: another rank did not come");
    drop(comm);
    fake.set(c"fake_busy", 0);
    let comm = create(&runtime, 0, 2).unwrap();
    comm.abort();
    comm.abort();
    failed(comm.barrier(&stream), Status::CommError, "rank 0 has aborted the group");
    failed(comm.async_error(), Status::CommError, "rank 0 has aborted the group");
    drop(comm);
    assert_eq!(fake.get(c"fake_live"), 0, "every communicator was destroyed or aborted, once");
}
