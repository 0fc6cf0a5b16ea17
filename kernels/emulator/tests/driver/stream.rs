//! Streams: handles, order, and functions of the host.

use crate::api::*;
use std::ffi::c_void;
use std::sync::mpsc::{Receiver, Sender, channel};

#[test]
fn streams_are_handles() {
    let session = Session::new();
    let stream = session.stream();
    let (mut context, mut flags, mut priority, mut id) = (0, 9, 9, 0);
    assert_eq!(cuStreamGetCtx(stream, &mut context), SUCCESS);
    assert_eq!(cuStreamGetFlags(stream, &mut flags), SUCCESS);
    assert_eq!(cuStreamGetPriority(stream, &mut priority), SUCCESS);
    assert_eq!(cuStreamGetId(stream, &mut id), SUCCESS);
    assert_eq!((context, flags, priority), (session.context, 1, 0));
    let (mut urgent, mut legacy_id, mut thread_id) = (0, 0, 0);
    assert_eq!(cuStreamCreateWithPriority(&mut urgent, 0, -99), SUCCESS);
    assert_eq!(cuStreamGetPriority(urgent, &mut priority), SUCCESS);
    assert_eq!(priority, -5, "moved into the range");
    assert_eq!((cuStreamGetId(0, &mut legacy_id), cuStreamGetId(2, &mut thread_id)), (SUCCESS, SUCCESS));
    assert!(id != legacy_id && id != thread_id && legacy_id != thread_id);
    assert_eq!(cuStreamCreate(&mut urgent, 2), INVALID_VALUE);
    for handle in [3, 0xdead_beef, usize::MAX, stream + 1, session.context, session.event()] {
        assert_eq!(cuStreamSynchronize(handle), INVALID_HANDLE, "{handle:#x}");
        assert_eq!(cuStreamDestroy_v2(handle), INVALID_HANDLE);
        assert_eq!(cuMemFreeAsync(0, handle), INVALID_HANDLE);
        assert_eq!(cuLaunchKernel(handle, 1, 1, 1, 1, 1, 1, 0, 0, std::ptr::null(), std::ptr::null()), INVALID_HANDLE);
        assert_eq!(cuGraphLaunch(handle, stream), INVALID_HANDLE);
        assert_eq!(cuModuleUnload(handle), INVALID_HANDLE);
    }
    assert_eq!((cuStreamDestroy_v2(stream), cuStreamDestroy_v2(stream)), (SUCCESS, INVALID_HANDLE));
    assert_eq!(cuStreamDestroy_v2(0), INVALID_HANDLE, "a default stream stays");
}

struct Gate {
    entered: Sender<i32>,
    open: Receiver<()>,
}

/// Tells that it has begun, with what a call of the driver returns there, and waits.
unsafe extern "C" fn hold(user: *mut c_void) {
    // SAFETY: the test hands in a gate that outlives the call.
    let gate = unsafe { &*user.cast::<Gate>() };
    gate.entered.send(cuStreamQuery(0)).unwrap();
    gate.open.recv().unwrap();
}

#[test]
fn streams_of_several_threads_run_at_the_same_time() {
    let session = Session::new();
    let (held, free) = (session.stream(), session.stream());
    let function = session.function("store");
    let address = session.allocate(4);
    let context = session.context;
    let (entered, has_entered) = channel();
    let (opener, open) = channel();
    let worker = std::thread::spawn(move || {
        assert_eq!(cuCtxPushCurrent_v2(context), SUCCESS);
        let mut gate = Gate { entered, open };
        cuLaunchHostFunc(held, Some(hold), (&raw mut gate).cast())
    });
    assert_eq!(has_entered.recv(), Ok(NOT_PERMITTED), "no call of the driver from there");
    assert_eq!(cuStreamQuery(held), NOT_READY);
    assert_eq!(store(function, free, address, 1), SUCCESS);
    assert_eq!((cuStreamQuery(free), cuStreamSynchronize(free)), (SUCCESS, SUCCESS));
    let behind = std::thread::spawn(move || {
        assert_eq!(cuCtxPushCurrent_v2(context), SUCCESS);
        assert_eq!(store(function, held, address, 2), SUCCESS);
    });
    opener.send(()).unwrap();
    assert_eq!(worker.join().unwrap(), SUCCESS);
    behind.join().unwrap();
    assert_eq!(cuStreamQuery(held), SUCCESS);
    assert_eq!(session.download(address, 1)[0].to_bits(), 2);
    assert_eq!(cuLaunchHostFunc(held, None, std::ptr::null_mut()), INVALID_VALUE);
}

#[test]
fn many_threads_share_a_stream() {
    let session = Session::new();
    let (function, stream, context) = (session.function("add"), session.stream(), session.context);
    let (one, sum) = (session.upload(&[1.0]), session.upload(&[0.0]));
    let add_often = move || {
        assert_eq!(cuCtxPushCurrent_v2(context), SUCCESS);
        for _ in 0..50 {
            assert_eq!(add(function, stream, [one, sum, sum], 1), SUCCESS);
            let mut address = 0;
            assert_eq!(cuMemAlloc_v2(&mut address, 64), SUCCESS);
            assert_eq!(cuMemFree_v2(address), SUCCESS);
        }
        assert_eq!(cuStreamSynchronize(stream), SUCCESS);
    };
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(add_often)).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(session.download(sum, 1), [200.0]);
}

#[test]
fn errors_have_names_and_functions_are_found_by_name() {
    let _session = Session::new();
    let text = |code, ask: fn(i32, *mut *const std::ffi::c_char) -> i32| {
        let mut text = std::ptr::null();
        assert_eq!(ask(code, &mut text), SUCCESS);
        // SAFETY: the driver returned a text that stays.
        unsafe { std::ffi::CStr::from_ptr(text) }.to_str().unwrap()
    };
    assert_eq!(text(2, cuGetErrorName), "CUDA_ERROR_OUT_OF_MEMORY");
    assert_eq!(text(700, cuGetErrorString), "an illegal memory access was encountered");
    assert_eq!(cuGetErrorName(12345, &mut std::ptr::null()), INVALID_VALUE);
    let found = |name: &std::ffi::CStr, version| {
        let (mut function, mut found) = (std::ptr::null(), 9);
        assert_eq!(cuGetProcAddress_v2(name.as_ptr(), &mut function, version, 0, &mut found), SUCCESS);
        if function.is_null() { Err(found) } else { Ok(function) }
    };
    let symbol = |name| scalert_ptx_emulator::driver::symbol(name).ok_or(0);
    assert_eq!(found(c"cuMemAlloc", 13000), symbol("cuMemAlloc_v2"));
    assert_eq!(found(c"cuMemAllocAsync", 13000), symbol("cuMemAllocAsync"));
    assert_eq!(found(c"cuCtxCreate", 12000), symbol("cuCtxCreate_v2"));
    assert_eq!(found(c"cuCtxCreate", 13000), symbol("cuCtxCreate_v4"));
    assert_eq!(found(c"cuNothing", 13000), Err(1));
    assert_eq!(symbol("cuNothing"), Err(0));
}
