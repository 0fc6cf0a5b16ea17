//! A warp: its lanes, in groups that each have a program counter.
//!
//! The runnable group with the lowest program counter runs; groups that meet are merged.

use crate::execute::copies::Copies;
use crate::execute::order::Order;
use crate::program::{Instruction, NONE};
use crate::registers::Registers;

/// Why a group does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    No,
    /// At a warp-wide instruction or an aligned barrier, until other lanes of the warp arrive.
    Warp,
    /// At a barrier of the block.
    Barrier(u8),
}

/// Lanes at one program counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    pub(crate) blocked: Blocked,
    /// When these lanes came together.
    pub(crate) since: u32,
    /// When lanes last left them.
    pub(crate) split: u32,
}

/// A warp of a block.
pub(crate) struct Warp {
    pub(crate) index: u32,
    pub(crate) registers: Registers,
    /// The group that runs; its mask is empty if none does.
    pub(crate) now: Group,
    pub(crate) others: Vec<Group>,
    /// From this program counter on, the other groups have to be looked at.
    pub(crate) attention: u32,
    /// Lanes that have not exited.
    pub(crate) live: u32,
    /// Lanes that the block has.
    pub(crate) initial: u32,
    pub(crate) local: Vec<u8>,
    pub(crate) local_stride: usize,
    pub(crate) copies: Copies,
    pub(crate) order: Order,
    /// Instructions executed.
    pub(crate) executed: u64,
    pub(crate) lanes_executed: u64,
}

/// No group.
const NOBODY: Group = Group { pc: u32::MAX, mask: 0, blocked: Blocked::No, since: 0, split: u32::MAX };

impl Warp {
    /// A warp whose registers are set up; [`Warp::start`] makes it run.
    pub(crate) fn new(index: u32, registers: Registers, local_stride: usize) -> Warp {
        Warp {
            index,
            registers,
            now: NOBODY,
            others: Vec::new(),
            attention: u32::MAX,
            live: 0,
            initial: 0,
            local: vec![0; local_stride * 32],
            local_stride,
            copies: Copies::default(),
            order: Order::default(),
            executed: 0,
            lanes_executed: 0,
        }
    }

    /// Starts all lanes of a mask at the first instruction.
    pub(crate) fn start(&mut self, mask: u32, tick: u32, warps: usize) {
        self.others.clear();
        self.attention = u32::MAX;
        (self.live, self.initial) = (mask, mask);
        self.copies.clear();
        self.order.start(tick, warps);
        self.executed = 0;
        self.now = Group { pc: 0, mask, blocked: Blocked::No, since: tick, split: u32::MAX };
    }

    /// The lanes that a guard lets through.
    #[inline(always)]
    pub(crate) fn guarded(&self, instruction: &Instruction) -> u32 {
        match instruction.guard {
            NONE => self.now.mask,
            guard => {
                let predicate = self.registers.predicates[(guard >> 1) as usize];
                self.now.mask & if guard & 1 == 1 { !predicate } else { predicate }
            }
        }
    }

    /// Looks at the other groups: merges those that stand where the current one does, and lets the lowest run.
    #[cold]
    pub(crate) fn choose(&mut self) {
        if self.now.mask != 0 {
            let now = self.now;
            self.others.push(now);
        }
        self.now = NOBODY;
        let lowest = self.others.iter().filter(|group| group.blocked == Blocked::No).map(|group| group.pc).min();
        let Some(lowest) = lowest else {
            self.attention = u32::MAX;
            return;
        };
        let mut merged = 0;
        let mut now = NOBODY;
        self.others.retain(|group| {
            let joins = group.pc == lowest && !matches!(group.blocked, Blocked::Barrier(_));
            if joins {
                merged += 1;
                now = Group { mask: now.mask | group.mask, blocked: Blocked::No, ..*group };
            }
            !joins
        });
        if merged > 1 {
            now.since = self.order.advance();
            now.split = u32::MAX;
        }
        self.now = now;
        self.look_ahead();
    }

    /// Computes when the other groups have to be looked at next.
    pub(crate) fn look_ahead(&mut self) {
        let waiting = |group: &Group| !matches!(group.blocked, Blocked::Barrier(_));
        let next = self.others.iter().filter(|group| waiting(group)).map(|group| group.pc).min();
        self.attention = next.unwrap_or(u32::MAX);
        if self.others.iter().any(|group| group.blocked == Blocked::Warp) {
            self.attention = 0;
        }
    }

    /// Sends the lanes of a mask elsewhere; the rest stays.
    pub(crate) fn split(&mut self, taken: u32, target: u32) {
        let at = self.order.advance();
        self.now.split = at;
        let other = Group { pc: target, mask: taken, ..self.now };
        self.now.mask &= !taken;
        self.others.push(other);
        self.look_ahead();
    }

    /// Stops the current group, and lets another run.
    pub(crate) fn block(&mut self, why: Blocked) {
        self.now.blocked = why;
        let now = self.now;
        self.others.push(now);
        self.now = NOBODY;
        self.choose();
    }

    /// Ends the lanes of a mask.
    pub(crate) fn exit(&mut self, mask: u32) {
        self.live &= !mask;
        self.now.mask &= !mask;
        if self.now.mask == 0 {
            self.choose();
        }
    }

    /// Whether a group can run.
    pub(crate) fn runnable(&self) -> bool {
        self.now.mask != 0
    }
}

impl Warp {
    /// After a turn, lets the group with the highest program counter run, if there are several, so that lanes which spin
    /// on what other lanes of the warp do make progress.
    pub(crate) fn rotate(&mut self) {
        let candidates = self.others.iter().enumerate().filter(|(_, group)| group.blocked == Blocked::No);
        let highest = candidates.max_by_key(|(_, group)| group.pc).map(|(at, group)| (at, group.pc));
        if let Some((at, pc)) = highest.filter(|_| self.now.mask != 0) {
            if pc > self.now.pc {
                std::mem::swap(&mut self.now, &mut self.others[at]);
                self.attention = u32::MAX;
            } else {
                self.choose();
            }
        }
    }
}
