//! A kernel as it is executed: one flat array of instructions with registers, targets and constants resolved.
//!
//! Calls are inlined, so a program has no stack. Every immediate and every special register has a row of its own, filled
//! before the program starts, so an operand is always a row.

use crate::execute::{Block, Warp};
use crate::fault::Done;
use crate::registers::Registers;

/// An operation on registers only.
pub(crate) type Alu = fn(&mut Registers, &Instruction, u32);

/// An operation that touches memory or the state of the warp, and may fault.
pub(crate) type Effect = fn(&mut Block<'_>, &mut Warp, &Instruction, u32) -> Done;

/// No operand.
pub(crate) const NONE: u32 = u32::MAX;

/// Which lanes have to execute a warp-wide instruction together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Members {
    /// Every lane that has not exited (`.aligned`).
    Live,
    /// The lanes of a mask in this row.
    Row(u32),
}

/// What a barrier instruction does besides arriving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    None,
    Count,
    And,
    Or,
}

/// A barrier instruction. Its number stands in row `a`, its thread count in row `b` or nowhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Barrier {
    pub(crate) aligned: bool,
    pub(crate) waits: bool,
    pub(crate) reduction: Reduction,
}

/// What an instruction does.
#[derive(Clone, Copy)]
pub(crate) enum Action {
    Alu(Alu),
    Memory(Effect),
    Collective(Effect, Members),
    Branch(u32),
    /// By the index in row `a`, into `list`.
    BranchIndexed,
    Barrier(Barrier),
    Exit,
    Trap(&'static str),
    Nothing,
}

/// A decoded instruction. What `a` to `d`, `immediate` and `list` mean is between its decoder and its handler.
pub(crate) struct Instruction {
    pub(crate) action: Action,
    /// A predicate index times two, plus one if negated; or [`NONE`].
    pub(crate) guard: u32,
    pub(crate) d: u32,
    pub(crate) a: u32,
    pub(crate) b: u32,
    pub(crate) c: u32,
    pub(crate) immediate: i64,
    pub(crate) list: Box<[u32]>,
    pub(crate) line: u32,
}

impl Instruction {
    /// An instruction without operands.
    pub(crate) fn new(action: Action) -> Instruction {
        Instruction {
            action,
            guard: NONE,
            d: NONE,
            a: NONE,
            b: NONE,
            c: NONE,
            immediate: 0,
            list: Box::default(),
            line: 0,
        }
    }
}

/// What is in a row before the program starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fixed {
    Value(u64),
    /// The address of a byte of the storage of module variables.
    Module(u64),
    /// The shared address at which dynamic shared memory starts, plus an offset.
    DynamicShared(u64),
    Thread(u8),
    Threads(u8),
    BlockIndex(u8),
    Blocks(u8),
    Lane,
    Warp,
    Warps,
    Processor,
    Processors,
    LaneMask(LaneMask),
    DynamicSharedBytes,
    TotalSharedBytes,
    Zero,
}

/// The lanes that a `%lanemask_…` register names, against the own lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LaneMask {
    Equal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// A row that is filled before the program starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FixedRow {
    pub(crate) slot: u32,
    pub(crate) wide: bool,
    pub(crate) value: Fixed,
}

/// A whole kernel.
#[derive(Default)]
pub(crate) struct Program {
    pub(crate) code: Vec<Instruction>,
    /// The text of each instruction.
    pub(crate) texts: Vec<String>,
    pub(crate) rows: usize,
    pub(crate) predicates: usize,
    pub(crate) fixed: Vec<FixedRow>,
    /// Bytes of local memory of a thread that addresses may reach.
    pub(crate) local_bytes: usize,
    /// Bytes behind them, for the arguments of inlined calls.
    pub(crate) frame_bytes: usize,
}
