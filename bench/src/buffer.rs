//! Memory for the cases: on the device of a stream, touched, and filled with plausible values.

use scalert_runtime::ops::fill::Fill;
use scalert_runtime::ops::random::{Distribution, Random};
use scalert_runtime::philox::Key;
use scalert_runtime::{Arena, DType, Stream, Tier, View};
use std::sync::atomic::{AtomicU64, Ordering};

/// An owned tensor that lives as long as the case that borrows it.
pub(crate) struct Buffer {
    _arena: Arena,
    data: *mut u8,
    dtype: DType,
    shape: Vec<usize>,
}

impl Buffer {
    fn new(stream: &Stream, dtype: DType, shape: &[usize]) -> Buffer {
        let bytes = (shape.iter().product::<usize>() * dtype.size()).next_multiple_of(4) as u64;
        let arena = Arena::new(stream.runtime(), Tier::Device, bytes).expect("the case fits the device");
        let data = arena.alloc(bytes).expect("the arena is as large").as_ptr();
        Buffer { _arena: arena, data, dtype, shape: shape.to_vec() }
    }

    /// Zeros of any dtype.
    pub(crate) fn zeros(stream: &Stream, dtype: DType, shape: &[usize]) -> Buffer {
        let buffer = Buffer::new(stream, dtype, shape);
        let words = [buffer.bytes().div_ceil(4)];
        // SAFETY: the buffer's own memory, as f32, whose zero has no bits set.
        let y = unsafe { View::new("buffer", buffer.data, DType::F32, &words, &[1]) }.expect("a contiguous buffer");
        stream.submit(&Fill { value: 0.0, y }).expect("a valid view");
        buffer
    }

    /// Floats of both signs, uniform below `scale` in magnitude; each buffer has values of its own.
    pub(crate) fn filled(stream: &Stream, dtype: DType, shape: &[usize], scale: f32) -> Buffer {
        static SEED: AtomicU64 = AtomicU64::new(1);
        let buffer = Buffer::new(stream, dtype, shape);
        let key = Key { seed: SEED.fetch_add(1, Ordering::Relaxed), step: 0, tensor: 0 };
        let distribution = Distribution::Uniform { low: -scale, high: scale };
        stream.submit(&Random { key, first_index: 0, distribution, y: buffer.view() }).expect("a valid view");
        buffer
    }

    /// A view that outlives the borrow; the case keeps the buffer.
    pub(crate) fn view(&self) -> View<'static> {
        let mut stride = vec![1; self.shape.len()];
        for d in (1..self.shape.len()).rev() {
            stride[d - 1] = stride[d] * self.shape[d];
        }
        // SAFETY: the buffer holds the elements; a case runs one operation at a time and owns its buffers.
        unsafe { View::new("buffer", self.data, self.dtype, &self.shape, &stride) }.expect("a contiguous buffer")
    }

    /// Row `i` of a matrix, a vector that outlives the borrow.
    pub(crate) fn row(&self, i: usize) -> View<'static> {
        let [rows, width] = self.shape[..] else { panic!("a matrix has two dimensions") };
        assert!(i < rows);
        let data = self.data.wrapping_add(i * width * self.dtype.size());
        // SAFETY: as in `view`; the row lies inside the buffer.
        unsafe { View::new("buffer", data, self.dtype, &[width], &[1]) }.expect("a contiguous row")
    }

    /// Its whole 64-bit words, on the CPU.
    pub(crate) fn words(&mut self) -> &mut [u64] {
        // SAFETY: the buffer's own memory, aligned to a cache line and written when it was made; `&mut self` for as long.
        unsafe { std::slice::from_raw_parts_mut(self.data.cast(), self.bytes() / 8) }
    }

    /// Bytes of its elements.
    pub(crate) fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}
