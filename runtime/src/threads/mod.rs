//! The kernels' workers: an own pool, the host's threads, or the calling thread alone.

mod call;
mod host;
mod own;

pub use host::HostThreads;

use crate::log::Log;
use host::Host;
use own::Own;
use scalert_kernels::backend::cpu::Workers;
use std::sync::Arc;

/// The threads of a runtime.
pub(crate) struct Threads(Kind);

enum Kind {
    Caller,
    Own(Own),
    Host(Host),
}

impl Threads {
    /// An own pool of `threads` threads, the caller being one of them. One thread needs no pool.
    pub(crate) fn own(threads: u32, log: Log) -> Threads {
        Threads(if threads <= 1 { Kind::Caller } else { Kind::Own(Own::new(threads, log)) })
    }

    /// The host's threads.
    pub(crate) fn host(host: Arc<dyn HostThreads>, log: Log) -> Threads {
        Threads(Kind::Host(Host::new(host, log)))
    }

    /// Most bodies that run at the same time.
    pub(crate) fn threads(&self) -> u32 {
        match &self.0 {
            Kind::Caller => 1,
            Kind::Own(own) => own.threads(),
            Kind::Host(host) => host.threads(),
        }
    }
}

impl Workers for Threads {
    fn count(&self) -> usize {
        self.threads() as usize
    }

    fn run(&self, n: usize, body: &(dyn Fn(usize) + Sync)) {
        match &self.0 {
            Kind::Own(own) if n > 1 => own.run(n, body),
            Kind::Host(host) if n > 1 => host.run(n, body),
            _ => (0..n).for_each(body),
        }
    }
}
