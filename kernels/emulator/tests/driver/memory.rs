//! Allocation, copies, fills, and what the driver says of addresses.

use crate::api::*;
use scalert_ptx_emulator::driver::inject;
use std::ffi::c_void;

#[test]
fn memory_is_counted_and_ends() {
    let session = Session::new();
    let room = || {
        let (mut free, mut total) = (0, 0);
        assert_eq!(cuMemGetInfo_v2(&mut free, &mut total), SUCCESS);
        (free, total)
    };
    let (before, total) = room();
    let mut device_total = 0;
    assert_eq!(cuDeviceTotalMem_v2(&mut device_total, 0), SUCCESS);
    assert_eq!((total, device_total), (2 << 30, 2 << 30));
    let address = session.allocate(1000);
    assert_eq!(address % 256, 0);
    assert_eq!(room().0, before - 1000);
    let mut unchanged = 5;
    assert_eq!(cuMemAlloc_v2(&mut unchanged, before - 999), OUT_OF_MEMORY);
    assert_eq!(cuMemAlloc_v2(&mut unchanged, usize::MAX), OUT_OF_MEMORY);
    assert_eq!(cuMemAlloc_v2(&mut unchanged, 0), INVALID_VALUE);
    assert_eq!(cuMemAlloc_v2(std::ptr::null_mut(), 1), INVALID_VALUE);
    assert_eq!(unchanged, 5);
    assert_eq!(cuMemFree_v2(address), SUCCESS);
    assert_eq!(room().0, before);
    let (mut managed, mut ordered) = (0, 0);
    assert_eq!(cuMemAllocManaged(&mut managed, 500, 1), SUCCESS);
    assert_eq!(cuMemAllocAsync(&mut ordered, 300, 0), SUCCESS);
    session.allocate(200);
    assert_eq!(room().0, before - 1000);
    assert_eq!(cuCtxDestroy_v2(session.context), SUCCESS);
    let mut next = 0;
    assert_eq!(cuCtxCreate_v2(&mut next, 0, 0), SUCCESS);
    assert_eq!(room().0, before, "the context took its memory along");
    assert_eq!(cuCtxDestroy_v2(next), SUCCESS);
}

#[test]
fn only_what_was_allocated_is_freed() {
    let session = Session::new();
    let address = session.allocate(64);
    let mut pinned = std::ptr::null_mut();
    assert_eq!(cuMemAllocHost_v2(&mut pinned, 64), SUCCESS);
    assert_eq!(cuMemFree_v2(0), SUCCESS);
    assert_eq!(cuMemFree_v2(address + 8), INVALID_VALUE);
    assert_eq!(cuMemFree_v2(pinned as u64), INVALID_VALUE);
    assert_eq!(cuMemFreeHost(address as *mut u8), INVALID_VALUE);
    assert_eq!((cuMemFree_v2(address), cuMemFree_v2(address)), (SUCCESS, INVALID_VALUE));
    assert_eq!((cuMemFreeHost(pinned), cuMemFreeHost(pinned)), (SUCCESS, INVALID_VALUE));
    let mut ordered = 0;
    let stream = session.stream();
    assert_eq!(cuMemAllocAsync(&mut ordered, 8, stream), SUCCESS);
    assert_eq!(cuMemFreeAsync(ordered + 1, stream), INVALID_VALUE);
    assert_eq!((cuMemFreeAsync(ordered, stream), cuMemFreeAsync(ordered, stream)), (SUCCESS, INVALID_VALUE));
    assert_eq!(cuMemAllocManaged(&mut ordered, 8, 0), INVALID_VALUE, "attached to nothing");
    let (mut pool, mut threshold) = (0, u64::MAX);
    assert_eq!(cuDeviceGetDefaultMemPool(&mut pool, 0), SUCCESS);
    assert_eq!(cuMemPoolSetAttribute(pool, 4, (&raw mut threshold).cast()), SUCCESS);
    assert_eq!(cuMemPoolTrimTo(pool, 0), SUCCESS);
    assert_eq!(cuMemPoolTrimTo(pool + 1, 0), INVALID_HANDLE);
}

#[test]
fn registration_is_exact() {
    let _session = Session::new();
    let own = [0_u8; 64];
    let at = |offset: usize| own.as_ptr().wrapping_add(offset).cast_mut().cast::<c_void>();
    assert_eq!(cuMemHostRegister_v2(at(0), 0, 0), INVALID_VALUE);
    assert_eq!(cuMemHostRegister_v2(std::ptr::null_mut(), 4, 0), INVALID_VALUE);
    assert_eq!(cuMemHostRegister_v2(at(16), 16, 0), SUCCESS);
    for (offset, bytes) in [(16, 16), (0, 17), (31, 1), (20, 4), (0, 64)] {
        assert_eq!(cuMemHostRegister_v2(at(offset), bytes, 0), ALREADY_REGISTERED, "{offset} {bytes}");
    }
    assert_eq!(cuMemHostRegister_v2(at(0), 16, 0), SUCCESS, "up to the byte before");
    assert_eq!(cuMemHostRegister_v2(at(32), 1, 0), SUCCESS, "from the byte behind");
    assert_eq!(cuMemHostUnregister(at(17)), NOT_REGISTERED);
    let mut address = 0;
    assert_eq!(cuMemHostGetDevicePointer_v2(&mut address, at(20), 0), SUCCESS);
    assert_eq!(address, at(20) as u64);
    assert_eq!(cuMemHostGetDevicePointer_v2(&mut address, at(40), 0), INVALID_VALUE);
    for offset in [16, 0, 32] {
        assert_eq!(cuMemHostUnregister(at(offset)), SUCCESS);
        assert_eq!(cuMemHostUnregister(at(offset)), NOT_REGISTERED);
    }
}

#[test]
fn copies_and_fills_stay_within_allocations() {
    let session = Session::new();
    let (address, mut host) = (session.allocate(10), [7_u8; 16]);
    let pointer = host.as_mut_ptr().cast::<c_void>();
    assert_eq!(cuMemcpyHtoD_v2(address, pointer, 11), INVALID_VALUE);
    assert_eq!(cuMemcpyHtoD_v2(address + 1, pointer, 10), INVALID_VALUE);
    assert_eq!(cuMemcpyHtoD_v2(address, pointer, usize::MAX), INVALID_VALUE);
    assert_eq!(cuMemcpyHtoD_v2(pointer as u64, pointer, 4), INVALID_VALUE, "no device address");
    assert_eq!(cuMemcpyHtoD_v2(address, std::ptr::null(), 4), INVALID_VALUE);
    assert_eq!(cuMemcpyHtoD_v2(address, address as *const c_void, 4), INVALID_VALUE, "no host address");
    assert_eq!(cuMemcpyDtoH_v2(pointer, address + 10, 1), INVALID_VALUE);
    assert_eq!(cuMemcpyHtoD_v2(address, std::ptr::null(), 0), SUCCESS, "nothing to copy");
    assert_eq!(cuMemcpyHtoDAsync_v2(address, pointer, 10, 0), SUCCESS);
    assert_eq!(cuMemsetD16_v2(address + 2, 0x0102, 2), SUCCESS);
    assert_eq!(cuMemsetD16_v2(address + 1, 0, 1), INVALID_VALUE, "not aligned");
    assert_eq!(cuMemsetD32Async(address + 4, 0, 2, 0), INVALID_VALUE);
    assert_eq!(cuMemsetD8Async(address + 9, 9, 1, 0), SUCCESS);
    assert_eq!(cuMemsetD8Async(address + 9, 9, 2, 0), INVALID_VALUE);
    assert_eq!(cuMemcpyAsync(pointer as u64 + 2, address, 10, 0), SUCCESS);
    assert_eq!(host, [7, 7, 7, 7, 2, 1, 2, 1, 7, 7, 7, 9, 7, 7, 7, 7]);
    for bytes in [4095, 4096, 4097, 8192, 9001] {
        let large = session.allocate(bytes);
        assert_eq!(cuMemsetD8Async(large, 3, bytes, 0), SUCCESS);
        let mut back = vec![0_u8; bytes];
        assert_eq!(cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), large, bytes), SUCCESS);
        assert!(back.iter().all(|byte| *byte == 3), "{bytes}");
    }
}

#[test]
fn addresses_have_attributes() {
    let session = Session::new();
    let device = session.allocate(100);
    let (mut managed, mut pinned) = (0, std::ptr::null_mut());
    assert_eq!(cuMemAllocManaged(&mut managed, 100, 1), SUCCESS);
    assert_eq!(cuMemAllocHost_v2(&mut pinned, 100), SUCCESS);
    let kinds = [1, 2, 8, 9, 11, 12];
    let ask = |address: u64| {
        let mut out = [0x55_u64; 6];
        let places: [*mut c_void; 6] = std::array::from_fn(|index| out.as_mut_ptr().wrapping_add(index).cast());
        out[1..4].fill(0);
        assert_eq!(cuPointerGetAttributes(6, kinds.as_ptr(), places.as_ptr(), address), SUCCESS);
        out
    };
    let context = session.context as u64;
    assert_eq!(ask(device + 99), [context, 2, 0, 0, device, 100]);
    assert_eq!(ask(managed), [context, 2, 1, 0, managed, 100]);
    assert_eq!(ask(pinned as u64 + 1), [context, 1, 0, 0, pinned as u64, 100]);
    assert_eq!(ask(&raw const context as u64), [0, 0, 0, u64::from(-2_i32 as u32), 0, 0], "the program's own");
    let mut single = 0_u64;
    assert_eq!(cuPointerGetAttribute((&raw mut single).cast(), 11, device + 5), SUCCESS);
    assert_eq!(single, device);
    assert_eq!(cuPointerGetAttribute((&raw mut single).cast(), 11, device + 100), INVALID_VALUE);
    assert_eq!(cuPointerGetAttribute((&raw mut single).cast(), 0, device), INVALID_VALUE);
    assert_eq!(cuPointerGetAttribute((&raw mut single).cast(), 4, device), INVALID_VALUE, "the host cannot");
    let (mut base, mut bytes) = (0, 0);
    assert_eq!(cuMemGetAddressRange_v2(&mut base, &mut bytes, device + 50), SUCCESS);
    assert_eq!((base, bytes), (device, 100));
    assert_eq!(cuMemGetAddressRange_v2(&mut base, &mut bytes, 64), NOT_FOUND);
}

#[test]
fn hints_are_for_managed_memory() {
    let session = Session::new();
    let (mut managed, device) = (0, session.allocate(100));
    assert_eq!(cuMemAllocManaged(&mut managed, 100, 1), SUCCESS);
    assert_eq!(cuMemPrefetchAsync(managed, 100, 0, 0), SUCCESS);
    assert_eq!(cuMemPrefetchAsync(managed + 50, 50, -1, 0), SUCCESS, "to the host");
    assert_eq!(cuMemPrefetchAsync(managed, 101, 0, 0), INVALID_VALUE);
    assert_eq!(cuMemPrefetchAsync(managed, 100, 1, 0), INVALID_DEVICE);
    assert_eq!(cuMemPrefetchAsync(device, 100, 0, 0), INVALID_VALUE);
    assert_eq!((cuMemAdvise(managed, 100, 3, 0), cuMemAdvise(managed, 100, 7, 0)), (SUCCESS, INVALID_VALUE));
    let mut bytes = 0;
    assert_eq!((cuCtxSetLimit(0, 4096), cuCtxGetLimit(&mut bytes, 0), bytes), (SUCCESS, SUCCESS, 4096));
    assert_eq!(cuCtxGetLimit(&mut bytes, 7), 215);
}

#[test]
fn calls_fail_on_demand() {
    let session = Session::new();
    inject("cuMemAlloc_v2", 3, OUT_OF_MEMORY);
    let outcomes: Vec<i32> = (0..5).map(|_| cuMemAlloc_v2(&mut 0, 4)).collect();
    assert_eq!(outcomes, [0, 0, OUT_OF_MEMORY, 0, 0]);
    inject("cuStreamSynchronize", 1, ILLEGAL_ADDRESS);
    assert_eq!(cuMemAlloc_v2(&mut 0, 4), SUCCESS);
    assert_eq!(cuStreamSynchronize(session.stream()), ILLEGAL_ADDRESS);
    assert_eq!(cuMemAlloc_v2(&mut 0, 4), ILLEGAL_ADDRESS, "as after a fault");
}
