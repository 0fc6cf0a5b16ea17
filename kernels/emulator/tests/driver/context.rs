//! Which context is current, and what has become of it.

use crate::api::*;

#[test]
fn contexts_are_a_stack_of_each_thread() {
    let session = Session::new();
    let current = || {
        let mut context = 1;
        assert_eq!(cuCtxGetCurrent(&mut context), SUCCESS);
        context
    };
    assert_eq!(current(), session.context);
    let mut second = 0;
    assert_eq!(cuCtxCreate_v2(&mut second, 0, 0), SUCCESS);
    assert_eq!(current(), second);
    assert_eq!(cuCtxPushCurrent_v2(session.context), SUCCESS);
    assert_eq!(cuCtxPushCurrent_v2(session.context), SUCCESS, "twice is fine");
    let mut popped = 0;
    assert_eq!(cuCtxPopCurrent_v2(&mut popped), SUCCESS);
    assert_eq!((popped, current()), (session.context, session.context));
    assert_eq!(cuCtxSetCurrent(second), SUCCESS);
    assert_eq!(current(), second);
    let elsewhere = std::thread::spawn(|| {
        let mut context = 1;
        (cuCtxGetCurrent(&mut context), context, cuCtxSynchronize(), cuCtxPopCurrent_v2(&mut 0))
    });
    assert_eq!(elsewhere.join().unwrap(), (SUCCESS, 0, INVALID_CONTEXT, INVALID_CONTEXT));
    assert_eq!(cuCtxSetCurrent(0), SUCCESS);
    assert_eq!(current(), second, "the one below");
    assert_eq!(cuCtxDestroy_v2(second), SUCCESS);
    assert_eq!(current(), session.context);
}

#[test]
fn what_is_no_context_is_not_followed() {
    let session = Session::new();
    for handle in [1, 0xdead_beef, usize::MAX, session.context + 1, session.stream()] {
        assert_eq!(cuCtxPushCurrent_v2(handle), INVALID_CONTEXT, "{handle:#x}");
        assert_eq!(cuCtxSetCurrent(handle), INVALID_CONTEXT);
        assert_eq!(cuCtxDestroy_v2(handle), INVALID_CONTEXT);
    }
    assert_eq!(cuCtxCreate_v2(&mut 0, 0, 1), INVALID_DEVICE);
    assert_eq!(cuCtxCreate_v2(&mut 0, 3, 0), INVALID_VALUE, "two kinds of scheduling");
    assert_eq!(cuCtxCreate_v2(std::ptr::null_mut(), 0, 0), INVALID_VALUE);
}

#[test]
fn a_destroyed_context_is_told_from_none() {
    let session = Session::new();
    let (send, receive) = std::sync::mpsc::channel();
    let (send_back, receive_back) = std::sync::mpsc::channel();
    let context = session.context;
    let other = std::thread::spawn(move || {
        assert_eq!(cuCtxSetCurrent(context), SUCCESS);
        send.send(()).unwrap();
        receive_back.recv().unwrap();
        (cuCtxSynchronize(), cuMemAlloc_v2(&mut 0, 4), cuCtxPopCurrent_v2(std::ptr::null_mut()))
    });
    receive.recv().unwrap();
    let (stream, event, address) = (session.stream(), session.event(), session.allocate(16));
    assert_eq!(cuCtxDestroy_v2(context), SUCCESS);
    send_back.send(()).unwrap();
    assert_eq!(other.join().unwrap(), (CONTEXT_IS_DESTROYED, CONTEXT_IS_DESTROYED, SUCCESS));
    assert_eq!(cuCtxSynchronize(), INVALID_CONTEXT, "it was popped from this thread");
    assert_eq!(cuCtxDestroy_v2(context), CONTEXT_IS_DESTROYED);
    assert_eq!(cuCtxPushCurrent_v2(context), CONTEXT_IS_DESTROYED);
    assert_eq!(cuStreamSynchronize(stream), INVALID_CONTEXT);

    let mut next = 0;
    assert_eq!(cuCtxCreate_v2(&mut next, 0, 0), SUCCESS);
    assert_eq!(cuStreamSynchronize(stream), INVALID_HANDLE);
    assert_eq!(cuEventQuery(event), INVALID_HANDLE);
    assert_eq!(cuMemFree_v2(address), INVALID_VALUE, "its memory went with it");
    assert_eq!(cuCtxDestroy_v2(next), SUCCESS);
}

#[test]
fn the_primary_context_is_counted() {
    let session = Session::new();
    let state = || {
        let (mut flags, mut active) = (9, 9);
        assert_eq!(cuDevicePrimaryCtxGetState(0, &mut flags, &mut active), SUCCESS);
        (flags, active)
    };
    assert_eq!(state(), (0, 0));
    let (mut first, mut second) = (0, 0);
    assert_eq!(cuDevicePrimaryCtxRetain(&mut first, 0), SUCCESS);
    assert_eq!(cuDevicePrimaryCtxRetain(&mut second, 0), SUCCESS);
    assert_eq!(first, second);
    assert_eq!(cuCtxPushCurrent_v2(first), SUCCESS);
    assert_eq!(cuCtxDestroy_v2(first), INVALID_CONTEXT, "it is released, not destroyed");
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), SUCCESS);
    assert_eq!(cuCtxSynchronize(), SUCCESS);
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), SUCCESS);
    assert_eq!(state(), (0, 0));
    assert_eq!(cuCtxSynchronize(), CONTEXT_IS_DESTROYED);
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), INVALID_CONTEXT);
    assert_eq!(cuDevicePrimaryCtxRetain(&mut second, 0), SUCCESS);
    assert_eq!(first, second);
    assert_eq!(cuCtxSynchronize(), SUCCESS, "it is back under the same handle");

    let function = session.function("stop");
    assert_eq!(stop(function, 0), SUCCESS);
    assert_eq!(cuCtxSynchronize(), LAUNCH_FAILED);
    assert_eq!(cuDevicePrimaryCtxReset_v2(0), SUCCESS);
    assert_eq!(cuCtxSynchronize(), CONTEXT_IS_DESTROYED);
    assert_eq!(cuDevicePrimaryCtxRetain(&mut second, 0), SUCCESS);
    assert_eq!(cuCtxSynchronize(), SUCCESS, "what the kernel left is gone");
    assert_eq!(stop(function, 0), INVALID_HANDLE, "and so is the kernel");
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), SUCCESS);
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), SUCCESS);
}

#[test]
fn objects_of_another_context_are_refused_where_a_device_refuses_them() {
    let session = Session::new();
    let (function, stream, event) = (session.function("store"), session.stream(), session.event());
    let address = session.allocate(4);
    let mut other = 0;
    assert_eq!(cuCtxCreate_v2(&mut other, 0, 0), SUCCESS);
    assert_eq!(store(function, 0, address, 1), INVALID_CONTEXT);
    let own = session.function("store");
    assert_eq!(store(own, stream, address, 1), INVALID_HANDLE);
    assert_eq!(cuEventRecord(event, session.stream()), INVALID_HANDLE);
    assert_eq!(cuStreamWaitEvent(session.stream(), event, 0), SUCCESS);
    assert_eq!(cuMemsetD8Async(address, 0, 4, stream), SUCCESS);
    assert_eq!(cuStreamSynchronize(stream), SUCCESS);
    assert_eq!(cuMemFree_v2(address), SUCCESS);
    assert_eq!(cuCtxDestroy_v2(other), SUCCESS);
}

#[test]
fn the_device_is_described() {
    let _session = Session::new();
    let attribute = |attribute| {
        let mut value = -1;
        assert_eq!(cuDeviceGetAttribute(&mut value, attribute, 0), SUCCESS);
        value
    };
    assert_eq!((attribute(75), attribute(76), attribute(16), attribute(10)), (8, 0, 4, 32));
    assert_eq!((attribute(8), attribute(97), attribute(81)), (49152, 166_912, 167_936));
    assert_eq!((attribute(41), attribute(83), attribute(89), attribute(91), attribute(115)), (1, 1, 1, 1, 1));
    assert_eq!(attribute(120), 0, "no clusters");
    assert_eq!(cuDeviceGetAttribute(&mut 0, 0, 0), INVALID_VALUE);
    assert_eq!(cuDeviceGetAttribute(&mut 0, 1, 1), INVALID_DEVICE);
    assert_eq!(cuDeviceGet(&mut 0, 0), SUCCESS);
    assert_eq!((cuDeviceGet(&mut 0, -1), cuDeviceGet(&mut 0, 1)), (INVALID_DEVICE, INVALID_DEVICE));
    let (mut count, mut version, mut device) = (0, 0, 9);
    assert_eq!((cuDeviceGetCount(&mut count), cuDriverGetVersion(&mut version)), (SUCCESS, SUCCESS));
    assert_eq!((count, version, cuCtxGetDevice(&mut device), device), (1, 13000, SUCCESS, 0));
    let mut name = [1; 9];
    assert_eq!(cuDeviceGetName(name.as_mut_ptr(), 9, 0), SUCCESS);
    assert_eq!(name.map(|byte| byte as u8), *b"emulated\0");
}
