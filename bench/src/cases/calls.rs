//! What a call through the C boundary takes when it computes nothing: the panic fence, the checks of handles and tensors,
//! the stream's turn. The functions are called through pointers, as a host calls a shared library.

use super::{Cases, add};
use crate::measure::{Case, Unit};
use scaleRT::handle::Handle;
use scaleRT::layout::CStruct;
use scaleRT::ops::moving::scalert_add;
use scaleRT::runtime::{Desc, scalert_runtime_create, scalert_runtime_destroy};
use scaleRT::stream::{scalert_stream_create, scalert_stream_destroy, scalert_stream_wait};
use scaleRT::tensor::Tensor;
use scaleRT::version::scalert_version;
use scalert_runtime::{Runtime, Stream};
use std::hint::black_box;
use std::{panic, ptr};

type Add = unsafe extern "C" fn(*const Handle<Stream>, *const Tensor, *const Tensor, *const Tensor) -> i32;

/// Calls of one run, so that starting it does not count.
const CALLS: usize = 1000;

pub(super) fn add_all(cases: &mut Cases) {
    // In a program that is linked against a Rust library the first call silences the panics of both.
    let hook = panic::take_hook();
    // SAFETY: it takes nothing.
    unsafe { scalert_version() };
    panic::set_hook(hook);
    add(cases, "call of scalert_version".into(), |_, name| {
        let function = black_box(scalert_version as unsafe extern "C" fn() -> u32);
        let run = Box::new(move || {
            for _ in 0..CALLS {
                // SAFETY: it takes nothing.
                black_box(unsafe { function() });
            }
        });
        Case { name, unit: Unit::Nanoseconds, work: CALLS as f64, bytes: 0.0, ceiling: None, run }
    });
    add(cases, "call of scalert_stream_wait".into(), |_, name| {
        let function = black_box(scalert_stream_wait as unsafe extern "C" fn(*const Handle<Stream>) -> i32);
        let handles = Handles::new();
        let run = Box::new(move || {
            let handles = &handles;
            for _ in 0..CALLS {
                // SAFETY: a live stream.
                let status = unsafe { function(black_box(handles.stream)) };
                assert_eq!(status, 0, "there is nothing to wait for");
            }
        });
        Case { name, unit: Unit::Nanoseconds, work: CALLS as f64, bytes: 0.0, ceiling: None, run }
    });
    add(cases, "call of scalert_add on no elements".into(), |_, name| {
        let function = black_box(scalert_add as Add);
        let handles = Handles::new();
        let none = Tensor { data: ptr::null_mut(), dtype: 2, ndim: 1, shape: [0; 5], stride: [1; 5] };
        let run = Box::new(move || {
            let handles = &handles;
            for _ in 0..CALLS {
                // SAFETY: a live stream and three tensors without elements.
                let status = unsafe { function(black_box(handles.stream), &none, &none, &none) };
                assert_eq!(status, 0, "an addition of nothing succeeds");
            }
        });
        Case { name, unit: Unit::Nanoseconds, work: CALLS as f64, bytes: 0.0, ceiling: None, run }
    });
}

/// A CPU runtime and a stream, as a host holds them.
struct Handles {
    runtime: *mut Handle<Runtime>,
    stream: *mut Handle<Stream>,
}

impl Handles {
    fn new() -> Handles {
        let mut handles = Handles { runtime: ptr::null_mut(), stream: ptr::null_mut() };
        let desc = Desc { struct_size: size_of::<Desc>(), threads: 1, ..Desc::zeroed() };
        // SAFETY: a descriptor with its size, and places for two handles.
        let statuses = unsafe {
            [
                scalert_runtime_create(&desc, &mut handles.runtime),
                scalert_stream_create(handles.runtime, &mut handles.stream),
            ]
        };
        assert_eq!(statuses, [0, 0], "a CPU runtime and its stream");
        handles
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        // SAFETY: both are live, and nothing uses them any more.
        unsafe {
            scalert_stream_destroy(self.stream);
            scalert_runtime_destroy(self.runtime);
        }
    }
}
