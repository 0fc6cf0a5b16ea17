//! What fails inside the driver: nothing leaks, nothing changes, and the status tells. On the emulated device, whose
//! functions fail when they are told to.

mod harness;

use harness::Tensor;
use scalert_kernels::backend::cuda::driver::attribute;
use scalert_kernels::backend::cuda::{Driver, Handle, image};
use scalert_ptx_emulator::driver::inject;
use scalert_runtime::device::{self, DeviceKind};
use scalert_runtime::ops::fill::Fill;
use scalert_runtime::{
    Arena, DType, Error, Event, NativeDomain, Runtime, RuntimeDesc, Status, Stream, Tier, Trace, TraceDesc, View,
};
use std::ffi::CStr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

const OUT_OF_MEMORY: i32 = 2;
const INVALID_VALUE: i32 = 1;
const ILLEGAL_ADDRESS: i32 = 700;

/// The emulated driver, for one test at a time; none in a build without device code.
fn driver() -> Option<(&'static Driver, MutexGuard<'static, ()>)> {
    static DRIVER: OnceLock<&'static Driver> = OnceLock::new();
    static ONE: Mutex<()> = Mutex::new(());
    image::built().ok()?;
    let driver = DRIVER.get_or_init(|| {
        let find = |name: &CStr| scalert_ptx_emulator::symbol(name.to_str().unwrap()).unwrap_or(std::ptr::null());
        // SAFETY: the emulator's symbols are functions of the driver API.
        let driver: &'static Driver = Box::leak(Box::new(unsafe { Driver::from_symbols(&find) }.unwrap()));
        driver.start().unwrap();
        scalert_runtime::cuda::provide_driver(driver);
        driver
    });
    Some((driver, ONE.lock().unwrap_or_else(PoisonError::into_inner)))
}

fn cuda() -> RuntimeDesc {
    RuntimeDesc { device: DeviceKind::Cuda, threads: 1, ..Default::default() }
}

/// Free bytes of the device, as the primary context says while it is retained for the question.
fn free_bytes(driver: &Driver) -> usize {
    let (mut context, mut free, mut total): (Handle, _, _) = (std::ptr::null_mut(), 0, 0);
    // SAFETY: each writes what it is given; the context is pushed, popped and released.
    unsafe {
        driver.primary_context_retain(&mut context, 0).unwrap();
        driver.context_push(context).unwrap();
        driver.memory_info(&mut free, &mut total).unwrap();
        driver.context_pop(&mut context).unwrap();
        driver.primary_context_release(0).unwrap();
    }
    free
}

fn expect_driver_error(error: &Error, status: Status, code: i32) {
    assert_eq!((error.status, error.native), (status, Some((NativeDomain::Cuda, code.into()))), "{error}");
}

fn on_device<'a>(arena: &'a Arena, shape: &[usize]) -> View<'a> {
    let data = arena.alloc(shape.iter().product::<usize>() as u64 * 4).unwrap();
    // SAFETY: the arena has these bytes; one stream at a time uses them.
    unsafe { View::new("tensor", data.as_ptr(), DType::F32, shape, &[1]) }.unwrap()
}

#[test]
fn devices_are_described() {
    let Some((driver, _one)) = driver() else {
        assert_eq!(device::count(DeviceKind::Cuda).unwrap_err().status, Status::Unavailable);
        return;
    };
    assert_eq!(device::count(DeviceKind::Cuda), Ok(1));
    let info = device::describe(DeviceKind::Cuda, 0).unwrap();
    let mut multiprocessors = 0;
    // SAFETY: writes one integer.
    unsafe { driver.device_attribute(&mut multiprocessors, attribute::MULTIPROCESSORS, 0) }.unwrap();
    assert_eq!((info.compute_capability, info.multiprocessors), (80, multiprocessors as u32));
    assert_eq!(device::describe(DeviceKind::Cuda, 1).unwrap_err().status, Status::Unavailable);
    assert_eq!(device::describe(DeviceKind::Cuda, -1).unwrap_err().status, Status::InvalidArgument);
}

#[test]
fn a_runtime_that_cannot_be_made_leaves_no_context_behind() {
    let Some((driver, _one)) = driver() else { return };
    for (function, status, code) in [
        ("cuDevicePrimaryCtxRetain", Status::OutOfMemory, OUT_OF_MEMORY),
        ("cuCtxPushCurrent_v2", Status::DeviceError, INVALID_VALUE),
        ("cuThreadExchangeStreamCaptureMode", Status::DeviceError, INVALID_VALUE),
        ("cuCtxGetId", Status::DeviceError, INVALID_VALUE),
        ("cuMemGetInfo_v2", Status::DeviceError, INVALID_VALUE),
    ] {
        inject(function, 1, code);
        let error = Runtime::new(&cuda()).err().expect(function);
        expect_driver_error(&error, status, code);
        assert!(error.message.contains(function.trim_end_matches("_v2")), "{error}");
        // Nothing retains the context any more, and none is current.
        let mut current: Handle = std::ptr::null_mut();
        // SAFETY: writes one handle; a primary context that nobody retains cannot be released.
        unsafe {
            driver.context_current(&mut current).unwrap();
            assert!(current.is_null(), "{function}");
            assert!(driver.primary_context_release(0).is_err(), "{function}");
        }
    }
    Runtime::new(&cuda()).unwrap();
}

#[test]
fn device_memory_that_cannot_be_had_or_cleared_is_not_kept() {
    let Some((driver, _one)) = driver() else { return };
    let before = free_bytes(driver);
    let runtime = Runtime::new(&cuda()).unwrap();
    let stream = Stream::new(&runtime).unwrap();
    for (function, status, code) in [
        ("cuMemAlloc_v2", Status::OutOfMemory, OUT_OF_MEMORY),
        ("cuMemsetD8Async", Status::DeviceError, INVALID_VALUE),
        ("cuStreamSynchronize", Status::DeviceError, INVALID_VALUE),
        ("cuStreamCreateWithPriority", Status::DeviceError, INVALID_VALUE),
    ] {
        inject(function, 1, code);
        expect_driver_error(&stream.reserve(10_000).unwrap_err(), status, code);
        assert_eq!(runtime.memory_report().tier[0].used, 0, "{function}");
    }
    stream.reserve(10_000).unwrap();
    inject("cuMemHostRegister_v2", 1, OUT_OF_MEMORY);
    let error = Arena::new(&runtime, Tier::Pinned, 10_000).err().unwrap();
    expect_driver_error(&error, Status::OutOfMemory, OUT_OF_MEMORY);
    assert_eq!(runtime.memory_report().tier[1].used, 0);
    inject("cuEventCreate", 1, OUT_OF_MEMORY);
    expect_driver_error(&Event::new(&runtime).err().unwrap(), Status::OutOfMemory, OUT_OF_MEMORY);
    drop((stream, runtime));
    assert_eq!(free_bytes(driver), before);
}

#[test]
fn a_workspace_that_cannot_grow_stays_or_is_empty() {
    let Some((_driver, _one)) = driver() else { return };
    let runtime = Runtime::new(&cuda()).unwrap();
    let stream = Stream::new(&runtime).unwrap();
    let workspace = || runtime.memory_report().tier[0].workspace;
    stream.reserve(10_000).unwrap();
    inject("cuMemAlloc_v2", 1, OUT_OF_MEMORY);
    expect_driver_error(&stream.reserve(20_000).unwrap_err(), Status::OutOfMemory, OUT_OF_MEMORY);
    assert_eq!(workspace(), 10_000);
    // The old size cannot be had again either.
    inject("cuMemAlloc_v2", 1, OUT_OF_MEMORY);
    inject("cuMemAlloc_v2", 2, OUT_OF_MEMORY);
    expect_driver_error(&stream.reserve(20_000).unwrap_err(), Status::OutOfMemory, OUT_OF_MEMORY);
    assert_eq!(workspace(), 0);
    stream.reserve(20_000).unwrap();
    assert_eq!((workspace(), runtime.memory_report().tier[0].peak), (20_000, 20_000));
}

#[test]
fn a_failed_launch_is_that_call_s_alone_and_a_fault_is_every_call_s() {
    let Some((driver, _one)) = driver() else { return };
    let runtime = Runtime::new(&cuda()).unwrap();
    let stream = Stream::new(&runtime).unwrap();
    let arena = Arena::new(&runtime, Tier::Device, 4096).unwrap();
    let fill = Fill { value: 1.0, y: on_device(&arena, &[100]) };
    stream.submit(&fill).unwrap();
    inject("cuLaunchKernel", 1, INVALID_VALUE);
    let error = stream.submit(&fill).unwrap_err();
    expect_driver_error(&error, Status::DeviceError, INVALID_VALUE);
    assert!(error.message.starts_with("fill: cuLaunchKernel: fill_f32: "), "{error}");
    stream.submit(&fill).unwrap();
    inject("cuLaunchKernel", 1, ILLEGAL_ADDRESS);
    expect_driver_error(&stream.submit(&fill).unwrap_err(), Status::DeviceError, ILLEGAL_ADDRESS);
    let other = Stream::new(&runtime).err().unwrap();
    expect_driver_error(&other, Status::DeviceError, ILLEGAL_ADDRESS);
    assert!(other.message.starts_with("asynchronous work failed: "), "{other}");
    // A tensor without elements launches nothing, and is refused all the same.
    let empty = Fill { value: 1.0, y: on_device(&arena, &[0]) };
    expect_driver_error(&stream.submit(&empty).unwrap_err(), Status::DeviceError, ILLEGAL_ADDRESS);
    expect_driver_error(&stream.wait().unwrap_err(), Status::DeviceError, ILLEGAL_ADDRESS);

    let cpu = harness::runtime(1);
    let y = Tensor::new(DType::F32, &[3]);
    Stream::new(&cpu).unwrap().submit(&Fill { value: 2.0, y: y.view() }).unwrap();
    assert_eq!(y.values(), [2.0; 3]);
    drop((stream, arena, runtime));
    // The primary context went with its last runtime; a new one is sound.
    let runtime = Runtime::new(&cuda()).unwrap();
    Stream::new(&runtime).unwrap().wait().unwrap();
    drop(runtime);
    free_bytes(driver);
}

#[test]
fn threads_use_one_runtime() {
    let Some((_driver, _one)) = driver() else { return };
    let runtime = Runtime::new(&cuda()).unwrap();
    std::thread::scope(|scope| {
        for value in 0..4 {
            let runtime = &runtime;
            scope.spawn(move || {
                let stream = Stream::new(runtime).unwrap();
                let event = Event::new(runtime).unwrap();
                let arena = Arena::new(runtime, Tier::Pinned, 4096).unwrap();
                let y = on_device(&arena, &[64]);
                for _ in 0..20 {
                    stream.submit(&Fill { value: value as f32, y }).unwrap();
                    event.record(&stream).unwrap();
                    event.wait().unwrap();
                    assert_eq!(harness::element(&y, 63), f64::from(value));
                }
            });
        }
    });
}

/// Times in microseconds of the complete events of a category, in the order of the file.
fn times(text: &str, category: &str) -> Vec<(f64, f64)> {
    let number = |line: &str, name: &str| -> f64 {
        line.split_once(name).unwrap().1.split([',', '}']).next().unwrap().parse().unwrap()
    };
    let lines = text.lines().filter(|line| line.contains(&format!("\"cat\":\"{category}\"")));
    lines.map(|line| (number(line, "\"ts\":"), number(line, "\"dur\":"))).collect()
}

#[test]
fn a_trace_knows_when_work_ran_and_does_without_what_fails() {
    let Some((_driver, _one)) = driver() else { return };
    let path = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("trace-cuda.json");
    let c_path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let runtime = Runtime::new(&cuda()).unwrap();
    let stream = Stream::new(&runtime).unwrap();
    let arena = Arena::new(&runtime, Tier::Device, 4096).unwrap();
    let fill = Fill { value: 1.0, y: on_device(&arena, &[100]) };
    let trace = Trace::new(&runtime, &TraceDesc { spans: 10, rank: 0 }).unwrap();
    let written = || {
        trace.write_wait(&c_path).unwrap();
        std::fs::read_to_string(&path).unwrap()
    };

    // The emulated device works while work is enqueued. A second is as far as one event tells the time of another.
    trace.start().unwrap();
    for _ in 0..3 {
        stream.submit(&fill).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    trace.stop().unwrap();
    let text = written();
    let (host, device) = (times(&text, "enqueue"), times(&text, "operation"));
    assert_eq!((host.len(), device.len()), (3, 3), "{text}");
    for ((enqueued, took), (begun, ran)) in host.into_iter().zip(device) {
        let clocks = 1000.0;
        assert!(ran > 0.0, "{text}");
        assert!(enqueued - clocks <= begun && begun + ran <= enqueued + took + clocks, "{text}");
    }

    // Without its events a span has host times only.
    trace.start().unwrap();
    inject("cuEventRecord", 1, OUT_OF_MEMORY);
    stream.submit(&fill).unwrap();
    inject("cuEventRecord", 2, OUT_OF_MEMORY);
    stream.submit(&fill).unwrap();
    stream.submit(&fill).unwrap();
    inject("cuEventCreate", 1, OUT_OF_MEMORY);
    stream.submit(&fill).unwrap();
    trace.stop().unwrap();
    let text = written();
    assert_eq!((times(&text, "enqueue").len(), times(&text, "operation").len()), (4, 1), "{text}");
    assert!(!text.contains("without_device_times"), "{text}");

    for function in ["cuStreamCreateWithPriority", "cuEventSynchronize", "cuEventElapsedTime"] {
        inject(function, 1, INVALID_VALUE);
        let text = written();
        assert_eq!(times(&text, "enqueue").len(), 4, "{text}");
        assert!(text.contains(&format!("\"without_device_times\":\"DEVICE_ERROR: {}", function)), "{text}");
    }
    assert_eq!(times(&written(), "operation").len(), 1, "known again");
}
