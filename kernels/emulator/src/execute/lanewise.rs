//! Operations on each lane by itself: turns a function of scalars into an operation on rows.
//!
//! The function is a closure that captures nothing, so it is compiled into the loop over the lanes.

use crate::program::{Alu, NONE};
use crate::registers::{LANES, Lane, Registers};
use std::ptr::NonNull;

/// The value of a closure that captures nothing.
#[inline(always)]
fn conjure<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0) };
    // SAFETY: F has no bytes, and the callers below have been given a value of it, so it is inhabited.
    unsafe { NonNull::<F>::dangling().read() }
}

/// `d = f(a)`.
pub(crate) fn unary<A: Lane, D: Lane, F: Fn(A) -> D + Copy>(_: F) -> Alu {
    |registers, instruction, mask| {
        let f = conjure::<F>();
        let a = registers.read::<A>(instruction.a);
        let d: [D; LANES] = std::array::from_fn(|lane| f(a[lane]));
        registers.write(instruction.d, mask, &d);
    }
}

/// `d = f(a, b)`.
pub(crate) fn binary<A: Lane, B: Lane, D: Lane, F: Fn(A, B) -> D + Copy>(_: F) -> Alu {
    |registers, instruction, mask| {
        let f = conjure::<F>();
        let a = registers.read::<A>(instruction.a);
        let b = registers.read::<B>(instruction.b);
        let d: [D; LANES] = std::array::from_fn(|lane| f(a[lane], b[lane]));
        registers.write(instruction.d, mask, &d);
    }
}

/// `d = f(a, b, c)`.
pub(crate) fn ternary<A: Lane, B: Lane, C: Lane, D: Lane, F: Fn(A, B, C) -> D + Copy>(_: F) -> Alu {
    |registers, instruction, mask| {
        let f = conjure::<F>();
        let a = registers.read::<A>(instruction.a);
        let b = registers.read::<B>(instruction.b);
        let c = registers.read::<C>(instruction.c);
        let d: [D; LANES] = std::array::from_fn(|lane| f(a[lane], b[lane], c[lane]));
        registers.write(instruction.d, mask, &d);
    }
}

/// `d = f(a, b, c)` for f32, which the compiler may do with the machine's fused multiply-add.
pub(crate) fn fused_f32() -> Alu {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") {
        return |registers, instruction, mask| {
            // SAFETY: the processor has just been asked for both features.
            unsafe { fused_f32_avx2(registers, instruction.d, [instruction.a, instruction.b, instruction.c], mask) }
        };
    }
    ternary(|a: f32, b: f32, c: f32| crate::float::canonical(a.mul_add(b, c)))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fused_f32_avx2(registers: &mut Registers, d: u32, [a, b, c]: [u32; 3], mask: u32) {
    let (a, b, c) = (registers.read::<f32>(a), registers.read::<f32>(b), registers.read::<f32>(c));
    let mut out = [0f32; LANES];
    for lane in 0..LANES {
        out[lane] = crate::float::canonical(a[lane].mul_add(b[lane], c[lane]));
    }
    registers.write(d, mask, &out);
}

/// How the result of a comparison is combined with a predicate; stands in `list[0]`, the predicate in `list[1]`.
pub(crate) const COMBINE_NONE: u32 = 0;
pub(crate) const COMBINE_AND: u32 = 1;
pub(crate) const COMBINE_OR: u32 = 2;
pub(crate) const COMBINE_XOR: u32 = 3;

/// A predicate operand: its index times two, plus one if negated.
#[inline(always)]
pub(crate) fn predicate(registers: &Registers, operand: u32) -> u32 {
    let value = registers.predicates[(operand >> 1) as usize];
    if operand & 1 == 1 { !value } else { value }
}

/// Writes the lanes of a mask of a predicate.
#[inline(always)]
pub(crate) fn set_predicate(registers: &mut Registers, index: u32, mask: u32, value: u32) {
    let target = &mut registers.predicates[index as usize];
    *target = *target & !mask | value & mask;
}

/// Applies the combination of a comparison to its result.
#[inline(always)]
pub(crate) fn combine(registers: &Registers, list: &[u32], value: u32) -> u32 {
    match list[0] {
        COMBINE_NONE => value,
        COMBINE_AND => value & predicate(registers, list[1]),
        COMBINE_OR => value | predicate(registers, list[1]),
        _ => value ^ predicate(registers, list[1]),
    }
}

/// `setp`: `d = f(a, b)` for each lane, combined with a predicate; `c` takes the same of the opposite.
pub(crate) fn compare<T: Lane, F: Fn(T, T) -> bool + Copy>(_: F) -> Alu {
    |registers, instruction, mask| {
        let f = conjure::<F>();
        let a = registers.read::<T>(instruction.a);
        let b = registers.read::<T>(instruction.b);
        let mut holds = 0u32;
        for lane in 0..LANES {
            holds |= u32::from(f(a[lane], b[lane])) << lane;
        }
        let first = combine(registers, &instruction.list, holds);
        let second = combine(registers, &instruction.list, !holds);
        if instruction.d != NONE {
            set_predicate(registers, instruction.d, mask, first);
        }
        if instruction.c != NONE {
            set_predicate(registers, instruction.c, mask, second);
        }
    }
}

/// `testp`: `d = f(a)` for each lane.
pub(crate) fn test<T: Lane, F: Fn(T) -> bool + Copy>(_: F) -> Alu {
    |registers, instruction, mask| {
        let f = conjure::<F>();
        let a = registers.read::<T>(instruction.a);
        let holds = (0..LANES).fold(0, |all, lane| all | u32::from(f(a[lane])) << lane);
        set_predicate(registers, instruction.d, mask, holds);
    }
}

/// `selp`: `d = c ? a : b`.
pub(crate) fn select<T: Lane>() -> Alu {
    |registers, instruction, mask| {
        let chosen = predicate(registers, instruction.c);
        let a = registers.read::<T>(instruction.a);
        let b = registers.read::<T>(instruction.b);
        let d: [T; LANES] = std::array::from_fn(|lane| if chosen >> lane & 1 == 1 { a[lane] } else { b[lane] });
        registers.write(instruction.d, mask, &d);
    }
}

/// `d = f(a, b)` on predicates.
pub(crate) fn logic<F: Fn(u32, u32) -> u32 + Copy>(_: F) -> Alu {
    |registers, instruction, mask| {
        let f = conjure::<F>();
        let value = f(predicate(registers, instruction.a), predicate(registers, instruction.b));
        set_predicate(registers, instruction.d, mask, value);
    }
}

/// `d = f(a, b, carry)` with a carry out of and into the predicate `c`; `list[0]` says which: 1 in, 2 out.
pub(crate) fn carried<T: Lane, F: Fn(T, T, bool) -> (T, bool) + Copy>(_: F) -> Alu {
    |registers, instruction, mask| {
        let f = conjure::<F>();
        let a = registers.read::<T>(instruction.a);
        let b = registers.read::<T>(instruction.b);
        let carry = if instruction.list[0] & 1 == 1 { registers.predicates[instruction.c as usize] } else { 0 };
        let mut out = 0;
        let d: [T; LANES] = std::array::from_fn(|lane| {
            let (value, carried) = f(a[lane], b[lane], carry >> lane & 1 == 1);
            out |= u32::from(carried) << lane;
            value
        });
        registers.write(instruction.d, mask, &d);
        if instruction.list[0] & 2 == 2 {
            set_predicate(registers, instruction.c, mask, out);
        }
    }
}

/// `mad` with carry: `d = f(a, b) + c`, the carry in the predicate `list[1]`.
pub(crate) fn carried_mad<T: Lane, F: Fn(T, T, T, bool) -> (T, bool) + Copy>(_: F) -> Alu {
    |registers, instruction, mask| {
        let f = conjure::<F>();
        let a = registers.read::<T>(instruction.a);
        let b = registers.read::<T>(instruction.b);
        let c = registers.read::<T>(instruction.c);
        let carry = if instruction.list[0] & 1 == 1 { registers.predicates[instruction.list[1] as usize] } else { 0 };
        let mut out = 0;
        let d: [T; LANES] = std::array::from_fn(|lane| {
            let (value, carried) = f(a[lane], b[lane], c[lane], carry >> lane & 1 == 1);
            out |= u32::from(carried) << lane;
            value
        });
        registers.write(instruction.d, mask, &d);
        if instruction.list[0] & 2 == 2 {
            set_predicate(registers, instruction.list[1], mask, out);
        }
    }
}

/// `d = f(a, b, c, immediate)`.
pub(crate) fn ternary_immediate<T: Lane, F: Fn(T, T, T, i64) -> T + Copy>(_: F) -> Alu {
    |registers, instruction, mask| {
        let f = conjure::<F>();
        let a = registers.read::<T>(instruction.a);
        let b = registers.read::<T>(instruction.b);
        let c = registers.read::<T>(instruction.c);
        let d: [T; LANES] = std::array::from_fn(|lane| f(a[lane], b[lane], c[lane], instruction.immediate));
        registers.write(instruction.d, mask, &d);
    }
}

/// `d = f(a, b, c, e)` where `e` is the row `list[0]`: bit-field insertion.
pub(crate) fn insert<T: Lane, F: Fn(T, T, u32, u32) -> T + Copy>(_: F) -> Alu {
    |registers, instruction, mask| {
        let f = conjure::<F>();
        let a = registers.read::<T>(instruction.a);
        let b = registers.read::<T>(instruction.b);
        let c = registers.read::<u32>(instruction.c);
        let e = registers.read::<u32>(instruction.list[0]);
        let d: [T; LANES] = std::array::from_fn(|lane| f(a[lane], b[lane], c[lane], e[lane]));
        registers.write(instruction.d, mask, &d);
    }
}

/// Packs the rows of `list`, of `immediate` bits each, into `d`, lowest first.
pub(crate) fn pack(registers: &mut Registers, instruction: &crate::program::Instruction, mask: u32) {
    let bits = instruction.immediate as u32;
    let low = u64::MAX >> (64 - bits);
    let mut all = [0u64; LANES];
    for (index, &slot) in instruction.list.iter().enumerate() {
        let part = registers.row(slot);
        for lane in 0..LANES {
            all[lane] |= (u64::from(part[lane]) & low) << (index as u32 * bits);
        }
    }
    if bits as usize * instruction.list.len() == 64 {
        registers.write(instruction.d, mask, &all);
    } else {
        registers.write(instruction.d, mask, &all.map(|value| value as u32));
    }
}

/// Unpacks `a` into the rows of `list`, of `immediate` bits each, lowest first; absent rows are skipped.
pub(crate) fn unpack(registers: &mut Registers, instruction: &crate::program::Instruction, mask: u32) {
    let bits = instruction.immediate as u32;
    let low = u64::MAX >> (64 - bits);
    let all: [u64; LANES] = if bits as usize * instruction.list.len() == 64 {
        registers.read(instruction.a)
    } else {
        registers.read::<u32>(instruction.a).map(u64::from)
    };
    for (index, &slot) in instruction.list.iter().enumerate().filter(|(_, slot)| **slot != NONE) {
        let part = all.map(|value| (value >> (index as u32 * bits) & low) as u32);
        registers.write(slot, mask, &part);
    }
}
