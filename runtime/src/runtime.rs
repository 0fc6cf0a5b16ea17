//! One device of one rank: byte budgets, hooks, threads and the ledger that every byte of it is entered in.

use crate::cuda::Context;
use crate::device::{self, DeviceKind, MAX_THREADS};
use crate::error::{Error, Result, Status};
use crate::log::{Log, LogLevel};
use crate::memory::{Allocator, Ledger, Memory, MemoryReport};
use crate::threads::{HostThreads, Threads};
use crate::trace::Watch;
use scalert_kernels::backend::cpu::Level;
use scalert_kernels::view::View;
use std::sync::Arc;

/// How a runtime is made. The default is the CPU with all its threads, no limits and no hooks.
#[derive(Clone, Default)]
pub struct RuntimeDesc {
    /// Kind of the device.
    pub device: DeviceKind,
    /// Which of its kind.
    pub ordinal: i32,
    /// Byte budgets, indexed by tier; 0 = no limit.
    pub budgets: [u64; 4],
    /// CPU threads; 0 = as many as the machine has; at most [`MAX_THREADS`].
    pub threads: u32,
    /// SIMD level; None = the best. `UNAVAILABLE` when the CPU lacks it.
    pub simd: Option<Level>,
    /// Where memory comes from; None = the system.
    pub allocator: Option<Arc<dyn Allocator>>,
    /// The host's threads; None = an own pool. With them, `threads` must be 0.
    pub thread_pool: Option<Arc<dyn HostThreads>>,
    /// Where messages go.
    pub log: Log,
}

/// One device of one rank. Clones are the same runtime; everything made of it keeps it alive.
///
/// A forked child may use it: its threads are started anew.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    memory: Arc<Memory>,
    device: Device,
    threads: Threads,
    level: Level,
    log: Log,
    watch: Watch,
}

/// What operations run on.
enum Device {
    Cpu,
    Cuda(Arc<Context>),
}

impl Runtime {
    /// Makes a runtime. Starts no thread yet. On a CUDA device it uses this thread's current context if that is of the
    /// device, else the primary one.
    pub fn new(desc: &RuntimeDesc) -> Result<Runtime> {
        let level = desc.simd.unwrap_or_else(Level::detect);
        if !level.is_available() {
            let best = Level::detect().name();
            return Err(Error::new(
                Status::Unavailable,
                format!("simd: this CPU lacks {}; the best it has is {best}", level.name()),
            ));
        }
        if desc.threads > MAX_THREADS {
            return Err(Error::invalid("threads", format!("{} must be at most {MAX_THREADS}", desc.threads)));
        }
        let threads = match &desc.thread_pool {
            Some(_) if desc.threads != 0 => {
                return Err(Error::invalid("threads", format!("{} must be 0 with a thread_pool", desc.threads)));
            }
            Some(host) if !(1..=MAX_THREADS).contains(&host.threads()) => {
                return Err(Error::invalid(
                    "thread_pool",
                    format!("threads {} must be 1 to {MAX_THREADS}", host.threads()),
                ));
            }
            Some(host) => Threads::host(Arc::clone(host), desc.log.clone()),
            None if desc.threads == 0 => Threads::own(device::default_threads(), desc.log.clone()),
            None => Threads::own(desc.threads, desc.log.clone()),
        };
        let device = match desc.device {
            DeviceKind::Cpu => device::describe(DeviceKind::Cpu, desc.ordinal).map(|_| Device::Cpu)?,
            DeviceKind::Cuda => Device::Cuda(Arc::new(Context::new(desc.ordinal)?)),
        };
        let context = match &device {
            Device::Cpu => None,
            Device::Cuda(context) => Some(Arc::clone(context)),
        };
        let ledger = Ledger::new(desc.budgets);
        let memory = Arc::new(Memory::new(ledger, desc.allocator.clone(), desc.ordinal, context));
        let inner = Inner { memory, device, threads, level, log: desc.log.clone(), watch: Watch::default() };
        inner.log.write(LogLevel::Info, || {
            let kind = match desc.device {
                DeviceKind::Cpu => "CPU",
                DeviceKind::Cuda => "CUDA device",
            };
            format!("runtime on {kind} {}: {}, {} threads", desc.ordinal, level.name(), inner.threads.threads())
        });
        Ok(Runtime { inner: Arc::new(inner) })
    }

    /// Kind of its device.
    pub fn device(&self) -> DeviceKind {
        match self.inner.device {
            Device::Cpu => DeviceKind::Cpu,
            Device::Cuda(_) => DeviceKind::Cuda,
        }
    }

    /// Number of its device.
    pub fn ordinal(&self) -> i32 {
        self.cuda().map_or(0, |context| context.ordinal())
    }

    /// The context of its device; None on the CPU.
    pub(crate) fn cuda(&self) -> Option<&Arc<Context>> {
        match &self.inner.device {
            Device::Cpu => None,
            Device::Cuda(context) => Some(context),
        }
    }

    /// Requires the memory of an argument to be reached by the device: on a CUDA device it is memory of the device,
    /// managed memory or pinned host memory. Cheap: one question to the driver.
    pub fn expect_reachable(&self, argument: &str, view: &View<'_>) -> Result<()> {
        self.cuda().map_or(Ok(()), |context| context.expect_reachable(argument, view))
    }

    /// What the ledger holds now, and the most it ever held.
    pub fn memory_report(&self) -> MemoryReport {
        self.inner.memory.ledger().report()
    }

    /// The SIMD level of its kernels.
    pub fn level(&self) -> Level {
        self.inner.level
    }

    /// Most threads that a kernel of it uses.
    pub fn threads(&self) -> u32 {
        self.inner.threads.threads()
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.inner.memory
    }

    pub(crate) fn workers(&self) -> &Threads {
        &self.inner.threads
    }

    /// Who watches its operations.
    pub(crate) fn watch(&self) -> &Watch {
        &self.inner.watch
    }

    pub(crate) fn log(&self) -> &Log {
        &self.inner.log
    }

    /// Whether both are the same runtime.
    pub fn is(&self, other: &Runtime) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}
