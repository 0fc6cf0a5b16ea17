//! What the machine has.

use crate::cuda;
use crate::error::{Error, Result};
use scalert_kernels::backend::cpu::Level;

/// Kinds of devices. The numbers are those of the C header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum DeviceKind {
    /// The CPU: one device, of all its cores.
    #[default]
    Cpu = 0,
    /// A CUDA GPU.
    Cuda = 1,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its kind.
    pub kind: DeviceKind,
    /// Its number among its kind.
    pub ordinal: i32,
    /// Physical memory.
    pub memory_bytes: u64,
    /// CPU threads that a runtime uses by default.
    pub threads: u32,
    /// CPU: the best instruction set found, "CPU (avx512bf16)".
    pub name: String,
    /// CUDA: 10 major + minor; else 0.
    pub compute_capability: u32,
    /// CUDA; else 0.
    pub multiprocessors: u32,
}

/// Most threads of a runtime.
pub const MAX_THREADS: u32 = 1024;

/// Number of devices of a kind; `UNAVAILABLE` with the reason for kinds that this build or machine lacks.
pub fn count(kind: DeviceKind) -> Result<u32> {
    match kind {
        DeviceKind::Cpu => Ok(1),
        DeviceKind::Cuda => cuda::count(),
    }
}

/// Describes one device.
pub fn describe(kind: DeviceKind, ordinal: i32) -> Result<DeviceInfo> {
    if kind == DeviceKind::Cuda {
        return cuda::describe(ordinal);
    }
    if ordinal != 0 {
        return Err(Error::invalid("ordinal", format!("{ordinal} must be 0: there is one CPU")));
    }
    Ok(DeviceInfo {
        kind,
        ordinal,
        memory_bytes: physical_memory(),
        threads: default_threads(),
        name: format!("CPU ({})", Level::detect().name()),
        compute_capability: 0,
        multiprocessors: 0,
    })
}

/// Threads that this process may run at the same time.
pub(crate) fn default_threads() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS as usize) as u32)
}

fn physical_memory() -> u64 {
    // SAFETY: sysconf only reads.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    pages.max(0) as u64 * size.max(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    #[test]
    fn there_is_one_cpu() {
        assert_eq!(count(DeviceKind::Cpu), Ok(1));
        let cpu = describe(DeviceKind::Cpu, 0).unwrap();
        assert!(cpu.threads >= 1 && cpu.memory_bytes > 1 << 20, "{cpu:?}");
        assert_eq!(cpu.name, format!("CPU ({})", Level::detect().name()));
        assert!(cpu.name.len() < 96, "the C struct has 96 bytes");
        for ordinal in [-1, 1, i32::MAX] {
            assert_eq!(describe(DeviceKind::Cpu, ordinal).unwrap_err().status, Status::InvalidArgument);
        }
    }
}
