use super::{Dequantize, Quantize};
use crate::backend::cpu::{Cpu, Kernel, Simd, compact};
use crate::dynamic_map::{BLOCK, DynamicMap, Sign};
use crate::view::View;
use std::ops::Range;

/// Elements of one task.
const TASK: usize = 64 * BLOCK;

struct Run<'a> {
    sign: Sign,
    f32s: View<'a>,
    codes: View<'a>,
    absmax: View<'a>,
    range: Range<usize>,
    decode: bool,
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let map = DynamicMap::of(self.sign);
        for at in self.range.clone().step_by(BLOCK) {
            let n = BLOCK.min(self.range.end - at);
            // SAFETY: the range lies in the tensors, which are contiguous, and each block has a scale.
            unsafe {
                let (f32s, codes) = (self.f32s.ptr::<f32>().add(at), self.codes.ptr::<u8>().add(at));
                let absmax = self.absmax.ptr::<f32>().add(at / BLOCK);
                if self.decode {
                    compact::decode(s, map, codes, absmax.read(), f32s, n);
                } else {
                    compact::encode(s, map, f32s, compact::largest(s, f32s, n), codes, absmax, n);
                }
            }
        }
    }
}

pub(super) fn quantize(op: &Quantize<'_>, cpu: &Cpu<'_>) {
    let Quantize { x, sign, codes, absmax } = *op;
    cpu.parallel_chunks(x.numel(), TASK, |range, _| {
        cpu.dispatch(Run { sign, f32s: x, codes, absmax, range, decode: false });
    });
}

pub(super) fn dequantize(op: &Dequantize<'_>, cpu: &Cpu<'_>) {
    let Dequantize { codes, absmax, sign, y } = *op;
    cpu.parallel_chunks(y.numel(), TASK, |range, _| {
        cpu.dispatch(Run { sign, f32s: y, codes, absmax, range, decode: true });
    });
}
