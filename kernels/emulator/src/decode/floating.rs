//! Arithmetic on f32 and f64.

use super::builder::{Builder, Decoded};
use super::opcode::{Opcode, Type};
use crate::execute::lanewise::*;
use crate::float::*;
use crate::program::Alu;
use crate::syntax::tree::Statement;

/// An f32 operation: canonical NaN, then as the modifiers say.
macro_rules! f32s {
    ($flushes:expr, $saturates:expr, $combine:ident, |$($x:ident),*| $body:expr) => {
        match ($flushes, $saturates) {
            (false, false) => $combine(|$($x: f32),*| canonical($body)),
            (false, true) => $combine(|$($x: f32),*| saturate($body)),
            (true, false) => $combine(|$($x: f32),*| { $(let $x = flush($x);)* flush(canonical($body)) }),
            (true, true) => $combine(|$($x: f32),*| { $(let $x = flush($x);)* saturate(flush($body)) }),
        }
    };
}

/// An f32 operation that is exact in f64 up to its last rounding, in one of the directed roundings.
macro_rules! directed {
    ($rounding:expr, $flushes:expr, $saturates:expr, $combine:ident, |$($x:ident),*| $body:expr) => {
        match $rounding {
            Rounding::Zero => f32s!($flushes, $saturates, $combine, |$($x),*| {
                $(let $x = f64::from($x);)* to_f32($body, Rounding::Zero)
            }),
            Rounding::Down => f32s!($flushes, $saturates, $combine, |$($x),*| {
                $(let $x = f64::from($x);)* to_f32($body, Rounding::Down)
            }),
            _ => f32s!($flushes, $saturates, $combine, |$($x),*| {
                $(let $x = f64::from($x);)* to_f32($body, Rounding::Up)
            }),
        }
    };
}

pub(super) fn decode(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    match op.name {
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "sqrt" | "rcp" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos"
        | "tanh" | "abs" | "neg" | "min" | "max" | "copysign" => {}
        _ => return Ok(false),
    }
    let types = op.types();
    let of = match types[..] {
        [of @ (Type::F32 | Type::F64)] => of,
        _ => return Ok(false),
    };
    let flushes = op.has("ftz");
    let saturates = op.has("sat");
    let approximate = op.has("approx");
    let full = op.has("full");
    let rounding = match op.one_of(&["rn", "rz", "rm", "rp"]) {
        Some("rz") => Rounding::Zero,
        Some("rm") => Rounding::Down,
        Some("rp") => Rounding::Up,
        _ => Rounding::Nearest,
    };
    let nearest = rounding == Rounding::Nearest;
    let (alu, count) = match (of, nearest) {
        (Type::F32, true) => single_precision(op, flushes, saturates, approximate || full)?,
        (Type::F32, false) => directed_single(op, rounding, flushes, saturates)?,
        (_, true) => double_precision(op, saturates, approximate)?,
        (_, false) => directed_double(op, rounding)?,
    };
    b.alu(statement, alu, of, &[of, of, of][..count])
}

fn single_precision(op: &Opcode<'_>, ftz: bool, sat: bool, approximate: bool) -> Decoded<(Alu, usize)> {
    let nan = matches!(op.name, "min" | "max") && op.has("NaN");
    let absolute = matches!(op.name, "min" | "max") && op.has("xorsign");
    if absolute {
        return Err("min and max with the sign of both are not supported".to_string());
    }
    Ok(match op.name {
        "add" => (f32s!(ftz, sat, binary, |a, b| a + b), 2),
        "sub" => (f32s!(ftz, sat, binary, |a, b| a - b), 2),
        "mul" => (f32s!(ftz, sat, binary, |a, b| a * b), 2),
        "fma" | "mad" if !ftz && !sat => (fused_f32(), 3),
        "fma" | "mad" => (f32s!(ftz, sat, ternary, |a, b, c| a.mul_add(b, c)), 3),
        "div" => (f32s!(ftz, sat, binary, |a, b| a / b), 2),
        "sqrt" => (f32s!(ftz, sat, unary, |a| a.sqrt()), 1),
        "rcp" => (f32s!(ftz, sat, unary, |a| 1.0 / a), 1),
        "rsqrt" => (
            f32s!(ftz, sat, unary, |a| {
                if a == 0.0 { f32::INFINITY.copysign(a) } else { (1.0 / f64::from(a).sqrt()) as f32 }
            }),
            1,
        ),
        "ex2" => (f32s!(ftz, sat, unary, |a| f64::from(a).exp2() as f32), 1),
        "lg2" => (f32s!(ftz, sat, unary, |a| f64::from(a).log2() as f32), 1),
        "sin" => (f32s!(ftz, sat, unary, |a| f64::from(a).sin() as f32), 1),
        "cos" => (f32s!(ftz, sat, unary, |a| f64::from(a).cos() as f32), 1),
        "tanh" if approximate => (f32s!(ftz, sat, unary, |a| f64::from(a).tanh() as f32), 1),
        // The sign of a NaN changes too, so these are operations on bits.
        "abs" if ftz => (unary(|a: f32| flush(a.abs())), 1),
        "abs" => (unary(|a: f32| a.abs()), 1),
        "neg" if ftz => (unary(|a: f32| flush(-a)), 1),
        "neg" => (unary(|a: f32| -a), 1),
        "copysign" => (binary(|a: f32, b: f32| b.copysign(a)), 2),
        "min" if nan => (f32s!(ftz, false, binary, |a, b| minimum(a, b, true)), 2),
        "max" if nan => (f32s!(ftz, false, binary, |a, b| maximum(a, b, true)), 2),
        "min" => (f32s!(ftz, false, binary, |a, b| minimum(a, b, false)), 2),
        "max" => (f32s!(ftz, false, binary, |a, b| maximum(a, b, false)), 2),
        _ => return Err("this operation on f32 is not supported".to_string()),
    })
}

fn directed_single(op: &Opcode<'_>, rounding: Rounding, ftz: bool, sat: bool) -> Decoded<(Alu, usize)> {
    Ok(match op.name {
        "add" => (directed!(rounding, ftz, sat, binary, |a, b| add_odd(a, b)), 2),
        "sub" => (directed!(rounding, ftz, sat, binary, |a, b| add_odd(a, -b)), 2),
        "mul" => (directed!(rounding, ftz, sat, binary, |a, b| a * b), 2),
        "fma" | "mad" => (directed!(rounding, ftz, sat, ternary, |a, b, c| add_odd(a * b, c)), 3),
        "div" => (directed!(rounding, ftz, sat, binary, |a, b| div_odd(a, b)), 2),
        "sqrt" => (directed!(rounding, ftz, sat, unary, |a| sqrt_odd(a)), 1),
        "rcp" => (directed!(rounding, ftz, sat, unary, |a| div_odd(1.0, a)), 1),
        _ => return Err("this rounding is not supported here".to_string()),
    })
}

fn double_precision(op: &Opcode<'_>, saturates: bool, approximate: bool) -> Decoded<(Alu, usize)> {
    if saturates {
        let alu = match op.name {
            "add" => (binary(|a: f64, b: f64| saturate64(a + b)), 2),
            _ => return Err("saturation of f64 is not supported here".to_string()),
        };
        return Ok(alu);
    }
    Ok(match op.name {
        "add" => (binary(|a: f64, b: f64| a + b), 2),
        "sub" => (binary(|a: f64, b: f64| a - b), 2),
        "mul" => (binary(|a: f64, b: f64| a * b), 2),
        "fma" | "mad" => (ternary(|a: f64, b: f64, c: f64| a.mul_add(b, c)), 3),
        "div" => (binary(|a: f64, b: f64| a / b), 2),
        "sqrt" => (unary(|a: f64| a.sqrt()), 1),
        // The device's approximations are of 20 bits of the significand, flushed.
        "rcp" if approximate => (unary(|a: f64| f64::from_bits((1.0 / a).to_bits() & !0xffff_ffff)), 1),
        "rsqrt" if approximate => (unary(|a: f64| f64::from_bits((1.0 / a.sqrt()).to_bits() & !0xffff_ffff)), 1),
        "rcp" => (unary(|a: f64| 1.0 / a), 1),
        "abs" => (unary(|a: f64| a.abs()), 1),
        "neg" => (unary(|a: f64| -a), 1),
        "copysign" => (binary(|a: f64, b: f64| b.copysign(a)), 2),
        "min" => (binary(|a: f64, b: f64| a.min(b)), 2),
        "max" => (binary(|a: f64, b: f64| a.max(b)), 2),
        _ => return Err("this operation on f64 is not supported".to_string()),
    })
}

macro_rules! doubles {
    ($rounding:expr, |$a:ident, $b:ident| $value:expr, $rest:expr) => {
        match $rounding {
            Rounding::Zero => binary(|$a: f64, $b: f64| redirect($value, $rest, Rounding::Zero)),
            Rounding::Down => binary(|$a: f64, $b: f64| redirect($value, $rest, Rounding::Down)),
            _ => binary(|$a: f64, $b: f64| redirect($value, $rest, Rounding::Up)),
        }
    };
}

fn directed_double(op: &Opcode<'_>, rounding: Rounding) -> Decoded<(Alu, usize)> {
    Ok(match op.name {
        "add" => (doubles!(rounding, |a, b| a + b, add_rest(a, b)), 2),
        "sub" => (doubles!(rounding, |a, b| a - b, add_rest(a, -b)), 2),
        "mul" => (doubles!(rounding, |a, b| a * b, a.mul_add(b, -(a * b))), 2),
        _ => return Err("this rounding of f64 is not supported here".to_string()),
    })
}
