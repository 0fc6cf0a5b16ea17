//! Where and when libscaleRT computes: ownership, memory, order, and the training state.
//!
//! Arithmetic on elements is the kernels' business; the C boundary is the `ffi` crate's. Every policy lives here.
//!
//! | module | is |
//! |---|---|
//! | [`error`] | statuses and errors |
//! | [`device`], [`cuda`] | what the machine has; contexts of CUDA devices |
//! | [`log`] | messages to the host's sink |
//! | [`threads`] | the kernels' workers over an own pool or the host's |
//! | [`trace`] | spans of operations and of the host: a trace file, and NVTX ranges for a profiler |
//! | [`memory`] | tiers, budgets and the ledger; owned blocks; arenas |
//! | [`runtime`] | one device of one rank |
//! | [`stream`], [`event`] | order of work |
//! | [`comm`] | groups of ranks, and the collective operations between them |
//! | [`precision`] | the loss scaler |
//! | [`optim`] | hyper-parameters, bias corrections and learning-rate schedules |
//! | [`shard`] | how training state is divided over ranks: pure arithmetic |
//! | [`state`] | parameters, groups, the micro-step machine and the step |
//!
//! Objects are shared by `&self` and are `Send + Sync`. Those that one thread at a time may use ([`stream::Stream`],
//! [`state::State`], [`precision::Scaler`], [`memory::Arena`]) notice a second one and refuse it with
//! `FAILED_PRECONDITION`; after a panic inside a call they refuse everything with `INTERNAL`.

pub mod comm;
pub mod cuda;
pub mod device;
pub mod error;
pub mod event;
mod exclusive;
pub mod log;
pub mod memory;
pub mod optim;
pub mod precision;
mod readback;
pub mod runtime;
pub mod shard;
pub mod state;
pub mod stream;
pub mod threads;
pub mod trace;

pub use comm::{Comm, CommDesc};
pub use error::{Error, NativeDomain, Result, Status};
pub use event::Event;
pub use memory::{Allocator, Arena, MemoryReport, Tier, TierReport};
pub use precision::{Scaler, ScalerDesc, ScalerReport};
pub use runtime::{Runtime, RuntimeDesc};
pub use shard::Stage;
pub use state::{
    GradientReduction, GroupDesc, MasterFormat, MomentFormat, ParameterInfo, Part, State, StateDesc, StepDesc,
    StepResult,
};
pub use stream::Stream;
pub use trace::{Trace, TraceDesc, TraceInfo};

pub use scalert_kernels::backend::cpu::Level as SimdLevel;
pub use scalert_kernels::dtype::{self, DType};
pub use scalert_kernels::exact_sum;
pub use scalert_kernels::ops;
pub use scalert_kernels::philox;
pub use scalert_kernels::view::{self, Invalid, MAX_DIMS, View};
