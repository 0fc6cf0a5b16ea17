//! What the machine can do: arithmetic peaks from registers, and the bandwidth of plain loops.

use crate::buffer::Buffer;
use scalert_runtime::{DType, SimdLevel as Level, Stream};
use std::hint::black_box;
use std::thread;

/// What bounds a case.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ceiling {
    /// The bandwidth of a plain loop that reads and writes streams of these many bytes in one pass.
    Traffic(Traffic),
    /// f32 fused multiply-adds in registers, in operations per second (two per element).
    Fma,
    /// bf16 dot products in registers; [`Ceiling::Fma`] where the instruction set has none.
    Bf16Dot,
}

/// Streams of memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Traffic {
    /// Read and written back.
    pub(crate) update: Vec<usize>,
    /// Read.
    pub(crate) read: Vec<usize>,
    /// Written.
    pub(crate) write: Vec<usize>,
}

impl Traffic {
    /// Bytes that cross the memory bus as a program sees it.
    pub(crate) fn bytes(&self) -> usize {
        2 * self.update.iter().sum::<usize>() + self.read.iter().sum::<usize>() + self.write.iter().sum::<usize>()
    }
}

/// A ceiling ready to run: one call of `run` does `work()` operations or bytes.
pub(crate) struct Probe {
    ceiling: Ceiling,
    level: Level,
    threads: usize,
    /// In memory like that of the cases: huge pages where the system has them.
    buffers: Vec<Buffer>,
    /// Passes over the buffers in one run, so that starting threads does not count.
    passes: usize,
}

const FMA_ROUNDS: usize = 4_000_000;
const LEAST_TRAFFIC: usize = 256 << 20;

impl Probe {
    /// Prepares a ceiling for the instruction set and the threads of a stream on the CPU.
    pub(crate) fn new(ceiling: Ceiling, stream: &Stream) -> Probe {
        let (level, threads) = (stream.runtime().level(), stream.runtime().threads() as usize);
        let zeros = |bytes: &usize| Buffer::zeros(stream, DType::F32, &[bytes.div_ceil(8) * 2]);
        let buffers = match &ceiling {
            Ceiling::Traffic(t) => t.update.iter().chain(&t.read).chain(&t.write).map(zeros).collect(),
            _ => Vec::new(),
        };
        let passes = match &ceiling {
            Ceiling::Traffic(t) => LEAST_TRAFFIC.div_ceil(t.bytes().max(1)),
            _ => 1,
        };
        Probe { ceiling, level, threads, buffers, passes }
    }

    /// Operations or bytes of one run.
    pub(crate) fn work(&self) -> f64 {
        match &self.ceiling {
            Ceiling::Traffic(t) => (t.bytes() * self.passes) as f64,
            Ceiling::Bf16Dot if self.level == Level::Avx512Bf16 => self.threads as f64 * fma_flops(self.level) * 2.0,
            Ceiling::Fma | Ceiling::Bf16Dot => self.threads as f64 * fma_flops(self.level),
        }
    }

    /// Runs once on all threads.
    pub(crate) fn run(&mut self) {
        let level = self.level;
        match self.ceiling.clone() {
            Ceiling::Traffic(traffic) => self.traffic(&traffic),
            Ceiling::Fma => self.on_threads(|| fma(level)),
            Ceiling::Bf16Dot => self.on_threads(|| bf16_dot(level)),
        }
    }

    fn on_threads(&self, body: impl Fn() + Copy + Send) {
        thread::scope(|scope| {
            for _ in 1..self.threads {
                scope.spawn(body);
            }
            body();
        });
    }

    fn traffic(&mut self, traffic: &Traffic) {
        let (threads, passes) = (self.threads, self.passes);
        let (updates, reads) = (traffic.update.len(), traffic.read.len());
        // Each thread takes the same share of every stream.
        let mut shares: Vec<Vec<&mut [u64]>> = (0..threads).map(|_| Vec::new()).collect();
        for buffer in &mut self.buffers {
            let words = buffer.words();
            let share = words.len().div_ceil(threads).max(1);
            let mut parts = words.chunks_mut(share);
            for thread in &mut shares {
                thread.push(parts.next().unwrap_or_default());
            }
        }
        thread::scope(|scope| {
            let mut shares = shares.into_iter();
            let mine = shares.next().unwrap_or_default();
            for share in shares {
                scope.spawn(move || stream(share, updates, reads, passes));
            }
            stream(mine, updates, reads, passes);
        });
    }
}

/// Passes over a thread's share: the streams advance together, a few cache lines of the longest at a time.
fn stream(mut share: Vec<&mut [u64]>, updates: usize, reads: usize, passes: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2(share: &mut [&mut [u64]], updates: usize, reads: usize, passes: usize) {
            (0..passes).for_each(|_| stream_once(share, updates, reads));
        }
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
        fn avx512(share: &mut [&mut [u64]], updates: usize, reads: usize, passes: usize) {
            (0..passes).for_each(|_| stream_once(share, updates, reads));
        }
        if Level::Avx512.is_available() {
            // SAFETY: the level was just detected.
            return unsafe { avx512(&mut share, updates, reads, passes) };
        }
        if Level::Avx2.is_available() {
            // SAFETY: the level was just detected.
            return unsafe { avx2(&mut share, updates, reads, passes) };
        }
    }
    (0..passes).for_each(|_| stream_once(&mut share, updates, reads));
}

/// Words of the longest stream in a step.
const STEP: usize = 64;

#[inline(always)]
fn stream_once(share: &mut [&mut [u64]], updates: usize, reads: usize) {
    let longest = share.iter().map(|s| s.len()).max().unwrap_or(0);
    let steps = longest.div_ceil(STEP).max(1);
    let mut sum = 0u64;
    for step in 0..steps {
        for (i, buffer) in share.iter_mut().enumerate() {
            let len = buffer.len();
            let part = &mut buffer[step * len / steps..(step + 1) * len / steps];
            if i < updates {
                part.iter_mut().for_each(|x| *x = x.wrapping_add(3));
            } else if i < updates + reads {
                sum = part.iter().fold(sum, |s, x| s.wrapping_add(*x));
            } else {
                part.fill(step as u64);
            }
        }
    }
    black_box(sum);
}

fn fma_flops(level: Level) -> f64 {
    let lanes = match level {
        Level::Portable => 4.0,
        Level::Avx2 => 8.0,
        Level::Avx512 | Level::Avx512Bf16 => 16.0,
    };
    FMA_ROUNDS as f64 * CHAINS as f64 * lanes * 2.0
}

/// Independent accumulators: enough to hide the latency of two pipes.
const CHAINS: usize = 12;

/// Multiply-adds (multiply then add at the portable level) in registers.
fn fma(level: Level) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the benchmark asks only for levels that the CPU has.
    unsafe {
        match level {
            Level::Avx2 => return x86::fma_avx2(),
            Level::Avx512 | Level::Avx512Bf16 => return x86::fma_avx512(),
            Level::Portable => {}
        }
    }
    let (a, b) = (black_box([1.0f32; 4]), black_box([1e-9f32; 4]));
    let mut sums = [[0.0f32; 4]; CHAINS];
    for _ in 0..FMA_ROUNDS {
        for sum in &mut sums {
            for i in 0..4 {
                sum[i] = sum[i] * a[i] + b[i];
            }
        }
    }
    black_box(sums);
}

fn bf16_dot(level: Level) {
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512Bf16 {
        // SAFETY: the benchmark asks only for levels that the CPU has.
        return unsafe { x86::bf16_dot() };
    }
    fma(level);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHAINS, FMA_ROUNDS};
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn fma_avx2() {
        let (a, b) = (_mm256_set1_ps(black_box(1.0)), _mm256_set1_ps(black_box(1e-9)));
        let mut sums = [_mm256_setzero_ps(); CHAINS];
        for _ in 0..FMA_ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn fma_avx512() {
        let (a, b) = (_mm512_set1_ps(black_box(1.0)), _mm512_set1_ps(black_box(1e-9)));
        let mut sums = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..FMA_ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn bf16_dot() {
        let a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(black_box(1.0)), _mm512_set1_ps(black_box(1.0)));
        let b = _mm512_cvtne2ps_pbh(_mm512_set1_ps(black_box(1e-9)), _mm512_set1_ps(black_box(1e-9)));
        let mut sums = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..FMA_ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }
}
