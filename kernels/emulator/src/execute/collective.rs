//! Warp-wide instructions. The mask of members stands in the row `list[1]`; lanes with different masks are apart.

use super::block::Block;
use super::lanewise::{predicate, set_predicate};
use super::warp::Warp;
use crate::fault::{Done, FaultKind};
use crate::program::{Instruction, NONE};
use crate::registers::lanes;

/// Calls `each` for every set of lanes that share a mask of members, and orders what they do before what they do next.
#[inline(always)]
fn sets(warp: &mut Warp, instruction: &Instruction, mask: u32, mut each: impl FnMut(&mut Warp, u32)) {
    let members = *warp.registers.row(instruction.list[1]);
    let mut left = mask;
    while left != 0 {
        let named = members[left.trailing_zeros() as usize];
        let same = lanes(left).filter(|&lane| members[lane] == named).fold(0, |set, lane| set | 1 << lane);
        left &= !same;
        each(warp, same);
        warp.order.synchronise(same, warp.live);
    }
}

/// `bar.warp.sync`.
pub(crate) fn meet(_: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    sets(warp, instruction, mask, |_, _| {});
    Ok(())
}

/// `elect.sync`: the lowest lane of the set.
pub(crate) fn elect(_: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    sets(warp, instruction, mask, |warp, set| {
        let leader = set.trailing_zeros();
        warp.registers.write(instruction.d, set, &[leader; 32]);
        if instruction.c != NONE {
            set_predicate(&mut warp.registers, instruction.c, set, 1 << leader);
        }
    });
    Ok(())
}

/// `shfl.sync`: `d = a` of another lane, `b` away; the row `list[0]` holds the clamp and the mask of segments.
pub(crate) fn shuffle(block: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    let value = *warp.registers.row(instruction.a);
    let by = *warp.registers.row(instruction.b);
    let bounds = *warp.registers.row(instruction.list[0]);
    let members = *warp.registers.row(instruction.list[1]);
    let (mut out, mut inside) = (value, 0);
    for lane in lanes(mask) {
        let (own, step) = (lane as u32, by[lane] & 31);
        let segment = bounds[lane] >> 8 & 31;
        let clamp = bounds[lane] & 31;
        let most = own & segment | clamp & !segment;
        let least = own & segment;
        let (from, valid) = match instruction.immediate {
            0 => (own.wrapping_sub(step), own as i32 - step as i32 >= most as i32),
            1 => (own + step, own + step <= most),
            2 => (own ^ step, own ^ step <= most),
            _ => (least | step & !segment, least | step & !segment <= most),
        };
        let from = if valid { from } else { own };
        if members[lane] >> from & 1 == 0 || mask >> from & 1 == 0 && warp.live >> from & 1 == 1 {
            let message = format!("the lane reads lane {from}, which is not in the mask {:#010x}", members[lane]);
            return Err(block.fault(warp, lane, FaultKind::WarpDivergence, None, message));
        }
        if warp.live >> from & 1 == 0 {
            let message = format!("the lane reads lane {from}, which has exited");
            return Err(block.fault(warp, lane, FaultKind::WarpDivergence, None, message));
        }
        out[lane] = value[from as usize];
        inside |= u32::from(valid) << lane;
    }
    warp.registers.write(instruction.d, mask, &out);
    if instruction.c != NONE {
        set_predicate(&mut warp.registers, instruction.c, mask, inside);
    }
    sets(warp, instruction, mask, |_, _| {});
    Ok(())
}

fn vote(warp: &mut Warp, instruction: &Instruction, mask: u32, holds: impl Fn(u32, u32) -> bool) -> Done {
    let votes = predicate(&warp.registers, instruction.a);
    sets(warp, instruction, mask, |warp, set| {
        let result = if holds(votes & set, set) { u32::MAX } else { 0 };
        set_predicate(&mut warp.registers, instruction.d, set, result);
    });
    Ok(())
}

pub(crate) fn vote_all(_: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    vote(warp, instruction, mask, |votes, set| votes == set)
}

pub(crate) fn vote_any(_: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    vote(warp, instruction, mask, |votes, _| votes != 0)
}

pub(crate) fn vote_uniform(_: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    vote(warp, instruction, mask, |votes, set| votes == set || votes == 0)
}

/// `vote.sync.ballot`.
pub(crate) fn ballot(_: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    let votes = predicate(&warp.registers, instruction.a);
    sets(warp, instruction, mask, |warp, set| {
        warp.registers.write(instruction.d, set, &[votes & set; 32]);
    });
    Ok(())
}

fn values(warp: &Warp, instruction: &Instruction) -> [u64; 32] {
    if instruction.immediate == 1 {
        *warp.registers.wide(instruction.a)
    } else {
        warp.registers.row(instruction.a).map(u64::from)
    }
}

/// `match.any.sync`: the lanes of the set with the same value.
pub(crate) fn match_any(_: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    let all = values(warp, instruction);
    sets(warp, instruction, mask, |warp, set| {
        let same = |own: usize| lanes(set).filter(|&l| all[l] == all[own]).fold(0u32, |found, l| found | 1 << l);
        let out: [u32; 32] = std::array::from_fn(same);
        warp.registers.write(instruction.d, set, &out);
    });
    Ok(())
}

/// `match.all.sync`: all lanes of the set, if they have the same value.
pub(crate) fn match_all(_: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    let all = values(warp, instruction);
    sets(warp, instruction, mask, |warp, set| {
        let first = all[set.trailing_zeros() as usize];
        let agree = lanes(set).all(|lane| all[lane] == first);
        warp.registers.write(instruction.d, set, &[if agree { set } else { 0 }; 32]);
        if instruction.c != NONE {
            set_predicate(&mut warp.registers, instruction.c, set, if agree { u32::MAX } else { 0 });
        }
    });
    Ok(())
}

/// `redux.sync`.
pub(crate) fn reduce(_: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    let all = *warp.registers.row(instruction.a);
    let how = instruction.immediate;
    sets(warp, instruction, mask, |warp, set| {
        let two = |a: u32, b: u32| match how {
            0 => a.wrapping_add(b),
            1 => a.min(b),
            2 => a.max(b),
            3 => (a as i32).min(b as i32) as u32,
            4 => (a as i32).max(b as i32) as u32,
            5 => a & b,
            6 => a | b,
            _ => a ^ b,
        };
        let total = lanes(set).map(|lane| all[lane]).reduce(two).unwrap_or(0);
        warp.registers.write(instruction.d, set, &[total; 32]);
    });
    Ok(())
}
