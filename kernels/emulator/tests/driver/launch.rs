//! Kernels run, and what they do wrong stays in their context.

use crate::api::*;
use scalert_ptx_emulator::FaultKind;
use scalert_ptx_emulator::driver::last_fault;
use std::ffi::c_void;

#[test]
fn vectors_are_added() {
    let session = Session::new();
    let (function, stream) = (session.function("add"), session.stream());
    let (a, b): (Vec<f32>, Vec<f32>) =
        ((0..100).map(|i| i as f32).collect(), (0..100).map(|i| 0.5 * i as f32).collect());
    let (device_a, device_b, device_c) = (session.upload(&a), session.upload(&b), session.allocate(400));
    assert_eq!(add(function, stream, [device_a, device_b, device_c], 100), SUCCESS);
    assert_eq!(cuStreamSynchronize(stream), SUCCESS);
    let expected: Vec<f32> = (0..100).map(|i| 1.5 * i as f32).collect();
    assert_eq!(session.download(device_c, 100), expected);
}

#[test]
fn arguments_may_come_in_one_buffer() {
    let session = Session::new();
    let function = session.function("add");
    let (a, b, c) = (session.upload(&[1.0]), session.upload(&[2.0]), session.allocate(4));
    let buffer = [a, b, c, 1];
    let mut bytes: usize = 28;
    let mut launch = || {
        let extra: [*const c_void; 5] = [
            std::ptr::without_provenance(1),
            buffer.as_ptr().cast(),
            std::ptr::without_provenance(2),
            (&raw const bytes).cast(),
            std::ptr::null(),
        ];
        let outcome = cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, 0, std::ptr::null(), extra.as_ptr());
        bytes -= 1;
        outcome
    };
    assert_eq!(launch(), SUCCESS);
    assert_eq!(launch(), INVALID_VALUE, "a buffer that is too short");
    assert_eq!(session.download(c, 1), [3.0]);
}

#[test]
fn impossible_launches_are_refused_and_leave_nothing() {
    let session = Session::new();
    let function = session.function("stop");
    let none = std::ptr::null();
    let launch = |grid: u32, block: [u32; 3]| {
        cuLaunchKernel(function, grid, 1, 1, block[0], block[1], block[2], 0, 0, none, std::ptr::null())
    };
    assert_eq!(launch(0, [1, 1, 1]), INVALID_VALUE);
    assert_eq!(launch(1, [0, 1, 1]), INVALID_VALUE);
    assert_eq!(launch(1, [1025, 1, 1]), INVALID_VALUE);
    assert_eq!(launch(1, [1, 1, 65]), INVALID_VALUE);
    assert_eq!(launch(1, [32, 33, 1]), INVALID_VALUE);
    let grid = |y, z| cuLaunchKernel(function, 1, y, z, 1, 1, 1, 0, 0, none, std::ptr::null());
    assert_eq!((grid(65536, 1), grid(1, 65536)), (INVALID_VALUE, INVALID_VALUE));
    let add = session.function("add");
    assert_eq!(cuLaunchKernel(add, 1, 1, 1, 1, 1, 1, 0, 0, none, std::ptr::null()), INVALID_VALUE, "no arguments");
    assert_eq!(cuCtxSynchronize(), SUCCESS);
}

#[test]
fn more_than_the_usual_shared_memory_has_to_be_asked_for() {
    let session = Session::new();
    let function = session.function("store");
    let address = session.allocate(4);
    let value = 1_u32;
    let arguments: [*const c_void; 2] = [(&raw const address).cast(), (&raw const value).cast()];
    let launch = |bytes| cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, bytes, 0, arguments.as_ptr(), std::ptr::null());
    const MAX_DYNAMIC: i32 = 8;
    assert_eq!(launch(48 << 10), SUCCESS);
    assert_eq!(launch((48 << 10) + 1), INVALID_VALUE);
    assert_eq!(cuFuncSetAttribute(function, MAX_DYNAMIC, 166_913), INVALID_VALUE);
    assert_eq!(cuFuncSetAttribute(function, MAX_DYNAMIC, -1), INVALID_VALUE);
    assert_eq!(cuFuncSetAttribute(function, MAX_DYNAMIC, 166_912), SUCCESS);
    assert_eq!(launch(166_912), SUCCESS);
    assert_eq!(launch(166_913), INVALID_VALUE);
    assert_eq!(cuCtxSynchronize(), SUCCESS);
}

#[test]
fn a_fault_stays_in_its_context_only() {
    let session = Session::new();
    let function = session.function("store");
    let address = session.allocate(10);
    assert_eq!(store(function, 0, address + 4, 1), SUCCESS);
    assert_eq!(cuCtxSynchronize(), SUCCESS);
    assert_eq!(store(function, 0, address + 8, 1), SUCCESS, "the launch itself has not failed");
    for _ in 0..2 {
        assert_eq!(cuCtxSynchronize(), ILLEGAL_ADDRESS);
    }
    let fault = last_fault().expect("the fault is kept");
    assert_eq!((fault.kind, fault.address), (FaultKind::OutOfBounds, Some(address + 8)));
    assert_eq!(fault.kernel, "store");
    assert_eq!(cuMemAlloc_v2(&mut 0, 4), ILLEGAL_ADDRESS);
    assert_eq!(cuMemFree_v2(address), ILLEGAL_ADDRESS);
    assert_eq!(store(function, 0, address, 1), ILLEGAL_ADDRESS);
    assert_eq!(cuStreamCreate(&mut 0, 0), ILLEGAL_ADDRESS);
    assert_eq!(cuCtxGetCurrent(&mut 0), SUCCESS);

    let mut other = 0;
    assert_eq!(cuCtxCreate_v2(&mut other, 0, 0), SUCCESS);
    assert_eq!(cuCtxSynchronize(), SUCCESS);
    assert_eq!(cuCtxDestroy_v2(other), SUCCESS);
    assert_eq!(cuCtxDestroy_v2(session.context), SUCCESS);
    assert_eq!(cuCtxSynchronize(), INVALID_CONTEXT, "none is current");
}

#[test]
fn kinds_of_fault_have_the_errors_of_a_device() {
    let outcome = |provoke: &dyn Fn(&Session)| {
        let session = Session::new();
        provoke(&session);
        cuCtxSynchronize()
    };
    let misaligned = outcome(&|session: &Session| {
        let address = session.allocate(8);
        assert_eq!(store(session.function("store"), 0, address + 2, 1), SUCCESS);
    });
    assert_eq!(misaligned, MISALIGNED_ADDRESS);
    let trap = outcome(&|session: &Session| assert_eq!(stop(session.function("stop"), 0), SUCCESS));
    assert_eq!(trap, LAUNCH_FAILED);
    let freed = outcome(&|session: &Session| {
        let address = session.allocate(8);
        assert_eq!(cuMemFree_v2(address), SUCCESS);
        assert_eq!(store(session.function("store"), 0, address, 1), SUCCESS);
    });
    assert_eq!(freed, ILLEGAL_ADDRESS);
    let elsewhere = outcome(&|session: &Session| {
        let address = session.allocate(8);
        let mut other = 0;
        assert_eq!(cuCtxCreate_v2(&mut other, 0, 0), SUCCESS);
        assert_eq!(store(session.function("store"), 0, address, 1), SUCCESS);
    });
    assert_eq!(elsewhere, ILLEGAL_ADDRESS, "memory of another context");
}

#[test]
fn unwritten_memory_may_be_copied_and_not_read() {
    let session = Session::new();
    let function = session.function("add");
    let (written, unwritten, out) = (session.upload(&[1.0]), session.allocate(4), session.allocate(4));
    assert_eq!(cuMemcpyDtoDAsync_v2(out, unwritten, 4, 0), SUCCESS);
    assert_eq!(add(function, 0, [written, written, unwritten], 1), SUCCESS);
    assert_eq!(add(function, 0, [written, unwritten, unwritten], 1), SUCCESS, "a kernel has written it");
    assert_eq!(cuCtxSynchronize(), SUCCESS);
    assert_eq!(add(function, 0, [written, out, unwritten], 1), SUCCESS);
    assert_eq!(cuCtxSynchronize(), LAUNCH_FAILED, "the copy took over that nothing was written");
    assert_eq!(last_fault().map(|fault| fault.kind), Some(FaultKind::Uninitialised));
}

#[test]
fn memory_of_the_host_is_seen_to_the_exact_byte() {
    let session = Session::new();
    let function = session.function("store");
    let (mut managed, mut pinned) = (0, std::ptr::null_mut());
    assert_eq!(cuMemAllocManaged(&mut managed, 6, 1), SUCCESS);
    assert_eq!(cuMemAllocHost_v2(&mut pinned, 6), SUCCESS);
    let mut own = vec![0_u32; 4];
    let start = own.as_mut_ptr();
    assert_eq!(cuMemHostRegister_v2(start.cast(), 6, 0), SUCCESS);
    for address in [managed, pinned as u64, start as u64] {
        assert_eq!(store(function, 0, address, 0x0102_0304), SUCCESS);
        assert_eq!(cuCtxSynchronize(), SUCCESS);
        // SAFETY: six bytes are there, and no kernel runs.
        assert_eq!(unsafe { (address as *const u32).read() }, 0x0102_0304);
    }
    for address in [managed, pinned as u64, start as u64] {
        let mut other = 0;
        assert_eq!(cuCtxCreate_v2(&mut other, 0, 0), SUCCESS);
        let function = session.function("store");
        assert_eq!(store(function, 0, address, 1), SUCCESS, "a later context sees it too");
        assert_eq!(cuCtxSynchronize(), SUCCESS);
        assert_eq!(store(function, 0, address + 4, 1), SUCCESS);
        assert_eq!(cuCtxSynchronize(), ILLEGAL_ADDRESS);
        assert_eq!(cuCtxDestroy_v2(other), SUCCESS);
    }
    assert_eq!(cuMemHostUnregister(start.cast()), SUCCESS);
    assert_eq!(store(function, 0, start as u64, 1), SUCCESS);
    assert_eq!(cuCtxSynchronize(), ILLEGAL_ADDRESS);
}

/// As the header declares them.
#[repr(C)]
struct Config {
    sizes: [u32; 7],
    stream: usize,
    attributes: *const Attribute,
    count: u32,
}

#[repr(C)]
struct Attribute {
    id: u64,
    value: [u32; 16],
}

#[test]
fn launch_attributes_are_those_of_the_capability() {
    let session = Session::new();
    let function = session.function("store");
    let (address, value) = (session.allocate(4), 5_u32);
    let arguments: [*const c_void; 2] = [(&raw const address).cast(), (&raw const value).cast()];
    let launch = |id: u64, first: [u32; 3]| {
        let mut attribute = Attribute { id, value: [0; 16] };
        attribute.value[..3].copy_from_slice(&first);
        let config = Config { sizes: [1, 1, 1, 1, 1, 1, 0], stream: 0, attributes: &attribute, count: 1 };
        cuLaunchKernelEx((&raw const config).cast(), function, arguments.as_ptr(), std::ptr::null())
    };
    assert_eq!(launch(0, [0; 3]), SUCCESS);
    assert_eq!(launch(6, [0; 3]), SUCCESS, "programmatic serialization off");
    assert_eq!(launch(6, [1, 0, 0]), NOT_SUPPORTED);
    assert_eq!(launch(4, [1, 1, 1]), SUCCESS, "a cluster of one block");
    assert_eq!(launch(4, [2, 1, 1]), NOT_SUPPORTED);
    assert_eq!(launch(8, [0; 3]), SUCCESS, "a priority");
    assert_eq!(launch(99, [0; 3]), INVALID_VALUE);
    assert_eq!(cuCtxSynchronize(), SUCCESS);
}

#[test]
fn functions_describe_themselves() {
    let session = Session::new();
    let function = session.function("add");
    let attribute = |attribute| {
        let mut value = -7;
        assert_eq!(cuFuncGetAttribute(&mut value, attribute, function), SUCCESS);
        value
    };
    assert_eq!((attribute(0), attribute(1), attribute(6), attribute(8)), (1024, 0, 80, 48 << 10));
    assert_eq!(cuFuncGetAttribute(&mut 0, 16, function), INVALID_VALUE);
    let (mut offset, mut bytes) = (0, 0);
    assert_eq!(cuFuncGetParamInfo(function, 3, &mut offset, &mut bytes), SUCCESS);
    assert_eq!((offset, bytes), (24, 4));
    assert_eq!(cuFuncGetParamInfo(function, 4, &mut offset, &mut bytes), INVALID_VALUE);
    let mut name = std::ptr::null();
    assert_eq!(cuFuncGetName(&mut name, function), SUCCESS);
    // SAFETY: the driver returned a text that stays as long as the module.
    assert_eq!(unsafe { std::ffi::CStr::from_ptr(name) }.to_str(), Ok("add"));
    let blocks = |threads, dynamic| {
        let mut count = -1;
        let outcome = cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut count, function, threads, dynamic);
        if outcome == SUCCESS { count } else { -outcome }
    };
    assert_eq!((blocks(1024, 0), blocks(32, 0), blocks(0, 0)), (2, 32, -INVALID_VALUE));
    assert_eq!(blocks(128, 48 << 10), 3, "shared memory decides");
}
