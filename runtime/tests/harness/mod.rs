//! What the tests share: tensors of their own, a random number generator, operations made of closures, and hooks that
//! watch and fail.
#![allow(dead_code, unreachable_pub)]

pub mod small_state;

use scalert_kernels::backend::cpu::Cpu;
use scalert_kernels::backend::cuda::{CudaError, Gpu};
use scalert_runtime::dtype::{bf16, f16};
use scalert_runtime::ops::Op;
use scalert_runtime::threads::HostThreads;
use scalert_runtime::{Allocator, DType, Invalid, Runtime, RuntimeDesc, Tier, View};
use std::alloc::Layout;
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Roughly normal: the sum of four uniforms.
    pub fn normal(&mut self) -> f64 {
        let sum: f64 = (0..4).map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64 - 0.5).sum();
        sum * 3f64.sqrt()
    }
}

/// A contiguous tensor that owns its memory.
pub struct Tensor {
    data: Vec<u64>,
    dtype: DType,
    shape: Vec<usize>,
}

impl Tensor {
    pub fn new(dtype: DType, shape: &[usize]) -> Tensor {
        let bytes = shape.iter().product::<usize>() * dtype.size();
        Tensor { data: vec![0; bytes.div_ceil(8)], dtype, shape: shape.to_vec() }
    }

    pub fn fill(mut self, mut f: impl FnMut(usize) -> f64) -> Tensor {
        (0..self.numel()).for_each(|i| self.set(i, f(i)));
        self
    }

    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn set(&mut self, i: usize, x: f64) {
        assert!(i < self.numel());
        let data = self.data.as_mut_ptr();
        // SAFETY: element i lies inside the vector.
        unsafe {
            match self.dtype {
                DType::F32 => data.cast::<f32>().add(i).write(x as f32),
                DType::BF16 => data.cast::<bf16>().add(i).write(bf16::from_f64(x)),
                DType::F16 => data.cast::<f16>().add(i).write(f16::from_f64(x)),
                DType::I64 => data.cast::<i64>().add(i).write(x as i64),
                DType::I32 => data.cast::<i32>().add(i).write(x as i32),
                DType::I16 => data.cast::<i16>().add(i).write(x as i16),
                DType::U8 => data.cast::<u8>().add(i).write(x as u8),
            }
        }
    }

    pub fn get(&self, i: usize) -> f64 {
        element(&self.view(), i)
    }

    pub fn values(&self) -> Vec<f64> {
        (0..self.numel()).map(|i| self.get(i)).collect()
    }

    pub fn view(&self) -> View<'_> {
        let mut stride = vec![1; self.shape.len()];
        for d in (1..self.shape.len()).rev() {
            stride[d - 1] = stride[d] * self.shape[d];
        }
        // SAFETY: the vector holds every element; a test runs one call at a time on its tensors.
        unsafe { View::new("tensor", self.data.as_ptr().cast_mut().cast(), self.dtype, &self.shape, &stride) }.unwrap()
    }
}

/// Element `i` of a contiguous view.
pub fn element(view: &View<'_>, i: usize) -> f64 {
    assert!(view.is_contiguous() && i < view.numel());
    // SAFETY: the element lies inside the view.
    unsafe {
        match view.dtype() {
            DType::F32 => view.ptr::<f32>().add(i).read().into(),
            DType::BF16 => view.ptr::<bf16>().add(i).read().into(),
            DType::F16 => view.ptr::<f16>().add(i).read().into(),
            DType::I64 => view.ptr::<i64>().add(i).read() as f64,
            DType::I32 => view.ptr::<i32>().add(i).read().into(),
            DType::I16 => view.ptr::<i16>().add(i).read().into(),
            DType::U8 => view.ptr::<u8>().add(i).read().into(),
        }
    }
}

pub fn elements(view: &View<'_>) -> Vec<f64> {
    (0..view.numel()).map(|i| element(view, i)).collect()
}

pub fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// An operation made of a closure.
pub struct Probe<F> {
    workspace: usize,
    body: F,
}

impl<F: Fn(&Cpu<'_>)> Probe<F> {
    pub fn new(workspace: usize, body: F) -> Probe<F> {
        Probe { workspace, body }
    }
}

impl<F: Fn(&Cpu<'_>)> Op for Probe<F> {
    const NAME: &'static str = "probe";
    fn views(&self, _: &mut dyn FnMut(&'static str, &View<'_>)) {}
    fn check(&self) -> Result<(), Invalid> {
        Ok(())
    }
    fn workspace(&self, _: usize) -> usize {
        self.workspace
    }
    fn cpu(&self, cpu: &Cpu<'_>) {
        (self.body)(cpu);
    }
    fn cuda(&self, _: &Gpu<'_>) -> Result<(), CudaError> {
        Err(Gpu::unavailable("probe", "is a closure of the host"))
    }
}

pub fn runtime(threads: u32) -> Runtime {
    Runtime::new(&RuntimeDesc { threads, ..Default::default() }).unwrap()
}

/// Memory with a record of what is lent out, filled with garbage, that fails at a chosen call.
#[derive(Default)]
pub struct Hook {
    pub live: Mutex<HashMap<usize, (usize, usize, Tier)>>,
    pub calls: AtomicUsize,
    /// The call that fails, counted from 1; 0 = none.
    pub fail_at: AtomicUsize,
    /// The call from which on all fail, counted from 1; 0 = none.
    pub fail_from: AtomicUsize,
    /// Added to every address.
    pub misalign: usize,
}

impl Hook {
    pub fn live(&self) -> usize {
        self.live.lock().unwrap().len()
    }
    pub fn live_bytes(&self) -> u64 {
        self.live.lock().unwrap().values().map(|(bytes, ..)| *bytes as u64).sum()
    }
    fn layout(&self, bytes: usize, alignment: usize) -> Layout {
        Layout::from_size_align(bytes + self.misalign, alignment).unwrap()
    }
}

impl Allocator for Hook {
    fn alloc(&self, bytes: usize, alignment: usize, tier: Tier, ordinal: i32) -> Option<NonNull<u8>> {
        assert!(bytes > 0 && alignment >= 64 && ordinal == 0);
        let call = self.calls.fetch_add(1, SeqCst) + 1;
        let from = self.fail_from.load(SeqCst);
        if call == self.fail_at.load(SeqCst) || from != 0 && call >= from {
            return None;
        }
        // SAFETY: the layout is not empty, and the garbage lies inside it.
        let memory = unsafe {
            let memory = std::alloc::alloc(self.layout(bytes, alignment)).add(self.misalign);
            memory.write_bytes(0xa5, bytes);
            memory
        };
        self.live.lock().unwrap().insert(memory as usize, (bytes, alignment, tier));
        NonNull::new(memory)
    }

    unsafe fn free(&self, memory: NonNull<u8>, bytes: usize, alignment: usize, tier: Tier, ordinal: i32) {
        let lent = self.live.lock().unwrap().remove(&(memory.as_ptr() as usize));
        assert_eq!((lent, ordinal), (Some((bytes, alignment, tier)), 0), "freed as it was allocated");
        // SAFETY: allocated above with this layout.
        unsafe { std::alloc::dealloc(memory.as_ptr().sub(self.misalign), self.layout(bytes, alignment)) };
    }
}

/// What a host's parallel_for gets: calls one body.
pub type Call<'a> = &'a (dyn Fn(u32) + Sync);

/// The host's threads, made of a function of the number of bodies and of how to call one.
pub struct HostPool {
    pub threads: u32,
    pub parallel_for: fn(u32, Call<'_>),
}

impl HostThreads for HostPool {
    fn threads(&self) -> u32 {
        self.threads
    }

    unsafe fn parallel_for(&self, n: u32, body: unsafe extern "C" fn(*mut c_void, u32), context: *mut c_void) {
        let context = context as usize;
        // SAFETY: the context is valid until this returns.
        (self.parallel_for)(n, &|i| unsafe { body(context as *mut c_void, i) });
    }
}
