//! Memory for the cases: page-aligned, touched, and filled with plausible values.

use scalert_runtime::{DType, View};

/// An owned tensor that lives as long as the case that borrows it.
pub(crate) struct Buffer {
    words: Vec<u64>,
    dtype: DType,
    shape: Vec<usize>,
}

impl Buffer {
    /// Zeros.
    pub(crate) fn zeros(dtype: DType, shape: &[usize]) -> Buffer {
        let bytes = shape.iter().product::<usize>() * dtype.size();
        Buffer { words: vec![0; bytes.div_ceil(8) + 8], dtype, shape: shape.to_vec() }
    }

    /// Floats of both signs below 1 in magnitude, or integers below `shape`'s last extent.
    pub(crate) fn filled(dtype: DType, shape: &[usize], scale: f32) -> Buffer {
        let mut buffer = Buffer::zeros(dtype, shape);
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let count: usize = shape.iter().product();
        let data = buffer.words.as_mut_ptr();
        for i in 0..count {
            let x = next() * scale;
            // SAFETY: the buffer holds `count` elements of the dtype.
            unsafe {
                match dtype {
                    DType::F32 => data.cast::<f32>().add(i).write(x),
                    DType::BF16 => {
                        data.cast::<u16>().add(i).write(scalert_runtime::dtype::bf16::from_f32(x).to_bits());
                    }
                    DType::F16 => data.cast::<u16>().add(i).write(scalert_runtime::dtype::f16::from_f32(x).to_bits()),
                    DType::I32 => data.cast::<i32>().add(i).write(x.abs() as i32),
                    DType::I64 => data.cast::<i64>().add(i).write(x.abs() as i64),
                }
            }
        }
        buffer
    }

    /// A view that outlives the borrow; the case keeps the buffer.
    pub(crate) fn view(&self) -> View<'static> {
        let mut stride = vec![1; self.shape.len()];
        for d in (1..self.shape.len()).rev() {
            stride[d - 1] = stride[d] * self.shape[d];
        }
        // SAFETY: the buffer holds the elements; a case runs one operation at a time and owns its buffers.
        unsafe { View::new("buffer", self.words.as_ptr() as *mut u8, self.dtype, &self.shape, &stride) }
            .expect("a contiguous buffer")
    }

    /// Bytes of its elements.
    pub(crate) fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}
