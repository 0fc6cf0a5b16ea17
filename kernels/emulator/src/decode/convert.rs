//! `cvt`.

use super::builder::{Builder, Decoded};
use super::opcode::{Opcode, Type};
use crate::execute::lanewise::*;
use crate::float::*;
use crate::program::{Action, Alu, Instruction};
use crate::registers::LANES;
use crate::registers::Registers;
use crate::syntax::tree::{Statement, Width};
use half::{bf16, f16};

/// What a conversion does, packed into its immediate for the general handler.
#[derive(Clone, Copy)]
struct Conversion {
    to: Type,
    from: Type,
    rounding: Rounding,
    /// To a whole number, kept in a floating-point type.
    whole: bool,
    saturates: bool,
    flushes: bool,
    relu: bool,
    /// The registers are 64 bits wide.
    wide_source: bool,
}

pub(super) fn decode(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    if op.name != "cvt" {
        return Ok(false);
    }
    let types = op.types();
    let rounding = op.one_of(&["rni", "rzi", "rmi", "rpi", "rna", "rn", "rz", "rm", "rp"]);
    let (flushes, saturates, relu) = (op.has("ftz"), op.has("sat"), op.has("relu"));
    let finite = op.has("satfinite");
    if finite {
        return Err("cvt.satfinite is not supported".to_string());
    }
    let [to, from] = types[..] else { return Err("cvt needs two types".to_string()) };
    let whole = rounding.is_some_and(|name| name.ends_with('i'));
    let rounding = match rounding {
        Some("rz" | "rzi") => Rounding::Zero,
        Some("rm" | "rmi") => Rounding::Down,
        Some("rp" | "rpi") => Rounding::Up,
        Some("rna") => Rounding::NearestAway,
        _ => Rounding::Nearest,
    };
    if matches!(to, Type::F16x2 | Type::Bf16x2) {
        return pairs(b, statement, to, rounding, relu);
    }
    let [d, a] = &statement.operands[..] else { return Err("cvt needs two operands".to_string()) };
    let (d, d_width) = b.register(d)?;
    let (a, wide_source) = match b.register(a) {
        Ok((slot, width)) => (slot, width == Width::Double),
        Err(_) => (b.source(a, from)?, from.wide()),
    };
    if from.wide() && !wide_source || to.wide() && d_width != Width::Double {
        return Err("a register is narrower than the type".to_string());
    }
    let wide_target = d_width == Width::Double;
    let plain = !relu && !saturates && !flushes && wide_source == from.wide() && wide_target == to.wide();
    let conversion = Conversion { to, from, rounding, whole, saturates, flushes, relu, wide_source };
    let nearest = rounding == Rounding::Nearest && !whole;
    let alu: Alu = match (to, from) {
        (Type::Bf16, Type::F32) if plain && nearest => unary(|a: f32| bf16_nearest(a)),
        (Type::F16, Type::F32) if plain && nearest => unary(|a: f32| f16_nearest(a)),
        (Type::F32, Type::F16) if plain => unary(|a: f16| canonical(a.to_f32())),
        (Type::F32, Type::Bf16) if plain => unary(|a: bf16| f32::from_bits(u32::from(a.to_bits()) << 16)),
        (Type::F64, Type::F32) if plain => unary(f64_of_f32),
        (Type::F32, Type::F64) if plain && nearest => unary(|a: f64| canonical(a as f32)),
        (Type::F32, Type::S32) if plain && nearest => unary(|a: i32| a as f32),
        (Type::F32, Type::U32) if plain && nearest => unary(|a: u32| a as f32),
        (Type::U64 | Type::S64, Type::U32) if plain => unary(|a: u32| u64::from(a)),
        (Type::U64 | Type::S64, Type::S32) if plain => unary(|a: i32| i64::from(a)),
        (Type::U32 | Type::S32, Type::U64 | Type::S64) if plain => unary(|a: u64| a as u32),
        (Type::U32 | Type::S32, Type::U16) if plain => unary(|a: u16| u32::from(a)),
        (Type::U32 | Type::S32, Type::S16) if plain => unary(|a: i16| i32::from(a)),
        (Type::U32 | Type::S32, Type::U8) if plain => unary(|a: u8| u32::from(a)),
        (Type::U32 | Type::S32, Type::S8) if plain => unary(|a: i8| i32::from(a)),
        _ => general,
    };
    if to.integer() && !from.integer() && !whole {
        return Err("cvt to an integer needs a rounding to a whole number".to_string());
    }
    let immediate = conversion.pack();
    let mut instruction = Instruction { d, a, immediate, ..Instruction::new(Action::Alu(alu)) };
    instruction.b = u32::from(wide_target);
    b.push(statement, instruction);
    Ok(true)
}

fn f64_of_f32(a: f32) -> f64 {
    f64::from(a)
}

/// Two f32 to one register: the first operand to the upper half.
fn pairs(b: &mut Builder<'_>, statement: &Statement, to: Type, rounding: Rounding, relu: bool) -> Decoded<bool> {
    macro_rules! pair {
        (|$x:ident| $one:expr) => {
            binary(|high: f32, low: f32| {
                let one = |$x: f32| -> u16 { $one };
                u32::from(one(high)) << 16 | u32::from(one(low))
            })
        };
    }
    let zero = rounding == Rounding::Zero;
    let alu = match (to, zero, relu) {
        (Type::Bf16x2, false, false) => pair!(|x| bf16_nearest(x).to_bits()),
        (Type::Bf16x2, false, true) => pair!(|x| bf16_nearest(rectify(x)).to_bits()),
        (Type::Bf16x2, true, false) => pair!(|x| narrow(f64::from(x), BF16, Rounding::Zero) as u16),
        (Type::F16x2, false, false) => pair!(|x| f16_nearest(x).to_bits()),
        (Type::F16x2, false, true) => pair!(|x| f16_nearest(rectify(x)).to_bits()),
        (Type::F16x2, true, false) => pair!(|x| narrow(f64::from(x), F16, Rounding::Zero) as u16),
        _ => return Err("this conversion of a pair is not supported".to_string()),
    };
    b.alu(statement, alu, Type::B32, &[Type::F32, Type::F32])
}

fn rectify(value: f32) -> f32 {
    if value.is_nan() { value } else { maximum(value, 0.0, false) }
}

const TYPES: [Type; 18] = [
    Type::B8,
    Type::B16,
    Type::B32,
    Type::B64,
    Type::U8,
    Type::U16,
    Type::U32,
    Type::U64,
    Type::S8,
    Type::S16,
    Type::S32,
    Type::S64,
    Type::F16,
    Type::Bf16,
    Type::Tf32,
    Type::F32,
    Type::F64,
    Type::Predicate,
];

const ROUNDINGS: [Rounding; 5] =
    [Rounding::Nearest, Rounding::NearestAway, Rounding::Zero, Rounding::Down, Rounding::Up];

impl Conversion {
    fn pack(self) -> i64 {
        let place = |of: Type| TYPES.iter().position(|other| *other == of).unwrap_or(0) as i64;
        let rounding = ROUNDINGS.iter().position(|other| *other == self.rounding).unwrap_or(0) as i64;
        place(self.to)
            | place(self.from) << 8
            | rounding << 16
            | i64::from(self.whole) << 24
            | i64::from(self.saturates) << 25
            | i64::from(self.flushes) << 26
            | i64::from(self.relu) << 27
            | i64::from(self.wide_source) << 28
    }

    fn unpack(bits: i64) -> Conversion {
        let flag = |at: u32| bits >> at & 1 == 1;
        Conversion {
            to: TYPES[(bits & 255) as usize],
            from: TYPES[(bits >> 8 & 255) as usize],
            rounding: ROUNDINGS[(bits >> 16 & 255) as usize],
            whole: flag(24),
            saturates: flag(25),
            flushes: flag(26),
            relu: flag(27),
            wide_source: flag(28),
        }
    }

    /// Converts bits; the result is extended to 64 bits.
    fn apply(self, bits: u64) -> u64 {
        match (self.to.integer(), self.from.integer()) {
            (true, true) => self.whole_to_whole(bits),
            (false, true) => self.whole_to_floating(whole(bits, self.from)),
            (true, false) => self.floating_to_whole(self.floating(bits)),
            (false, false) => self.floating_to_floating(self.floating(bits)),
        }
    }

    fn floating(self, bits: u64) -> f64 {
        match self.from {
            Type::F16 => f64::from(f16::from_bits(bits as u16).to_f32()),
            Type::Bf16 => f64::from(bf16::from_bits(bits as u16).to_f32()),
            Type::F64 => f64::from_bits(bits),
            _ => {
                let value = f32::from_bits(bits as u32);
                f64::from(if self.flushes { flush(value) } else { value })
            }
        }
    }

    fn whole_to_whole(self, bits: u64) -> u64 {
        let value = whole(bits, self.from);
        let (least, most) = range(self.to);
        if self.saturates { value.clamp(least, most) as u64 } else { cut(value as u64, self.to) }
    }

    fn whole_to_floating(self, value: i128) -> u64 {
        if self.to == Type::F64 {
            let near = value as f64;
            let rest = value - near as i128;
            return redirect(near, rest as f64, self.rounding).to_bits();
        }
        // To odd, so that the rounding to the narrow type is the only one.
        let near = value as f64;
        let rest = value - near as i128;
        let odd = if rest == 0 || near.to_bits() & 1 == 1 {
            near
        } else if (rest > 0) == (near > 0.0) {
            f64::from_bits(near.to_bits() + 1)
        } else {
            f64::from_bits(near.to_bits() - 1)
        };
        self.finish(odd)
    }

    fn floating_to_whole(self, value: f64) -> u64 {
        let size = self.to.bytes() * 8;
        if value.is_nan() {
            let large = self.from == Type::F64 || size == 64;
            return if large { cut(1 << (size - 1), self.to) } else { 0 };
        }
        let (least, most) = range(self.to);
        let rounded = self.to_whole(value);
        cut((rounded as i128).clamp(least, most) as u64, self.to)
    }

    fn to_whole(self, value: f64) -> f64 {
        match self.rounding {
            Rounding::Nearest => value.round_ties_even(),
            Rounding::NearestAway => value.round(),
            Rounding::Zero => value.trunc(),
            Rounding::Down => value.floor(),
            Rounding::Up => value.ceil(),
        }
    }

    fn floating_to_floating(self, value: f64) -> u64 {
        if self.whole {
            return Conversion { rounding: Rounding::Nearest, ..self }.finish(self.to_whole(value));
        }
        self.finish(value)
    }

    fn finish(self, value: f64) -> u64 {
        let value = if self.saturates { saturate64(value) } else { value };
        let value = if self.relu && value.is_sign_negative() && !value.is_nan() { 0.0 } else { value };
        match self.to {
            Type::F64 => value.to_bits(),
            Type::F16 => u64::from(narrow(value, F16, self.rounding)),
            Type::Bf16 => u64::from(narrow(value, BF16, self.rounding)),
            Type::Tf32 => u64::from(narrow(value, TF32, self.rounding)) << 13,
            _ => {
                let rounded = to_f32(value, self.rounding);
                u64::from(if self.flushes { flush(rounded) } else { rounded }.to_bits())
            }
        }
    }
}

/// The value of an integer of a type.
fn whole(bits: u64, of: Type) -> i128 {
    let unused = 64 - 8 * of.bytes() as u32;
    if of.signed() { i128::from((bits << unused) as i64 >> unused) } else { i128::from(bits << unused >> unused) }
}

/// The least and the largest integer of a type.
fn range(of: Type) -> (i128, i128) {
    let size = 8 * of.bytes() as u32;
    if of.signed() { (-(1 << (size - 1)), (1 << (size - 1)) - 1) } else { (0, (1 << size) - 1) }
}

/// Cuts an integer to a type and extends it as the type says.
fn cut(bits: u64, of: Type) -> u64 {
    whole(bits, of) as u64
}

fn general(registers: &mut Registers, instruction: &Instruction, mask: u32) {
    let conversion = Conversion::unpack(instruction.immediate);
    let bits: [u64; LANES] = if conversion.wide_source {
        registers.read(instruction.a)
    } else {
        registers.read::<u32>(instruction.a).map(u64::from)
    };
    let out = bits.map(|bits| conversion.apply(bits));
    if instruction.b == 1 {
        registers.write(instruction.d, mask, &out);
    } else {
        registers.write(instruction.d, mask, &out.map(|value| value as u32));
    }
}
