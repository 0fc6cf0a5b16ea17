//! Comparisons: `setp`, `set`, `testp`.

use super::builder::{Builder, Decoded};
use super::opcode::{Opcode, Type};
use crate::execute::lanewise::*;
use crate::float::flush;
use crate::program::{Action, Alu, Instruction, NONE};
use crate::registers::{LANES, Registers};
use crate::syntax::tree::{Operand, Statement};
use half::{bf16, f16};

const COMPARISONS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

pub(super) fn decode(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    match op.name {
        "setp" => setp(b, op, statement),
        "set" => set(b, op, statement),
        "testp" => testp(b, op, statement),
        _ => Ok(false),
    }
}

/// A whole comparison of integers, by a generic closure.
macro_rules! whole {
    ($name:expr, $type:ty) => {
        match $name {
            "eq" => compare(|a: $type, b: $type| a == b),
            "ne" => compare(|a: $type, b: $type| a != b),
            "lt" | "lo" => compare(|a: $type, b: $type| a < b),
            "le" | "ls" => compare(|a: $type, b: $type| a <= b),
            "gt" | "hi" => compare(|a: $type, b: $type| a > b),
            "ge" | "hs" => compare(|a: $type, b: $type| a >= b),
            _ => return Err("this comparison is not supported on integers".to_string()),
        }
    };
}

macro_rules! floating {
    ($name:expr, $type:ty, |$x:ident| $view:expr) => {{
        macro_rules! with {
            (|$a:ident, $b:ident| $body:expr) => {
                compare(|$a: $type, $b: $type| {
                    let $a = {
                        let $x = $a;
                        $view
                    };
                    let $b = {
                        let $x = $b;
                        $view
                    };
                    $body
                })
            };
        }
        match $name {
            "eq" => with!(|a, b| a == b),
            "ne" => with!(|a, b| a != b && !a.is_nan() && !b.is_nan()),
            "lt" => with!(|a, b| a < b),
            "le" => with!(|a, b| a <= b),
            "gt" => with!(|a, b| a > b),
            "ge" => with!(|a, b| a >= b),
            "equ" => with!(|a, b| a == b || a.is_nan() || b.is_nan()),
            "neu" => with!(|a, b| a != b),
            "ltu" => with!(|a, b| a < b || a.is_nan() || b.is_nan()),
            "leu" => with!(|a, b| a <= b || a.is_nan() || b.is_nan()),
            "gtu" => with!(|a, b| a > b || a.is_nan() || b.is_nan()),
            "geu" => with!(|a, b| a >= b || a.is_nan() || b.is_nan()),
            "num" => with!(|a, b| !a.is_nan() && !b.is_nan()),
            "nan" => with!(|a, b| a.is_nan() || b.is_nan()),
            _ => return Err("this comparison is not supported on floating point".to_string()),
        }
    }};
}

fn comparison(name: &str, of: Type, flushes: bool) -> Decoded<Alu> {
    Ok(match of {
        Type::U16 | Type::B16 => whole!(name, u16),
        Type::S16 => whole!(name, i16),
        Type::U32 | Type::B32 => whole!(name, u32),
        Type::S32 => whole!(name, i32),
        Type::U64 | Type::B64 => whole!(name, u64),
        Type::S64 => whole!(name, i64),
        Type::F32 if flushes => floating!(name, f32, |x| flush(x)),
        Type::F32 => floating!(name, f32, |x| x),
        Type::F64 => floating!(name, f64, |x| x),
        Type::F16 => floating!(name, f16, |x| x.to_f32()),
        Type::Bf16 => floating!(name, bf16, |x| x.to_f32()),
        _ => return Err("a comparison of this type is not supported".to_string()),
    })
}

fn setp(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    let name = op.one_of(&COMPARISONS).ok_or("setp needs a comparison")?;
    let combine = match op.one_of(&["and", "or", "xor"]) {
        None => COMBINE_NONE,
        Some("and") => COMBINE_AND,
        Some("or") => COMBINE_OR,
        Some(_) => COMBINE_XOR,
    };
    let flushes = op.has("ftz");
    let of = super::moves::single(op)?;
    let (d, x, y, with) = match &statement.operands[..] {
        [d, x, y] if combine == COMBINE_NONE => (d, x, y, None),
        [d, x, y, with] if combine != COMBINE_NONE => (d, x, y, Some(with)),
        _ => return Err("the number of operands is wrong".to_string()),
    };
    let two = matches!(of, Type::F16x2 | Type::Bf16x2);
    let alu = if two { compare_pairs } else { comparison(name, of, flushes)? };
    let mut instruction = Instruction::new(Action::Alu(alu));
    if two {
        instruction.immediate = half_comparison(name, of)?;
    }
    let target = |b: &mut Builder<'_>, operand: &Operand| match operand {
        Operand::Sink => Ok(NONE),
        operand => b.predicate(operand).map(|predicate| predicate >> 1),
    };
    (instruction.d, instruction.c) = match d {
        Operand::Pair(first, second) => (target(b, first)?, target(b, second)?),
        d => (target(b, d)?, NONE),
    };
    (instruction.a, instruction.b) = (b.source(x, of)?, b.source(y, of)?);
    instruction.list = match with {
        Some(with) => Box::from([combine, b.predicate(with)?]),
        None => Box::from([combine]),
    };
    b.push(statement, instruction);
    Ok(true)
}

/// `set`: a comparison into a predicate of its own, and a selection by it.
fn set(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    let name = op.one_of(&COMPARISONS).ok_or("set needs a comparison")?;
    let flushes = op.has("ftz");
    let types = op.types();
    let [to, of] = types[..] else { return Err("set needs two types".to_string()) };
    let [d, x, y] = &statement.operands[..] else { return Err("set needs three operands".to_string()) };
    if statement.guard.is_some() {
        return Err("set with a guard is not supported".to_string());
    }
    if matches!(of, Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2) {
        return set_halves(b, statement, name, to, of);
    }
    let holds = match to {
        Type::U32 | Type::S32 | Type::B32 => u64::from(u32::MAX),
        Type::F32 => u64::from(1f32.to_bits()),
        _ => return Err("set to this type is not supported".to_string()),
    };
    let predicate = b.new_predicate();
    let compare = Instruction {
        d: predicate,
        a: b.source(x, of)?,
        b: b.source(y, of)?,
        list: Box::from([COMBINE_NONE]),
        ..Instruction::new(Action::Alu(comparison(name, of, flushes)?))
    };
    b.push(statement, compare);
    let choose = Instruction {
        d: b.destination(d, to)?,
        a: b.source(&Operand::Integer(holds), Type::U32)?,
        b: b.source(&Operand::Integer(0), Type::U32)?,
        c: predicate << 1,
        ..Instruction::new(Action::Alu(select::<u32>()))
    };
    b.push(statement, choose);
    Ok(true)
}

/// A comparison of halves for the general handlers: its place in the list, and whether the halves are bf16.
fn half_comparison(name: &str, of: Type) -> Decoded<i64> {
    let place = COMPARISONS.iter().position(|other| *other == name).ok_or("this comparison is not supported")?;
    Ok(place as i64 | i64::from(matches!(of, Type::Bf16 | Type::Bf16x2)) << 8)
}

/// Whether a comparison holds for each half of two registers.
fn compare_halves(code: i64, a: u32, b: u32) -> [bool; 2] {
    let value = |bits: u32| {
        if code >> 8 & 1 == 1 { bf16::from_bits(bits as u16).to_f32() } else { f16::from_bits(bits as u16).to_f32() }
    };
    let one = |a: u32, b: u32| {
        let (a, b) = (value(a), value(b));
        let unordered = a.is_nan() || b.is_nan();
        match COMPARISONS[(code & 255) as usize] {
            "eq" => a == b,
            "ne" => !unordered && a != b,
            "lt" => a < b,
            "le" => a <= b,
            "gt" => a > b,
            "ge" => a >= b,
            "equ" => unordered || a == b,
            "neu" => a != b,
            "ltu" => unordered || a < b,
            "leu" => unordered || a <= b,
            "gtu" => unordered || a > b,
            "geu" => unordered || a >= b,
            "num" => !unordered,
            _ => unordered,
        }
    };
    [one(a, b), one(a >> 16, b >> 16)]
}

/// `setp` of two halves: the lower one to the first predicate, the upper one to the second.
fn compare_pairs(registers: &mut Registers, instruction: &Instruction, mask: u32) {
    let (a, b) = (registers.read::<u32>(instruction.a), registers.read::<u32>(instruction.b));
    let mut holds = [0; 2];
    for lane in 0..LANES {
        let [low, high] = compare_halves(instruction.immediate, a[lane], b[lane]);
        holds[0] |= u32::from(low) << lane;
        holds[1] |= u32::from(high) << lane;
    }
    for (target, holds) in [instruction.d, instruction.c].into_iter().zip(holds) {
        if target != NONE {
            let value = combine(registers, &instruction.list, holds);
            set_predicate(registers, target, mask, value);
        }
    }
}

/// `set` of halves: what `list` holds where the comparison does, for the lower and the upper half.
fn select_halves(registers: &mut Registers, instruction: &Instruction, mask: u32) {
    let (a, b) = (registers.read::<u32>(instruction.a), registers.read::<u32>(instruction.b));
    let out: [u32; LANES] = std::array::from_fn(|lane| {
        let [low, high] = compare_halves(instruction.immediate, a[lane], b[lane]);
        (if low { instruction.list[0] } else { 0 }) | if high { instruction.list[1] } else { 0 }
    });
    registers.write(instruction.d, mask, &out);
}

fn set_halves(b: &mut Builder<'_>, statement: &Statement, name: &str, to: Type, of: Type) -> Decoded<bool> {
    let two = matches!(of, Type::F16x2 | Type::Bf16x2);
    let one = match to {
        Type::F16 | Type::F16x2 => 0x3c00,
        Type::Bf16 | Type::Bf16x2 => 0x3f80,
        Type::U16 | Type::S16 => 0xffff,
        Type::U32 | Type::S32 if two => 0xffff,
        Type::U32 | Type::S32 => u32::MAX,
        _ => return Err("set to this type is not supported".to_string()),
    };
    let [d, x, y] = &statement.operands[..] else { return Err("set needs three operands".to_string()) };
    let instruction = Instruction {
        d: b.destination(d, to)?,
        a: b.source(x, of)?,
        b: b.source(y, of)?,
        immediate: half_comparison(name, of)?,
        list: Box::from([one, if two { one << 16 } else { 0 }]),
        ..Instruction::new(Action::Alu(select_halves))
    };
    b.push(statement, instruction);
    Ok(true)
}

fn testp(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    let what = op.one_of(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"]);
    let what = what.ok_or("testp needs what to test")?;
    let of = super::moves::single(op)?;
    let [d, x] = &statement.operands[..] else { return Err("testp needs two operands".to_string()) };
    let alu = match (what, of) {
        ("finite", Type::F32) => test(|a: f32| a.is_finite()),
        ("infinite", Type::F32) => test(|a: f32| a.is_infinite()),
        ("number", Type::F32) => test(|a: f32| !a.is_nan()),
        ("notanumber", Type::F32) => test(|a: f32| a.is_nan()),
        ("normal", Type::F32) => test(|a: f32| a.is_normal()),
        ("subnormal", Type::F32) => test(|a: f32| a.is_subnormal()),
        ("finite", Type::F64) => test(|a: f64| a.is_finite()),
        ("infinite", Type::F64) => test(|a: f64| a.is_infinite()),
        ("number", Type::F64) => test(|a: f64| !a.is_nan()),
        ("notanumber", Type::F64) => test(|a: f64| a.is_nan()),
        ("normal", Type::F64) => test(|a: f64| a.is_normal()),
        ("subnormal", Type::F64) => test(|a: f64| a.is_subnormal()),
        _ => return Err("this test is not supported".to_string()),
    };
    let instruction =
        Instruction { d: b.predicate(d)? >> 1, a: b.source(x, of)?, ..Instruction::new(Action::Alu(alu)) };
    b.push(statement, instruction);
    Ok(true)
}
