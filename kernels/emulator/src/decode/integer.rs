//! Integer arithmetic and bit operations.

use super::builder::{Builder, Decoded};
use super::moves::single;
use super::opcode::{Opcode, Type};
use crate::execute::lanewise::*;
use crate::program::{Action, Alu, Instruction};
use crate::syntax::tree::{Operand, Statement};

/// One of six integer types, by a generic closure.
macro_rules! integers {
    ($of:expr, $combine:ident, |$($x:ident),*| $body:expr) => {
        match $of {
            Type::U16 | Type::B16 => $combine(|$($x: u16),*| $body),
            Type::S16 => $combine(|$($x: i16),*| $body),
            Type::U32 | Type::B32 => $combine(|$($x: u32),*| $body),
            Type::S32 => $combine(|$($x: i32),*| $body),
            Type::U64 | Type::B64 => $combine(|$($x: u64),*| $body),
            Type::S64 => $combine(|$($x: i64),*| $body),
            _ => return Err("this type is not supported".to_string()),
        }
    };
}

pub(super) fn decode(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    let carries = matches!(op.name, "addc" | "subc" | "madc");
    match op.name {
        "and" | "or" | "xor" | "not" | "shl" | "shr" | "popc" | "clz" | "brev" | "bfe" | "bfi" | "bfind" | "prmt"
        | "lop3" | "shf" | "cnot" | "bmsk" | "szext" | "dp4a" | "sad" | "mul24" | "mad24" | "addc" | "subc"
        | "madc" | "rem" => {}
        "add" | "sub" | "mul" | "mad" | "div" | "abs" | "neg" | "min" | "max" => {
            if op.types().iter().any(|of| !of.integer()) {
                return Ok(false);
            }
        }
        _ => return Ok(false),
    }
    if carries || op.has("cc") {
        return carry(b, op, statement);
    }
    match op.name {
        "and" | "or" | "xor" | "not" | "shl" | "shr" | "popc" | "clz" | "brev" | "bfe" | "bfi" | "bfind" | "prmt"
        | "lop3" | "shf" | "cnot" => bits(b, op, statement),
        "mul" | "mad" | "mul24" | "mad24" => multiply(b, op, statement),
        "dp4a" => dot(b, op, statement),
        "bmsk" | "szext" => masks(b, op, statement),
        _ => arithmetic(b, op, statement),
    }
}

fn arithmetic(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    let saturates = op.has("sat");
    let of = single(op)?;
    let alu = match op.name {
        "add" if saturates && of == Type::S32 => binary(|a: i32, b: i32| a.saturating_add(b)),
        "sub" if saturates && of == Type::S32 => binary(|a: i32, b: i32| a.saturating_sub(b)),
        _ if saturates => return Err("saturation is not supported here".to_string()),
        "add" => integers!(of, binary, |a, b| a.wrapping_add(b)),
        "sub" => integers!(of, binary, |a, b| a.wrapping_sub(b)),
        // Division by zero gives all ones on the device.
        "div" => integers!(of, binary, |a, b| if b == 0 { !b } else { a.wrapping_div(b) }),
        "rem" => integers!(of, binary, |a, b| if b == 0 { a } else { a.wrapping_rem(b) }),
        "min" => integers!(of, binary, |a, b| a.min(b)),
        "max" => integers!(of, binary, |a, b| a.max(b)),
        "abs" => match of {
            Type::S16 => unary(|a: i16| a.wrapping_abs()),
            Type::S32 => unary(|a: i32| a.wrapping_abs()),
            Type::S64 => unary(|a: i64| a.wrapping_abs()),
            _ => return Err("this type is not supported".to_string()),
        },
        "neg" => integers!(of, unary, |a| a.wrapping_neg()),
        "sad" => match of {
            Type::U32 => ternary(|a: u32, b: u32, c: u32| c.wrapping_add(a.abs_diff(b))),
            Type::S32 => ternary(|a: i32, b: i32, c: u32| c.wrapping_add(a.abs_diff(b))),
            _ => return Err("this type is not supported".to_string()),
        },
        _ => return Ok(false),
    };
    b.alu(statement, alu, of, &[of, of, of][..statement.operands.len().saturating_sub(1).min(3)])
}

fn wide_type(of: Type) -> Decoded<Type> {
    Ok(match of {
        Type::U16 => Type::U32,
        Type::S16 => Type::S32,
        Type::U32 => Type::U64,
        Type::S32 => Type::S64,
        _ => return Err("there is no wider type".to_string()),
    })
}

fn multiply(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    let part = op.one_of(&["lo", "hi", "wide"]).ok_or("a multiplication needs .lo, .hi or .wide")?;
    let of = single(op)?;
    if op.name.ends_with("24") {
        let alu = match (op.name, part, of) {
            ("mul24", "lo", Type::U32) => binary(|a: u32, b: u32| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff)),
            ("mul24", "lo", Type::S32) => binary(|a: i32, b: i32| (a << 8 >> 8).wrapping_mul(b << 8 >> 8)),
            _ => return Err("this 24-bit operation is not supported".to_string()),
        };
        return b.alu(statement, alu, of, &[of, of]);
    }
    if op.name == "mul" {
        let alu = match (part, of) {
            ("lo", _) => integers!(of, binary, |a, b| a.wrapping_mul(b)),
            ("wide", Type::U16) => binary(|a: u16, b: u16| u32::from(a) * u32::from(b)),
            ("wide", Type::S16) => binary(|a: i16, b: i16| i32::from(a) * i32::from(b)),
            ("wide", Type::U32) => binary(|a: u32, b: u32| u64::from(a) * u64::from(b)),
            ("wide", Type::S32) => binary(|a: i32, b: i32| i64::from(a) * i64::from(b)),
            ("hi", Type::U16) => binary(|a: u16, b: u16| ((u32::from(a) * u32::from(b)) >> 16) as u16),
            ("hi", Type::S16) => binary(|a: i16, b: i16| ((i32::from(a) * i32::from(b)) >> 16) as i16),
            ("hi", Type::U32) => binary(|a: u32, b: u32| high_u32(a, b)),
            ("hi", Type::S32) => binary(|a: i32, b: i32| ((i64::from(a) * i64::from(b)) >> 32) as i32),
            ("hi", Type::U64) => binary(|a: u64, b: u64| high_u64(a, b)),
            ("hi", Type::S64) => binary(|a: i64, b: i64| ((i128::from(a) * i128::from(b)) >> 64) as i64),
            _ => return Err("this multiplication is not supported".to_string()),
        };
        let d = if part == "wide" { wide_type(of)? } else { of };
        return b.alu(statement, alu, d, &[of, of]);
    }
    let alu = match (part, of) {
        ("lo", _) => integers!(of, ternary, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ("wide", Type::U16) => ternary(|a: u16, b: u16, c: u32| (u32::from(a) * u32::from(b)).wrapping_add(c)),
        ("wide", Type::S16) => ternary(|a: i16, b: i16, c: i32| (i32::from(a) * i32::from(b)).wrapping_add(c)),
        ("wide", Type::U32) => ternary(|a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c)),
        ("wide", Type::S32) => ternary(|a: i32, b: i32, c: i64| (i64::from(a) * i64::from(b)).wrapping_add(c)),
        ("hi", Type::U32) => ternary(|a: u32, b: u32, c: u32| high_u32(a, b).wrapping_add(c)),
        ("hi", Type::S32) => {
            ternary(|a: i32, b: i32, c: i32| (((i64::from(a) * i64::from(b)) >> 32) as i32).wrapping_add(c))
        }
        ("hi", Type::U64) => ternary(|a: u64, b: u64, c: u64| high_u64(a, b).wrapping_add(c)),
        _ => return Err("this multiplication is not supported".to_string()),
    };
    let d = if part == "wide" { wide_type(of)? } else { of };
    b.alu(statement, alu, d, &[of, of, d])
}

fn high_u32(a: u32, b: u32) -> u32 {
    ((u64::from(a) * u64::from(b)) >> 32) as u32
}

fn high_u64(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

fn carry(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    let takes = matches!(op.name, "addc" | "subc" | "madc");
    // The opcode without a carry in has said .cc already.
    let gives = !takes || op.has("cc");
    let part = op.one_of(&["lo", "hi"]);
    let of = single(op)?;
    let alu: Alu = match (op.name, of.bytes(), part) {
        ("add" | "addc", 4, _) => carried(|a: u32, b: u32, c| a.carrying(b, c)),
        ("add" | "addc", 8, _) => carried(|a: u64, b: u64, c| a.carrying(b, c)),
        ("sub" | "subc", 4, _) => carried(|a: u32, b: u32, c| a.borrowing(b, c)),
        ("sub" | "subc", 8, _) => carried(|a: u64, b: u64, c| a.borrowing(b, c)),
        ("mad" | "madc", 4, Some("lo")) => carried_mad(|a: u32, b, c, carry| a.wrapping_mul(b).carrying(c, carry)),
        ("mad" | "madc", 4, Some("hi")) if of != Type::S32 => {
            carried_mad(|a: u32, b, c, carry| high_u32(a, b).carrying(c, carry))
        }
        ("mad" | "madc", 8, Some("lo")) => carried_mad(|a: u64, b, c, carry| a.wrapping_mul(b).carrying(c, carry)),
        ("mad" | "madc", 8, Some("hi")) if of != Type::S64 => {
            carried_mad(|a: u64, b, c, carry| high_u64(a, b).carrying(c, carry))
        }
        _ => return Err("this operation with a carry is not supported".to_string()),
    };
    let flag = b.carry();
    let mut instruction = Instruction::new(Action::Alu(alu));
    let operands = &statement.operands[..];
    instruction.d = b.destination(operands.first().ok_or("operands are missing")?, of)?;
    let mode = u32::from(takes) | u32::from(gives) << 1;
    match operands {
        [_, first, second] if part.is_none() => {
            (instruction.a, instruction.b, instruction.c) = (b.source(first, of)?, b.source(second, of)?, flag);
            instruction.list = Box::from([mode]);
        }
        [_, first, second, third] if part.is_some() => {
            (instruction.a, instruction.b) = (b.source(first, of)?, b.source(second, of)?);
            instruction.c = b.source(third, of)?;
            instruction.list = Box::from([mode, flag]);
        }
        _ => return Err("the number of operands is wrong".to_string()),
    }
    b.push(statement, instruction);
    Ok(true)
}

/// Addition and subtraction with a carry.
trait Carry: Sized {
    fn carrying(self, other: Self, carry: bool) -> (Self, bool);
    fn borrowing(self, other: Self, borrow: bool) -> (Self, bool);
}

macro_rules! carry_impl {
    ($($type:ty),*) => {$(impl Carry for $type {
        fn carrying(self, other: Self, carry: bool) -> (Self, bool) {
            let (sum, first) = self.overflowing_add(other);
            let (sum, second) = sum.overflowing_add(carry.into());
            (sum, first | second)
        }
        fn borrowing(self, other: Self, borrow: bool) -> (Self, bool) {
            let (rest, first) = self.overflowing_sub(other);
            let (rest, second) = rest.overflowing_sub(borrow.into());
            (rest, first | second)
        }
    })*};
}

carry_impl!(u32, u64);

fn dot(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    let types = op.types();
    let alu = match types[..] {
        [Type::S32, Type::S32] => ternary(|a: u32, b: u32, c: i32| {
            let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
            (0..4).fold(c, |sum, i| sum.wrapping_add(i32::from(a[i] as i8) * i32::from(b[i] as i8)))
        }),
        [Type::U32, Type::U32] => ternary(|a: u32, b: u32, c: u32| {
            let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
            (0..4).fold(c, |sum, i| sum.wrapping_add(u32::from(a[i]) * u32::from(b[i])))
        }),
        _ => return Err("dp4a of these types is not supported".to_string()),
    };
    b.alu(statement, alu, Type::B32, &[Type::B32; 3])
}

fn bits(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    match op.name {
        "lop3" => return lookup(b, op, statement),
        "prmt" => return permute(b, op, statement),
        "shf" => return funnel(b, op, statement),
        _ => {}
    }
    let amount = op.has("shiftamt");
    let of = single(op)?;
    if of == Type::Predicate {
        let alu = match op.name {
            "and" => logic(|a, b| a & b),
            "or" => logic(|a, b| a | b),
            "xor" => logic(|a, b| a ^ b),
            "not" => logic(|a, _| !a),
            _ => return Err("this operation on predicates is not supported".to_string()),
        };
        let [d, rest @ ..] = &statement.operands[..] else { return Err("operands are missing".to_string()) };
        let mut instruction = Instruction { d: b.predicate(d)? >> 1, ..Instruction::new(Action::Alu(alu)) };
        instruction.a = b.predicate(rest.first().ok_or("operands are missing")?)?;
        instruction.b = match rest.get(1) {
            Some(operand) => b.predicate(operand)?,
            None => instruction.a,
        };
        b.push(statement, instruction);
        return Ok(true);
    }
    let word = Type::U32;
    let wide = of.wide();
    let (alu, d, sources): (Alu, Type, &[Type]) = match (op.name, wide) {
        ("and", false) => (binary(|a: u32, b: u32| a & b), of, &[of, of]),
        ("and", true) => (binary(|a: u64, b: u64| a & b), of, &[of, of]),
        ("or", false) => (binary(|a: u32, b: u32| a | b), of, &[of, of]),
        ("or", true) => (binary(|a: u64, b: u64| a | b), of, &[of, of]),
        ("xor", false) => (binary(|a: u32, b: u32| a ^ b), of, &[of, of]),
        ("xor", true) => (binary(|a: u64, b: u64| a ^ b), of, &[of, of]),
        ("not", false) => (unary(|a: u32| !a), of, &[of]),
        ("not", true) => (unary(|a: u64| !a), of, &[of]),
        ("cnot", false) => (unary(|a: u32| u32::from(a == 0)), of, &[of]),
        ("cnot", true) => (unary(|a: u64| u64::from(a == 0)), of, &[of]),
        ("shl", _) => match of.bytes() {
            2 => (binary(|a: u16, n: u32| a.checked_shl(n).unwrap_or(0)), of, &[of, word]),
            4 => (binary(|a: u32, n: u32| if n > 31 { 0 } else { a << (n & 31) }), of, &[of, word]),
            _ => (binary(|a: u64, n: u32| a.checked_shl(n).unwrap_or(0)), of, &[of, word]),
        },
        ("shr", _) => match of {
            Type::S16 => (binary(|a: i16, n: u32| a >> n.min(15)), of, &[of, word]),
            Type::S32 => (binary(|a: i32, n: u32| a >> n.min(31)), of, &[of, word]),
            Type::S64 => (binary(|a: i64, n: u32| a >> n.min(63)), of, &[of, word]),
            Type::U16 | Type::B16 => (binary(|a: u16, n: u32| a.checked_shr(n).unwrap_or(0)), of, &[of, word]),
            _ if wide => (binary(|a: u64, n: u32| a.checked_shr(n).unwrap_or(0)), of, &[of, word]),
            _ => (binary(|a: u32, n: u32| if n > 31 { 0 } else { a >> (n & 31) }), of, &[of, word]),
        },
        ("popc", false) => (unary(|a: u32| a.count_ones()), word, &[of]),
        ("popc", true) => (unary(|a: u64| a.count_ones()), word, &[of]),
        ("clz", false) => (unary(|a: u32| a.leading_zeros()), word, &[of]),
        ("clz", true) => (unary(|a: u64| a.leading_zeros()), word, &[of]),
        ("brev", false) => (unary(|a: u32| a.reverse_bits()), of, &[of]),
        ("brev", true) => (unary(|a: u64| a.reverse_bits()), of, &[of]),
        ("bfind", _) => (find(of, amount), word, &[of]),
        ("bfe", _) => {
            let alu = match of {
                Type::U32 => ternary(|a: u32, at: u32, n: u32| extract(u64::from(a), 32, at, n, false) as u32),
                Type::S32 => ternary(|a: i32, at: u32, n: u32| extract(i64::from(a) as u64, 32, at, n, true) as i32),
                Type::U64 => ternary(|a: u64, at: u32, n: u32| extract(a, 64, at, n, false)),
                Type::S64 => ternary(|a: u64, at: u32, n: u32| extract(a, 64, at, n, true)),
                _ => return Err("this type is not supported".to_string()),
            };
            (alu, of, &[of, word, word])
        }
        ("bfi", _) => return insertion(b, of, statement),
        _ => return Ok(false),
    };
    b.alu(statement, alu, d, sources)
}

/// The position of the highest bit that differs from the sign; or, with `amount`, how far it is from the top.
fn find(of: Type, amount: bool) -> Alu {
    match (of, amount) {
        (Type::U32, false) => unary(|a: u32| 31u32.wrapping_sub(a.leading_zeros())),
        (Type::S32, false) => unary(|a: i32| 31u32.wrapping_sub((a ^ (a >> 31)).leading_zeros())),
        (Type::U64, false) => unary(|a: u64| 63u32.wrapping_sub(a.leading_zeros())),
        (Type::S64, false) => unary(|a: i64| 63u32.wrapping_sub((a ^ (a >> 63)).leading_zeros())),
        (Type::U32, true) => unary(|a: u32| if a == 0 { u32::MAX } else { a.leading_zeros() }),
        (Type::S32, true) => {
            unary(|a: i32| if a ^ (a >> 31) == 0 { u32::MAX } else { (a ^ (a >> 31)).leading_zeros() })
        }
        (Type::U64, true) => unary(|a: u64| if a == 0 { u32::MAX } else { a.leading_zeros() }),
        _ => unary(|a: i64| if a ^ (a >> 63) == 0 { u32::MAX } else { (a ^ (a >> 63)).leading_zeros() }),
    }
}

fn extract(value: u64, size: u32, at: u32, count: u32, signed: bool) -> u64 {
    let (at, count) = (at & 255, count & 255);
    let bit = |index: u32| value >> index.min(size - 1) & 1;
    let sign = if signed && count > 0 { bit((at + count - 1).min(size - 1)) } else { 0 };
    let mut out = 0;
    for index in 0..size {
        let from = at + index;
        let one = if index < count && from < size { bit(from) } else { sign };
        out |= one << index;
    }
    out
}

fn insertion(b: &mut Builder<'_>, of: Type, statement: &Statement) -> Decoded<bool> {
    let [d, value, into, at, count] = &statement.operands[..] else {
        return Err("bfi needs five operands".to_string());
    };
    let alu = match of.bytes() {
        4 => insert(|a: u32, b: u32, at: u32, count: u32| {
            let (at, count) = (at & 255, count & 255);
            let field = ((1u64 << count.min(32)) - 1).checked_shl(at).unwrap_or(0) as u32;
            b & !field | (u64::from(a).checked_shl(at).unwrap_or(0) as u32) & field
        }),
        _ => insert(|a: u64, b: u64, at: u32, count: u32| {
            let (at, count) = (at & 255, count & 255);
            let field = (((1u128 << count.min(64)) - 1) as u64).checked_shl(at).unwrap_or(0);
            b & !field | a.checked_shl(at).unwrap_or(0) & field
        }),
    };
    let mut instruction = Instruction { d: b.destination(d, of)?, ..Instruction::new(Action::Alu(alu)) };
    (instruction.a, instruction.b) = (b.source(value, of)?, b.source(into, of)?);
    instruction.c = b.source(at, Type::U32)?;
    instruction.list = Box::from([b.source(count, Type::U32)?]);
    b.push(statement, instruction);
    Ok(true)
}

/// `bmsk`: bits from `a` on, `b` of them. `szext`: the lowest `b` bits, extended.
fn masks(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    let wraps = op.one_of(&["wrap", "clamp"]).ok_or("a mask needs .wrap or .clamp")? == "wrap";
    let of = single(op)?;
    let alu = match (op.name, wraps, of) {
        ("bmsk", true, _) => binary(|at: u32, count: u32| mask(at & 31, count & 31)),
        ("bmsk", false, _) => binary(|at: u32, count: u32| mask(at.min(32), count.min(32))),
        ("szext", true, Type::U32) => binary(|a: u32, n: u32| a & mask(0, n & 31)),
        ("szext", false, Type::U32) => binary(|a: u32, n: u32| a & mask(0, n.min(32))),
        ("szext", true, Type::S32) => binary(|a: i32, n: u32| extract(u64::from(a as u32), 32, 0, n & 31, true) as u32),
        ("szext", false, Type::S32) => {
            binary(|a: i32, n: u32| extract(u64::from(a as u32), 32, 0, n.min(32), true) as u32)
        }
        _ => return Err("this type is not supported".to_string()),
    };
    b.alu(statement, alu, of, &[of, Type::U32])
}

fn mask(at: u32, count: u32) -> u32 {
    (((1u64 << count) - 1) << at) as u32
}

fn lookup(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    let of = single(op)?;
    let [d, x, y, z, Operand::Integer(table)] = &statement.operands[..] else {
        return Err("lop3 needs three operands and a table".to_string());
    };
    let alu = ternary_immediate(|a: u32, b: u32, c: u32, table| {
        let mut out = 0;
        for entry in 0..8u32 {
            if table >> entry & 1 == 1 {
                let a = if entry & 4 != 0 { a } else { !a };
                let b = if entry & 2 != 0 { b } else { !b };
                let c = if entry & 1 != 0 { c } else { !c };
                out |= a & b & c;
            }
        }
        out
    });
    let instruction = Instruction {
        d: b.destination(d, of)?,
        a: b.source(x, of)?,
        b: b.source(y, of)?,
        c: b.source(z, of)?,
        immediate: *table as i64,
        ..Instruction::new(Action::Alu(alu))
    };
    b.push(statement, instruction);
    Ok(true)
}

fn permute(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    let mode = op.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]);
    if mode.is_some() {
        return Err("prmt with a mode is not supported".to_string());
    }
    single(op)?;
    let alu = ternary(|a: u32, b: u32, select: u32| {
        let all = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
        let byte = |index: u32| {
            let chosen = select >> (4 * index);
            let value = all[(chosen & 7) as usize];
            if chosen & 8 != 0 { if value & 0x80 != 0 { 0xff } else { 0 } } else { value }
        };
        u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
    });
    b.alu(statement, alu, Type::B32, &[Type::B32; 3])
}

fn funnel(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    let left = op.one_of(&["l", "r"]).ok_or("shf needs .l or .r")? == "l";
    let wraps = op.one_of(&["wrap", "clamp"]).ok_or("shf needs .wrap or .clamp")? == "wrap";
    single(op)?;
    let alu = match (left, wraps) {
        (true, true) => {
            ternary(|a: u32, b: u32, n: u32| (((u64::from(b) << 32 | u64::from(a)) << (n & 31)) >> 32) as u32)
        }
        (true, false) => {
            ternary(|a: u32, b: u32, n: u32| (((u64::from(b) << 32 | u64::from(a)) << n.min(32)) >> 32) as u32)
        }
        (false, true) => ternary(|a: u32, b: u32, n: u32| ((u64::from(b) << 32 | u64::from(a)) >> (n & 31)) as u32),
        (false, false) => ternary(|a: u32, b: u32, n: u32| ((u64::from(b) << 32 | u64::from(a)) >> n.min(32)) as u32),
    };
    b.alu(statement, alu, Type::B32, &[Type::B32; 3])
}
