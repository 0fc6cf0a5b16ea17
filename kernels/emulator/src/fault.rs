//! What a kernel did wrong, and where.

/// The kinds of wrong that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An access outside of every allocation, of shared, of local or of parameter memory.
    OutOfBounds,
    /// An access to an allocation that has been freed.
    UseAfterFree,
    /// An address that is not a multiple of the size of the access.
    Misaligned,
    /// Two threads on one byte of shared memory, one of them writing, with nothing that orders them.
    Race,
    /// A read of bytes that nothing has written.
    Uninitialised,
    /// An access to bytes that a `cp.async` fills, before the wait for it.
    PendingCopy,
    /// A barrier that some threads of the block never reach.
    BarrierDivergence,
    /// A warp-wide instruction that lanes named in its mask never reach, or executed by a lane it does not name.
    WarpDivergence,
    /// A warp ran more instructions than the launch allows.
    InstructionLimit,
    /// `trap`, `brkpt` or a failed device assertion.
    Trap,
    /// The launch itself cannot be: too many threads, too few parameter bytes, too much shared memory.
    InvalidLaunch,
}

impl FaultKind {
    /// The kind in words.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::OutOfBounds => "out of bounds",
            FaultKind::UseAfterFree => "use after free",
            FaultKind::Misaligned => "misaligned access",
            FaultKind::Race => "race in shared memory",
            FaultKind::Uninitialised => "read of uninitialised memory",
            FaultKind::PendingCopy => "access before the wait for cp.async",
            FaultKind::BarrierDivergence => "divergent barrier",
            FaultKind::WarpDivergence => "divergent warp-wide instruction",
            FaultKind::InstructionLimit => "instruction limit",
            FaultKind::Trap => "trap",
            FaultKind::InvalidLaunch => "invalid launch",
        }
    }
}

/// The first wrong thing that a launch did. The launch stops there; what it wrote before stays written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of wrong.
    pub kind: FaultKind,
    /// The kernel that was launched.
    pub kernel: String,
    /// The line of the PTX text, counted from 1; 0 where no instruction is at fault.
    pub line: u32,
    /// The instruction as written.
    pub instruction: String,
    /// The address that was accessed: in global memory, or within shared or local memory.
    pub address: Option<u64>,
    /// The block.
    pub block: [u32; 3],
    /// The thread within the block; the first one where several are at fault.
    pub thread: [u32; 3],
    /// The rest, as a sentence.
    pub message: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(f, "kernel {}: {}: {}", self.kernel, self.kind.name(), self.message)?;
        if let Some(address) = self.address {
            write!(f, "; address {address:#x}")?;
        }
        if self.line > 0 {
            write!(f, "; at PTX line {}, `{}`", self.line, self.instruction)?;
            write!(f, "; block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// What executing something comes to.
pub(crate) type Done<T = ()> = Result<T, Box<Fault>>;
