//! Tiers of memory, their budgets and the ledger; owned blocks; arenas lent to the host.

mod arena;
mod block;
mod ledger;

pub use arena::Arena;
pub use block::Allocator;
pub use ledger::{MemoryReport, TierReport};

pub(crate) use block::{Block, Memory};
pub(crate) use ledger::{Charge, Ledger};

/// Where memory lies. The numbers are those of the C header. On the CPU device, DEVICE is host memory as well, with a
/// budget of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Tier {
    /// What kernels read.
    Device = 0,
    /// Host memory that a GPU reads directly.
    Pinned = 1,
    /// Host memory.
    Host = 2,
    /// Files.
    Disk = 3,
}

impl Tier {
    /// All tiers, in the order of their numbers.
    pub const ALL: [Tier; 4] = [Tier::Device, Tier::Pinned, Tier::Host, Tier::Disk];

    /// Name as in the C header without its prefix.
    pub fn name(self) -> &'static str {
        ["DEVICE", "PINNED", "HOST", "DISK"][self as usize]
    }
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// Weights as the model reads them.
    Weights,
    /// f32 master weights.
    Master,
    /// Optimizer moments.
    Moments,
    /// Gradient accumulators.
    Gradients,
    /// Scratch of streams.
    Workspace,
    /// Arenas lent to the host.
    Arena,
    /// Accumulators, scalers, flags.
    Other,
}

impl Purpose {
    /// All purposes, in the order of the report's fields.
    pub(crate) const ALL: [Purpose; 7] = [
        Purpose::Weights,
        Purpose::Master,
        Purpose::Moments,
        Purpose::Gradients,
        Purpose::Workspace,
        Purpose::Arena,
        Purpose::Other,
    ];

    fn name(self) -> &'static str {
        ["weights", "master", "moments", "gradients", "workspace", "arena", "other"][self as usize]
    }
}
