//! A block: its warps take turns; barriers hold them together.

use super::order::WARPS;
use super::shared::Shared;
use super::warp::{Blocked, Warp};
use crate::fault::{Done, Fault, FaultKind};
use crate::memory::{Allocation, Memory};
use crate::module::Entry;
use crate::program::{Action, Barrier, Instruction, Members, NONE, Reduction};
use crate::registers::{LANES, lanes};
use std::sync::Arc;

/// Instructions that a warp runs before the next one has its turn.
const QUANTUM: u64 = 20_000;

/// Remembered allocations, by program counter.
pub(crate) const REMEMBERED: usize = 64;

/// The number of barriers of a block.
const BARRIERS: usize = 16;

/// A barrier that threads have arrived at.
#[derive(Clone, Default)]
struct Gathering {
    arrived: u32,
    expected: u32,
    holds: u32,
    known: [u32; WARPS],
}

/// What all warps of the running block share.
pub(crate) struct Block<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) memory: &'a Memory,
    pub(crate) params: &'a [u8],
    pub(crate) shape: [u32; 3],
    pub(crate) index: [u32; 3],
    pub(crate) shared: Shared,
    pub(crate) remembered: [Option<Arc<Allocation>>; REMEMBERED],
    pub(crate) limit: u64,
    gatherings: Vec<Gathering>,
}

impl<'a> Block<'a> {
    pub(crate) fn new(
        entry: &'a Entry,
        memory: &'a Memory,
        params: &'a [u8],
        shape: [u32; 3],
        shared: Shared,
        limit: u64,
    ) -> Block<'a> {
        let remembered = [const { None }; REMEMBERED];
        let gatherings = vec![Gathering::default(); BARRIERS];
        Block { entry, memory, params, shape, index: [0; 3], shared, remembered, limit, gatherings }
    }

    /// Threads of the block.
    pub(crate) fn threads(&self) -> u32 {
        self.shape.iter().product()
    }

    /// The position of a thread, by its number in the block.
    pub(crate) fn position(&self, thread: u32) -> [u32; 3] {
        let [x, y, _] = self.shape;
        [thread % x, thread / x % y, thread / (x * y)]
    }

    /// A fault of a lane at the instruction that its warp executes.
    #[cold]
    pub(crate) fn fault(
        &self,
        warp: &Warp,
        lane: usize,
        kind: FaultKind,
        address: Option<u64>,
        message: String,
    ) -> Box<Fault> {
        self.fault_at(warp.index, warp.now.pc, lane, kind, address, message)
    }

    fn fault_at(
        &self,
        warp: u32,
        pc: u32,
        lane: usize,
        kind: FaultKind,
        address: Option<u64>,
        message: String,
    ) -> Box<Fault> {
        let program = &self.entry.program;
        let instruction = program.code.get(pc as usize);
        Box::new(Fault {
            kind,
            kernel: self.entry.name.clone(),
            line: instruction.map_or(0, |instruction| instruction.line),
            instruction: program.texts.get(pc as usize).cloned().unwrap_or_default(),
            address,
            block: self.index,
            thread: self.position(warp * LANES as u32 + lane as u32),
            message,
        })
    }

    /// Runs all warps of the block to their ends.
    pub(crate) fn run(&mut self, warps: &mut [Warp]) -> Done {
        self.gatherings.fill(Gathering::default());
        loop {
            let mut progress = false;
            for at in 0..warps.len() {
                if !warps[at].runnable() {
                    continue;
                }
                progress = true;
                let arrived = self.turn(&mut warps[at])?;
                if let Some((number, barrier)) = arrived {
                    self.arrive(warps, at, number, barrier)?;
                }
            }
            if progress {
                continue;
            }
            if warps.iter().all(|warp| warp.live == 0) {
                return Ok(());
            }
            return Err(self.stuck(warps));
        }
    }

    /// Runs a warp until it stops, its turn is over, or it arrives at a barrier.
    fn turn(&mut self, warp: &mut Warp) -> Done<Option<(u32, Barrier)>> {
        let entry = self.entry;
        let code = &entry.program.code[..];
        let end = warp.executed + QUANTUM;
        while warp.runnable() {
            if warp.now.pc >= warp.attention {
                warp.choose();
            }
            let instruction = &code[warp.now.pc as usize];
            let mask = warp.guarded(instruction);
            warp.executed += 1;
            warp.lanes_executed += u64::from(mask.count_ones());
            match instruction.action {
                Action::Alu(run) => {
                    if mask != 0 {
                        run(&mut warp.registers, instruction, mask);
                    }
                    warp.now.pc += 1;
                }
                Action::Memory(run) => {
                    if mask != 0 {
                        run(self, warp, instruction, mask)?;
                    }
                    warp.now.pc += 1;
                }
                Action::Branch(target) => {
                    if mask == warp.now.mask {
                        warp.now.pc = target;
                    } else if mask != 0 {
                        warp.split(mask, target);
                        warp.now.pc += 1;
                    } else {
                        warp.now.pc += 1;
                    }
                    if warp.executed >= end && self.turn_ends(warp)? {
                        return Ok(None);
                    }
                }
                Action::BranchIndexed => {
                    self.branch_indexed(warp, instruction, mask)?;
                    if warp.executed >= end && self.turn_ends(warp)? {
                        return Ok(None);
                    }
                }
                Action::Collective(run, members) => {
                    if mask != 0 && !self.together(warp, instruction, members, mask)? {
                        warp.block(Blocked::Warp);
                        continue;
                    }
                    if mask != 0 {
                        run(self, warp, instruction, mask)?;
                    }
                    warp.now.pc += 1;
                }
                Action::Barrier(barrier) => {
                    if mask == 0 {
                        warp.now.pc += 1;
                        continue;
                    }
                    if barrier.aligned && mask != warp.live {
                        warp.block(Blocked::Warp);
                        continue;
                    }
                    let lane = mask.trailing_zeros() as usize;
                    let number = warp.registers.row(instruction.a)[lane];
                    if mask != warp.now.mask {
                        let rest = warp.now.mask & !mask;
                        let next = warp.now.pc + 1;
                        warp.split(rest, next);
                    }
                    return Ok(Some((number, barrier)));
                }
                Action::Exit => {
                    let stays = warp.now.mask & !mask;
                    if stays != 0 {
                        warp.now.pc += 1;
                    }
                    warp.exit(mask);
                }
                Action::Trap(what) => {
                    if mask != 0 {
                        let lane = mask.trailing_zeros() as usize;
                        return Err(self.fault(warp, lane, FaultKind::Trap, None, what.to_string()));
                    }
                    warp.now.pc += 1;
                }
                Action::Nothing => warp.now.pc += 1,
            }
        }
        Ok(None)
    }

    #[cold]
    fn turn_ends(&self, warp: &mut Warp) -> Done<bool> {
        if warp.executed > self.limit {
            let lane = warp.now.mask.trailing_zeros() as usize % LANES;
            let message = format!("the warp ran {} instructions and the limit is {}", warp.executed, self.limit);
            return Err(self.fault(warp, lane, FaultKind::InstructionLimit, None, message));
        }
        warp.rotate();
        Ok(true)
    }

    fn branch_indexed(&self, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
        let indices = *warp.registers.row(instruction.a);
        let targets = instruction.list.clone();
        let mut left = mask;
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            let Some(&target) = targets.get(indices[lane] as usize) else {
                let message = format!("the index {} is past the {} targets", indices[lane], targets.len());
                return Err(self.fault(warp, lane, FaultKind::OutOfBounds, None, message));
            };
            let same = lanes(left).filter(|&other| indices[other] == indices[lane]).fold(0, |set, l| set | 1 << l);
            left &= !same;
            if same == warp.now.mask {
                warp.now.pc = target;
                return Ok(());
            }
            warp.split(same, target);
        }
        warp.now.pc += 1;
        Ok(())
    }

    /// Whether all lanes that a warp-wide instruction waits for are here.
    #[inline(always)]
    fn together(&self, warp: &Warp, instruction: &Instruction, members: Members, mask: u32) -> Done<bool> {
        match members {
            Members::Live => Ok(mask == warp.live),
            Members::Row(row) => {
                let named = warp.registers.row(row);
                let mut all = true;
                for lane in lanes(mask) {
                    if named[lane] >> lane & 1 == 0 {
                        let message = format!("the lane is not in its own mask {:#010x}", named[lane]);
                        return Err(self.fault(warp, lane, FaultKind::WarpDivergence, None, message));
                    }
                    all &= named[lane] & warp.live & !mask == 0;
                }
                let _ = instruction;
                Ok(all)
            }
        }
    }

    /// The current group of a warp arrives at a barrier.
    fn arrive(&mut self, warps: &mut [Warp], at: usize, number: u32, barrier: Barrier) -> Done {
        let entry = self.entry;
        let warp = &mut warps[at];
        let instruction = &entry.program.code[warp.now.pc as usize];
        let lane = warp.now.mask.trailing_zeros() as usize;
        if number as usize >= BARRIERS {
            let message = format!("there is no barrier {number}; a block has {BARRIERS}");
            return Err(self.fault(warp, lane, FaultKind::BarrierDivergence, None, message));
        }
        let counted = instruction.b != NONE;
        let expected = if counted { warp.registers.row(instruction.b)[lane] } else { self.threads() };
        let gathering = &mut self.gatherings[number as usize];
        if gathering.arrived > 0 && gathering.expected != expected {
            let message = format!(
                "barrier {number} is for {expected} threads here, and others wait at it with {}",
                gathering.expected
            );
            return Err(self.fault(warp, lane, FaultKind::BarrierDivergence, None, message));
        }
        gathering.expected = expected;
        // A barrier with a count counts warps: a last warp that is not full counts as one that is.
        let whole = warp.now.mask == warp.initial;
        gathering.arrived += if counted && whole { LANES as u32 } else { warp.now.mask.count_ones() };
        if barrier.reduction != Reduction::None {
            let guard = instruction.c;
            let predicate = warp.registers.predicates[(guard >> 1) as usize];
            let holds = if guard & 1 == 1 { !predicate } else { predicate } & warp.now.mask;
            gathering.holds += holds.count_ones();
        }
        let tick = warp.order.advance();
        gathering.known[warp.index as usize] = tick;
        for other in 0..WARPS {
            if other != warp.index as usize {
                gathering.known[other] = gathering.known[other].max(warp.order.known[other]);
            }
        }
        let arrived = gathering.arrived;
        if arrived > expected {
            let message = format!("{arrived} threads arrive at barrier {number}, which is for {expected}");
            return Err(self.fault(warp, lane, FaultKind::BarrierDivergence, None, message));
        }
        if barrier.waits {
            warp.block(Blocked::Barrier(number as u8));
        } else {
            warp.now.pc += 1;
        }
        if arrived == expected {
            self.release(warps, number);
        }
        Ok(())
    }

    fn release(&mut self, warps: &mut [Warp], number: u32) {
        let entry = self.entry;
        let done = std::mem::take(&mut self.gatherings[number as usize]);
        for warp in warps.iter_mut() {
            let mut released = 0;
            for group in warp.others.iter_mut().filter(|group| group.blocked == Blocked::Barrier(number as u8)) {
                let instruction = &entry.program.code[group.pc as usize];
                if let Action::Barrier(barrier) = instruction.action {
                    match barrier.reduction {
                        Reduction::None => {}
                        Reduction::Count => warp.registers.write(instruction.d, group.mask, &[done.holds; LANES]),
                        Reduction::And | Reduction::Or => {
                            let all = barrier.reduction == Reduction::And;
                            let holds = if all { done.holds == done.expected } else { done.holds > 0 };
                            let target = &mut warp.registers.predicates[instruction.d as usize];
                            *target = if holds { *target | group.mask } else { *target & !group.mask };
                        }
                    }
                }
                group.blocked = Blocked::No;
                group.pc += 1;
                released |= group.mask;
            }
            if released == 0 {
                continue;
            }
            warp.order.synchronise(released, warp.live);
            warp.order.learn(warp.index, &done.known);
            warp.choose();
        }
    }

    /// Nothing can run, and some threads have not exited: says which wait where.
    fn stuck(&self, warps: &[Warp]) -> Box<Fault> {
        let groups = || warps.iter().flat_map(|warp| warp.others.iter().map(move |group| (warp, group)));
        let exited = self.threads() - warps.iter().map(|warp| warp.live.count_ones()).sum::<u32>();
        let barrier = |pc: u32| matches!(self.entry.program.code[pc as usize].action, Action::Barrier(_));
        let at_barrier = groups().find(|(_, group)| barrier(group.pc));
        let (warp, group) = match at_barrier.or_else(|| groups().next()) {
            Some(found) => found,
            None => return self.fault_at(0, 0, 0, FaultKind::WarpDivergence, None, "no thread can run".to_string()),
        };
        let mut places: Vec<(u32, u32)> = Vec::new();
        for (_, group) in groups() {
            match places.iter_mut().find(|(pc, _)| *pc == group.pc) {
                Some((_, count)) => *count += group.mask.count_ones(),
                None => places.push((group.pc, group.mask.count_ones())),
            }
        }
        places.sort_unstable();
        let place = |&(pc, count): &(u32, u32)| {
            let line = self.entry.program.code[pc as usize].line;
            format!("{count} wait at line {line} (`{}`)", self.entry.program.texts[pc as usize])
        };
        let mut message = format!("of {} threads, ", self.threads());
        message += &places.iter().map(place).collect::<Vec<_>>().join(", ");
        if exited > 0 {
            message += &format!(", {exited} have exited");
        }
        message += ", and none can go on";
        let kind = if at_barrier.is_some() { FaultKind::BarrierDivergence } else { FaultKind::WarpDivergence };
        self.fault_at(warp.index, group.pc, group.mask.trailing_zeros() as usize, kind, None, message)
    }
}
