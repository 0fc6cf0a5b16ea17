//! Runtimes.

use crate::argument::{Doomed, In, Live, OutHandle, OutStruct, enumeration};
use crate::handle::Kind;
use crate::hooks::{self, AllocatorHook, LogSinkHook, ThreadPoolHook};
use crate::layout::CStruct;
use scalert_runtime::{Error, MemoryReport, Runtime, RuntimeDesc, SimdLevel, Tier, TierReport};

/// `scalert_simd_t`: a level, or the best one.
pub struct Simd(Option<SimdLevel>);

c_enum! {
    Simd as "scalert_simd_t" {
        SCALERT_SIMD_BEST = 0 => Simd(None),
        SCALERT_SIMD_PORTABLE = 1 => Simd(Some(SimdLevel::Portable)),
        SCALERT_SIMD_AVX2 = 2 => Simd(Some(SimdLevel::Avx2)),
        SCALERT_SIMD_AVX512 = 3 => Simd(Some(SimdLevel::Avx512)),
        SCALERT_SIMD_AVX512_BF16 = 4 => Simd(Some(SimdLevel::Avx512Bf16)),
    }
}

c_struct! {
    Desc as "scalert_runtime_desc_t" {
        struct_size: usize,
        device: i32,
        ordinal: i32,
        device_bytes: u64,
        pinned_bytes: u64,
        host_bytes: u64,
        disk_bytes: u64,
        threads: u32,
        simd: i32,
        allocator: *const AllocatorHook,
        thread_pool: *const ThreadPoolHook,
        log: *const LogSinkHook,
    }
}

c_struct! {
    TierBytes as "scalert_tier_report_t" {
        limit: u64,
        used: u64,
        peak: u64,
        weights: u64,
        master: u64,
        moments: u64,
        gradients: u64,
        workspace: u64,
        arena: u64,
        other: u64,
    }
}

c_struct! {
    Memory as "scalert_memory_report_t" {
        struct_size: usize,
        tier: [TierBytes; Tier::ALL.len()],
    }
}

impl From<TierReport> for TierBytes {
    fn from(report: TierReport) -> TierBytes {
        let TierReport { limit, used, peak, weights, master, moments, gradients, workspace, arena, other } = report;
        TierBytes { limit, used, peak, weights, master, moments, gradients, workspace, arena, other }
    }
}

impl From<MemoryReport> for Memory {
    fn from(report: MemoryReport) -> Memory {
        Memory { tier: report.tier.map(TierBytes::from), ..Memory::zeroed() }
    }
}

impl Kind for Runtime {
    const MAGIC: u64 = u64::from_le_bytes(*b"rtRUNTIM");
    const NAME: &'static str = "runtime";
}

fn described(desc: &Desc) -> Result<RuntimeDesc, Error> {
    // SAFETY: the header asks the caller of `scalert_runtime_create` for exactly what these need.
    let (allocator, thread_pool, log) =
        unsafe { (hooks::allocator(desc.allocator)?, hooks::thread_pool(desc.thread_pool)?, hooks::log(desc.log)?) };
    Ok(RuntimeDesc {
        device: enumeration("device", desc.device)?,
        ordinal: desc.ordinal,
        budgets: [desc.device_bytes, desc.pinned_bytes, desc.host_bytes, desc.disk_bytes],
        threads: desc.threads,
        simd: enumeration::<Simd>("simd", desc.simd)?.0,
        allocator,
        thread_pool,
        log,
    })
}

export! {
    /// Creates a runtime.
    fn scalert_runtime_create(desc: In<Desc>, out: OutHandle<Runtime>) {
        out.give(Runtime::new(&described(&desc)?)?);
        Ok(())
    }

    /// Drops a runtime.
    fn scalert_runtime_destroy(runtime: Doomed<Runtime>) -> (), else (); {
        drop(runtime);
        Ok(())
    }

    /// What the ledger holds.
    fn scalert_runtime_memory(runtime: Live<Runtime>, out: OutStruct<Memory>) {
        out.write(runtime.memory_report().into());
        Ok(())
    }
}
