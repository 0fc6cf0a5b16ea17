//! Owned tensors with hostile layouts, the contexts to run on, and comparisons with the f64 reference.

use crate::device::{Cuda, cuda};
use scalert_kernels::backend::cpu::{Cpu, Inline, Level, Workers};
use scalert_kernels::dtype::{DType, bf16, f16};
use scalert_kernels::ops::Op;
use scalert_kernels::view::View;

/// SplitMix64: the tests' own generator.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n as u64) as usize
    }
}

/// Words of memory that the host and, where there is one, the CUDA device address alike.
struct Words {
    data: *mut u64,
    len: usize,
    cuda: Option<&'static Cuda>,
}

impl Words {
    fn new(len: usize, value: u64) -> Words {
        let cuda = cuda();
        let data = match cuda {
            Some(cuda) => cuda.allocate(len),
            None => Box::leak(vec![0; len.max(1)].into_boxed_slice()).as_mut_ptr(),
        };
        // SAFETY: just allocated with this many words.
        unsafe { std::slice::from_raw_parts_mut(data, len).fill(value) };
        Words { data, len, cuda }
    }
    fn as_ptr(&self) -> *const u64 {
        self.data
    }
    fn len(&self) -> usize {
        self.len
    }
}

impl Clone for Words {
    fn clone(&self) -> Words {
        let words = Words::new(self.len, 0);
        // SAFETY: both have this many words, and are apart.
        unsafe { std::ptr::copy_nonoverlapping(self.data, words.data, self.len) };
        words
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        match self.cuda {
            Some(_) => cuda().expect("there was one").free(self.data),
            // SAFETY: the box that `new` leaked.
            None => drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.data, self.len.max(1))) }),
        }
    }
}

/// An owned tensor. Rows may be padded and the data misaligned for vectors (aligned to the element only); every byte
/// outside the elements is a guard that `assert_guards` checks.
#[derive(Clone)]
pub struct Tensor {
    storage: Words,
    offset: usize,
    dtype: DType,
    shape: Vec<usize>,
    stride: Vec<usize>,
}

const GUARD: u8 = 0xA5;

impl Tensor {
    /// Contiguous, filled with guard bytes.
    pub fn new(dtype: DType, shape: &[usize]) -> Tensor {
        Tensor::with_layout(dtype, shape, 0, 0)
    }

    /// Rows padded by `row_padding` elements, data `offset` elements past a 64-bit boundary.
    pub fn with_layout(dtype: DType, shape: &[usize], row_padding: usize, offset: usize) -> Tensor {
        let mut stride = vec![1; shape.len()];
        for d in (0..shape.len().saturating_sub(1)).rev() {
            let padding = if d + 2 == shape.len() { row_padding } else { 0 };
            stride[d] = stride[d + 1] * (shape[d + 1] + padding).max(1);
        }
        let span: usize = shape.iter().zip(&stride).map(|(n, s)| n.saturating_sub(1) * s).sum::<usize>() + 1;
        let bytes = (offset + span + row_padding + 16) * dtype.size();
        let storage = Words::new(bytes.div_ceil(8), u64::from_ne_bytes([GUARD; 8]));
        Tensor { storage, offset: offset * dtype.size(), dtype, shape: shape.to_vec(), stride }
    }

    /// With values from `f(flat index)`, rounded to nearest even.
    pub fn fill(mut self, mut f: impl FnMut(usize) -> f64) -> Tensor {
        for i in 0..self.numel() {
            self.set(i, f(i));
        }
        self
    }
    /// Standard normal values times `scale`.
    pub fn normal(self, rng: &mut Rng, scale: f64) -> Tensor {
        self.fill(|_| rng.normal() * scale)
    }

    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    fn address(&self, mut i: usize) -> *mut u8 {
        let mut element = 0;
        for d in (0..self.shape.len()).rev() {
            element += i % self.shape[d] * self.stride[d];
            i /= self.shape[d];
        }
        // SAFETY: inside the storage by construction.
        unsafe { (self.storage.as_ptr() as *mut u8).add(self.offset + element * self.dtype.size()) }
    }

    /// Element `i` in row-major order.
    pub fn get(&self, i: usize) -> f64 {
        let p = self.address(i);
        // SAFETY: an element of the dtype.
        unsafe {
            match self.dtype {
                DType::F32 => p.cast::<f32>().read_unaligned().into(),
                DType::BF16 => p.cast::<bf16>().read_unaligned().into(),
                DType::F16 => p.cast::<f16>().read_unaligned().into(),
                DType::I32 => p.cast::<i32>().read_unaligned().into(),
                DType::I64 => p.cast::<i64>().read_unaligned() as f64,
                DType::I16 => p.cast::<i16>().read_unaligned().into(),
                DType::U8 => p.read().into(),
            }
        }
    }

    /// Sets element `i` to the nearest value.
    pub fn set(&mut self, i: usize, x: f64) {
        let p = self.address(i);
        // SAFETY: an element of the dtype.
        unsafe {
            match self.dtype {
                DType::F32 => p.cast::<f32>().write_unaligned(x as f32),
                DType::BF16 => p.cast::<bf16>().write_unaligned(bf16::from_f32(x as f32)),
                DType::F16 => p.cast::<f16>().write_unaligned(f16::from_f64(x)),
                DType::I32 => p.cast::<i32>().write_unaligned(x as i32),
                DType::I64 => p.cast::<i64>().write_unaligned(x as i64),
                DType::I16 => p.cast::<i16>().write_unaligned(x as i16),
                DType::U8 => p.write(x as u8),
            }
        }
    }

    /// Sets all elements of an i64 tensor.
    pub fn set_words(&mut self, words: &[i64]) {
        assert_eq!((self.dtype, self.numel()), (DType::I64, words.len()));
        for (i, word) in words.iter().enumerate() {
            // SAFETY: an element of the dtype.
            unsafe { self.address(i).cast::<i64>().write_unaligned(*word) };
        }
    }

    /// Sets the bits of all elements of a 32-bit tensor.
    pub fn set_bits32(&mut self, bits: impl ExactSizeIterator<Item = u32>) {
        assert_eq!((self.dtype.size(), self.numel()), (4, bits.len()));
        for (i, bits) in bits.enumerate() {
            // SAFETY: an element of four bytes.
            unsafe { self.address(i).cast::<u32>().write_unaligned(bits) };
        }
    }

    /// Sets the bits of all elements of a 16-bit tensor.
    pub fn set_bits16(&mut self, f: impl Fn(usize) -> u16) {
        assert_eq!(self.dtype.size(), 2);
        for i in 0..self.numel() {
            // SAFETY: an element of two bytes.
            unsafe { self.address(i).cast::<u16>().write_unaligned(f(i)) };
        }
    }

    /// The bits of every element, row-major, zero-extended.
    pub fn bits(&self) -> Vec<u64> {
        (0..self.numel())
            .map(|i| {
                let mut bytes = [0u8; 8];
                // SAFETY: size() bytes of an element.
                unsafe { std::ptr::copy_nonoverlapping(self.address(i), bytes.as_mut_ptr(), self.dtype.size()) };
                u64::from_le_bytes(bytes)
            })
            .collect()
    }

    /// All elements as f64, row-major.
    pub fn values(&self) -> Vec<f64> {
        (0..self.numel()).map(|i| self.get(i)).collect()
    }

    pub fn view(&self) -> View<'_> {
        let data = (self.storage.as_ptr() as *mut u8).wrapping_add(self.offset);
        // SAFETY: the storage holds every element; tests run one operation at a time on their tensors.
        unsafe { View::new("tensor", data, self.dtype, &self.shape, &self.stride) }.unwrap()
    }

    /// Fails when a byte outside the elements was written.
    pub fn assert_guards(&self, what: &str) {
        // SAFETY: the storage as bytes.
        let bytes = unsafe { std::slice::from_raw_parts(self.storage.as_ptr().cast::<u8>(), self.storage.len() * 8) };
        let mut element = vec![false; bytes.len()];
        for i in 0..self.numel() {
            let at = self.address(i) as usize - bytes.as_ptr() as usize;
            element[at..at + self.dtype.size()].fill(true);
        }
        for (at, byte) in bytes.iter().enumerate() {
            assert!(element[at] || *byte == GUARD, "{what}: wrote outside the tensor, byte {at}");
        }
    }
}

/// Threads started for each run: slow and simple.
pub struct Threads(pub usize);

impl Workers for Threads {
    fn count(&self) -> usize {
        self.0
    }
    fn run(&self, n: usize, body: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for i in 0..n {
                scope.spawn(move || body(i));
            }
        });
    }
}

/// The levels that this CPU has.
pub fn levels() -> Vec<Level> {
    Level::ALL.into_iter().filter(|l| l.is_available()).collect()
}

/// Where an operation runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The CPU, at a level.
    Cpu(Level),
    /// The CUDA device, emulated or not.
    Cuda(&'static str),
}

impl Target {
    pub fn name(self) -> &'static str {
        match self {
            Target::Cpu(level) => level.name(),
            Target::Cuda(name) => name,
        }
    }
}

impl From<Level> for Target {
    fn from(level: Level) -> Target {
        Target::Cpu(level)
    }
}

/// Every level that this CPU has, and the CUDA device.
pub fn targets() -> Vec<Target> {
    let name = |cuda: &Cuda| if cuda.emulated { "emulated CUDA" } else { "CUDA" };
    levels().into_iter().map(Target::Cpu).chain(cuda().map(|cuda| Target::Cuda(name(cuda)))).collect()
}

/// Checks and runs `op` on `target`, with `threads` threads on the CPU, on a workspace full of NaN.
pub fn run_with<O: Op>(op: &O, target: impl Into<Target>, threads: usize) {
    op.check().unwrap_or_else(|e| panic!("{}: {e}", O::NAME));
    op.check_elements().unwrap_or_else(|e| panic!("{}: {e}", O::NAME));
    let level = match target.into() {
        Target::Cpu(level) => level,
        Target::Cuda(_) => return cuda().expect("the target is there").run(op),
    };
    let workers: &dyn Workers = if threads == 1 { &Inline } else { &Threads(threads) };
    let bytes = op.workspace(threads);
    let mut storage = vec![u64::MAX; bytes.div_ceil(8) + 8];
    let skip = (storage.as_ptr() as usize).wrapping_neg() % Cpu::WORKSPACE_ALIGNMENT;
    // SAFETY: the storage has 64 bytes more than asked for.
    let workspace = unsafe { std::slice::from_raw_parts_mut(storage.as_mut_ptr().cast::<u8>().add(skip), bytes) };
    op.cpu(&Cpu::new(level, workers, workspace));
}

/// Runs `op` with fresh outputs at every level with 1, 2 and 4 threads, and twice on the CUDA device. `op` builds and
/// runs it through the given closure and returns its outputs; the outputs of all runs on a target must have the same
/// bits. Returns the outputs of each target.
pub fn run_everywhere(mut op: impl FnMut(Target, usize) -> Vec<Tensor>) -> Vec<(Target, Vec<Tensor>)> {
    targets()
        .into_iter()
        .map(|level| {
            let outputs = op(level, 1);
            let more: &[usize] = if matches!(level, Target::Cpu(_)) { &[2, 4] } else { &[2] };
            for &threads in more {
                for (i, (one, many)) in outputs.iter().zip(op(level, threads)).enumerate() {
                    assert!(one.bits() == many.bits(), "{}: output {i} differs on {threads} threads", level.name());
                }
            }
            for (i, output) in outputs.iter().enumerate() {
                output.assert_guards(&format!("{}: output {i}", level.name()));
            }
            (level, outputs)
        })
        .collect()
}

/// [`run_everywhere`] for operations that promise the same bits on every target, NaN standing for any NaN. Returns the
/// outputs.
pub fn run_identically(op: impl FnMut(Target, usize) -> Vec<Tensor>) -> Vec<Tensor> {
    let mut results = run_everywhere(op);
    let (first, expected) = results.remove(0);
    for (level, outputs) in &results {
        for (i, (a, e)) in outputs.iter().zip(&expected).enumerate() {
            assert_same(&format!("{} and {}: output {i}", level.name(), first.name()), a, e);
        }
    }
    expected
}

/// Requires equal bits, NaN standing for any NaN.
pub fn assert_same(what: &str, actual: &Tensor, expected: &Tensor) {
    assert_eq!((actual.dtype(), actual.shape()), (expected.dtype(), expected.shape()), "{what}");
    for (i, (a, e)) in actual.bits().into_iter().zip(expected.bits()).enumerate() {
        let (x, y) = (actual.get(i), expected.get(i));
        assert!(a == e || (x.is_nan() && y.is_nan()), "{what}: element {i} is {x:e} ({a:#x}), expected {y:e} ({e:#x})");
    }
}

/// Shapes, row padding and misalignment in elements for element-wise operations: scalars, nothing, sizes around the
/// vector widths, several tasks, rows longer and shorter than a vector and a task, all dimensions.
pub const LAYOUTS: [(&[usize], usize, usize); 12] = [
    (&[], 0, 1),
    (&[0], 0, 0),
    (&[1], 0, 1),
    (&[15], 0, 3),
    (&[33], 0, 1),
    (&[64], 0, 0),
    (&[16_500], 0, 1),
    (&[3, 0], 0, 0),
    (&[37, 129], 5, 1),
    (&[70, 3], 1, 0),
    (&[1, 16_390], 1, 1),
    (&[2, 3, 2, 5, 7], 3, 1),
];

/// Values that break careless code: zeros of both signs, denormals, ties of narrower types, the largest, infinities,
/// NaN; between them normal values of all magnitudes.
pub fn hostile(rng: &mut Rng) -> f64 {
    let special = [
        0.0,
        -0.0,
        1e-45,
        -1e-40,
        5.9e-8,
        6.1e-5,
        1.0,
        -1.0,
        1.003_906_25,
        65504.0,
        65520.0,
        3.389_5e38,
        -3.4e38,
        1e20,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ];
    match rng.below(3) {
        0 => special[rng.below(special.len())],
        1 => rng.normal(),
        _ => rng.normal() * 2f64.powi(rng.below(250) as i32 - 125),
    }
}

/// Relative rounding error of one store in this dtype.
pub fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::EPSILON) / 2.0,
        DType::BF16 => 1.0 / 256.0,
        DType::F16 => 1.0 / 2048.0,
        _ => 0.0,
    }
}

/// Half of the smallest denormal of this dtype: the error of a store that underflows.
pub fn half_denormal(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2f64.powi(-150),
        DType::BF16 => 2f64.powi(-134),
        DType::F16 => 2f64.powi(-25),
        _ => 0.0,
    }
}

/// Requires |actual - expected| <= relative * |expected| + absolute, equal infinities, and NaN where NaN is expected.
pub fn assert_close(what: &str, actual: &Tensor, expected: &[f64], relative: f64, absolute: f64) {
    assert_each_close(what, actual, expected, relative, |_| absolute);
}

/// [`assert_close`] with an absolute tolerance for each element.
pub fn assert_each_close(
    what: &str,
    actual: &Tensor,
    expected: &[f64],
    relative: f64,
    absolute: impl Fn(usize) -> f64,
) {
    assert_eq!(actual.numel(), expected.len(), "{what}: sizes differ");
    for (i, &e) in expected.iter().enumerate() {
        let a = actual.get(i);
        let same = (a.is_nan() && e.is_nan()) || a == e;
        let close = (a - e).abs() <= relative * e.abs() + absolute(i);
        // A value past the largest of the dtype is stored as infinity.
        let overflow = a.is_infinite()
            && a.signum() == e.signum()
            && e.abs() > if actual.dtype() == DType::F16 { 65504.0 } else { 3.38e38 };
        assert!(same || close || overflow, "{what}: element {i} is {a}, expected {e}");
    }
}

/// Central difference of the scalar function `f` at `x[i]`.
pub fn central_difference(x: &[f64], i: usize, step: f64, f: impl Fn(&[f64]) -> f64) -> f64 {
    let mut probe = x.to_vec();
    probe[i] = x[i] + step;
    let up = f(&probe);
    probe[i] = x[i] - step;
    (up - f(&probe)) / (2.0 * step)
}
