//! Arithmetic on f16 and bf16, one or two to a register.

use super::builder::{Builder, Decoded};
use super::opcode::{Opcode, Type};
use crate::execute::lanewise::*;
use crate::float::*;
use crate::program::Alu;
use crate::syntax::tree::Statement;
use half::{bf16, f16};

/// A 16-bit format, as the bits in a register.
trait Half: Copy {
    fn value(bits: u16) -> f64;
    fn round(value: f64) -> u16;
}

#[derive(Clone, Copy)]
struct AsF16;

#[derive(Clone, Copy)]
struct AsBf16;

impl Half for AsF16 {
    fn value(bits: u16) -> f64 {
        f64::from(f16::from_bits(bits).to_f32())
    }
    fn round(value: f64) -> u16 {
        narrow(value, F16, Rounding::Nearest) as u16
    }
}

impl Half for AsBf16 {
    fn value(bits: u16) -> f64 {
        f64::from(bf16::from_bits(bits).to_f32())
    }
    fn round(value: f64) -> u16 {
        narrow(value, BF16, Rounding::Nearest) as u16
    }
}

fn is_nan<H: Half>(bits: u16) -> bool {
    H::value(bits).is_nan()
}

/// The smaller or larger of two, by [`minimum`]'s rules, without rounding.
fn least<H: Half>(a: u16, b: u16, nan: bool, greatest: bool) -> u16 {
    match (is_nan::<H>(a), is_nan::<H>(b)) {
        (true, true) => return 0x7fff,
        (true, _) | (_, true) if nan => return 0x7fff,
        (true, false) => return b,
        (false, true) => return a,
        _ => {}
    }
    let (x, y) = (H::value(a), H::value(b));
    if x == y {
        return if greatest { a & b } else { a | b };
    }
    if (x < y) != greatest { a } else { b }
}

/// Clamps to 0 to 1; NaN becomes 0.
fn unit<H: Half>(bits: u16) -> u16 {
    H::round(saturate64(H::value(bits)))
}

/// Negative becomes zero, and NaN the device's.
fn rectified<H: Half>(bits: u16) -> u16 {
    if is_nan::<H>(bits) {
        0x7fff
    } else if bits >> 15 == 1 {
        0
    } else {
        bits
    }
}

/// The operation on one and on two halves.
macro_rules! halves {
    ($two:expr, $combine:ident, |$($x:ident),*| $body:expr) => {
        if $two {
            $combine(|$($x: u32),*| {
                let low = { $(let $x = $x as u16;)* $body };
                let high = { $(let $x = ($x >> 16) as u16;)* $body };
                u32::from(high) << 16 | u32::from(low)
            })
        } else {
            $combine(|$($x: u16),*| $body)
        }
    };
}

pub(super) fn decode(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    match op.name {
        "add" | "sub" | "mul" | "fma" | "abs" | "neg" | "min" | "max" | "ex2" | "tanh" => {}
        _ => return Ok(false),
    }
    let types = op.types();
    let (alu, of, count) = match types[..] {
        [of @ (Type::F16 | Type::F16x2)] => {
            let (alu, count) = operation::<AsF16>(op, of == Type::F16x2)?;
            (alu, of, count)
        }
        [of @ (Type::Bf16 | Type::Bf16x2)] => {
            let (alu, count) = operation::<AsBf16>(op, of == Type::Bf16x2)?;
            (alu, of, count)
        }
        _ => return Ok(false),
    };
    b.alu(statement, alu, of, &[of, of, of][..count])
}

fn operation<H: Half>(op: &Opcode<'_>, two: bool) -> Decoded<(Alu, usize)> {
    op.ignore(&["rn", "approx"]);
    if op.has("ftz") && !matches!(op.name, "ex2" | "tanh") {
        return Err("flushing of halves is not supported".to_string());
    }
    let nan = op.has("NaN");
    if op.has("xorsign") {
        return Err("min and max with the sign of both are not supported".to_string());
    }
    let saturates = op.has("sat");
    let relu = op.has("relu");
    if saturates {
        return Ok(match op.name {
            "add" => (halves!(two, binary, |a, b| unit::<H>(H::round(add_odd(H::value(a), H::value(b))))), 2),
            "sub" => (halves!(two, binary, |a, b| unit::<H>(H::round(add_odd(H::value(a), -H::value(b))))), 2),
            "mul" => (halves!(two, binary, |a, b| unit::<H>(H::round(H::value(a) * H::value(b)))), 2),
            "fma" => (
                halves!(two, ternary, |a, b, c| {
                    unit::<H>(H::round(fma_odd(H::value(a), H::value(b), H::value(c))))
                }),
                3,
            ),
            _ => return Err("saturation is not supported here".to_string()),
        });
    }
    if relu {
        return Ok(match op.name {
            "fma" => (
                halves!(two, ternary, |a, b, c| {
                    rectified::<H>(H::round(fma_odd(H::value(a), H::value(b), H::value(c))))
                }),
                3,
            ),
            _ => return Err("rectification is not supported here".to_string()),
        });
    }
    Ok(match op.name {
        "add" => (halves!(two, binary, |a, b| H::round(add_odd(H::value(a), H::value(b)))), 2),
        "sub" => (halves!(two, binary, |a, b| H::round(add_odd(H::value(a), -H::value(b)))), 2),
        "mul" => (halves!(two, binary, |a, b| H::round(H::value(a) * H::value(b))), 2),
        "fma" => (halves!(two, ternary, |a, b, c| H::round(fma_odd(H::value(a), H::value(b), H::value(c)))), 3),
        "abs" => (halves!(two, unary, |a| a & 0x7fff), 1),
        "neg" => (halves!(two, unary, |a| a ^ 0x8000), 1),
        "min" if nan => (halves!(two, binary, |a, b| least::<H>(a, b, true, false)), 2),
        "max" if nan => (halves!(two, binary, |a, b| least::<H>(a, b, true, true)), 2),
        "min" => (halves!(two, binary, |a, b| least::<H>(a, b, false, false)), 2),
        "max" => (halves!(two, binary, |a, b| least::<H>(a, b, false, true)), 2),
        "ex2" => (halves!(two, unary, |a| H::round(H::value(a).exp2())), 1),
        "tanh" => (halves!(two, unary, |a| H::round(H::value(a).tanh())), 1),
        _ => return Err("this operation on halves is not supported".to_string()),
    })
}
