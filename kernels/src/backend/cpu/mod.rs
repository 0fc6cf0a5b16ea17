//! The CPU: SIMD levels chosen at run time, workers lent by the caller, and a workspace lent by the caller.
//!
//! A fast kernel is a type implementing [`Kernel`], generic over the instruction set [`Simd`];
//! [`Cpu::dispatch`] compiles it once per level. Work is cut into tasks whose size depends on the shapes only,
//! never on the number of workers, so results have the same bits for any number of threads.

mod avx2;
mod avx512;
pub(crate) mod compact;
mod element;
pub(crate) mod elementwise;
mod level;
pub mod math;
pub(crate) mod pair;
mod portable;
mod simd;
pub(crate) mod span;
pub(crate) mod stochastic;

pub use element::Element;
pub(crate) use element::{Bf16Away, Bits8, Bits16, Float, plain_nan};
pub use level::{Kernel, Level};
pub use portable::Portable;
pub use simd::{MOST_LANES, Simd};

use std::sync::atomic::{AtomicUsize, Ordering};

/// Asks for the cache line at `p`, which need not be readable, to come to the second-level cache.
#[inline(always)]
pub(crate) fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it does not fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Asks for the cache line at `p`, which need not be writable, to come to the first-level cache to be written.
#[inline(always)]
pub(crate) fn prefetch_to_write<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it does not fault, and CPUs that do not know it take it for no operation.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) p, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Threads that a kernel may use. The runtime implements it over its pool or the host's.
pub trait Workers: Sync {
    /// Largest number of bodies that may run at the same time, at least 1.
    fn count(&self) -> usize;
    /// Calls `body(0)`, …, `body(n - 1)`, `n <= count()`, concurrently or not, and returns when all have returned.
    fn run(&self, n: usize, body: &(dyn Fn(usize) + Sync));
}

/// The calling thread alone.
pub struct Inline;

impl Workers for Inline {
    fn count(&self) -> usize {
        1
    }
    fn run(&self, n: usize, body: &(dyn Fn(usize) + Sync)) {
        (0..n).for_each(body);
    }
}

/// What a kernel runs with on the CPU.
pub struct Cpu<'a> {
    level: Level,
    workers: &'a dyn Workers,
    workspace: *mut u8,
    workspace_bytes: usize,
}

// SAFETY: the workspace pointer is only handed out; kernels give disjoint parts of it to their workers.
unsafe impl Sync for Cpu<'_> {}

impl<'a> Cpu<'a> {
    /// Alignment of the workspace in bytes.
    pub const WORKSPACE_ALIGNMENT: usize = 64;

    /// A context over `workers` and a workspace, aligned to [`Self::WORKSPACE_ALIGNMENT`], whose content is
    /// undefined before and after each operation.
    pub fn new(level: Level, workers: &'a dyn Workers, workspace: &'a mut [u8]) -> Cpu<'a> {
        assert!(level.is_available(), "this CPU lacks {}", level.name());
        let aligned = (workspace.as_ptr() as usize).is_multiple_of(Self::WORKSPACE_ALIGNMENT);
        assert!(workspace.is_empty() || aligned, "workspace is not aligned");
        // Operations take slices of nothing from an empty workspace too, and those must be aligned.
        let empty = std::ptr::without_provenance_mut(Self::WORKSPACE_ALIGNMENT);
        let start = if workspace.is_empty() { empty } else { workspace.as_mut_ptr() };
        Cpu { level, workers, workspace: start, workspace_bytes: workspace.len() }
    }

    /// The SIMD level to run at.
    #[inline(always)]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Runs `kernel` compiled for this context's level.
    #[inline(always)]
    pub fn dispatch<K: Kernel>(&self, kernel: K) -> K::Output {
        // SAFETY: `new` checked that the CPU has the level.
        unsafe { self.level.dispatch(kernel) }
    }

    /// Runs `kernel` with [`Simd::dot_bf16`] as one instruction. Panics unless the level is [`Level::Avx512Bf16`].
    #[inline(always)]
    pub fn dispatch_bf16<K: Kernel>(&self, kernel: K) -> K::Output {
        assert_eq!(self.level, Level::Avx512Bf16);
        // SAFETY: `new` checked that the CPU has the level.
        unsafe { Level::dispatch_bf16(kernel) }
    }

    /// Largest number of workers that may run at the same time.
    pub fn workers(&self) -> usize {
        self.workers.count()
    }

    /// The first `bytes` of the workspace. Panics when the operation asked for less than it uses.
    pub fn workspace(&self, bytes: usize) -> *mut u8 {
        assert!(bytes <= self.workspace_bytes, "workspace of {} bytes, {bytes} used", self.workspace_bytes);
        self.workspace
    }

    /// Calls `body(task, worker)` once for each task; `worker < workers()` is held by one running body at a time.
    pub fn parallel_for(&self, tasks: usize, body: impl Fn(usize, usize) + Sync) {
        let workers = self.workers.count().min(tasks);
        if workers <= 1 {
            (0..tasks).for_each(|task| body(task, 0));
            return;
        }
        let next = AtomicUsize::new(0);
        self.workers.run(workers, &|worker| {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                body(task, worker);
            }
        });
    }

    /// [`Self::parallel_for`] over the ranges `0..chunk`, `chunk..2 * chunk`, … of `0..total`.
    pub fn parallel_chunks(&self, total: usize, chunk: usize, body: impl Fn(std::ops::Range<usize>, usize) + Sync) {
        self.parallel_for(total.div_ceil(chunk), |task, worker| {
            body(task * chunk..((task + 1) * chunk).min(total), worker);
        });
    }
}
