//! `mma.sync` and `ldmatrix`.

use super::builder::{Builder, Decoded};
use super::opcode::{Opcode, Type};
use crate::execute::matrix::{self, Shape};
use crate::program::{Action, Instruction, Members};
use crate::syntax::tree::{Operand, Statement, Width};

pub(super) fn decode(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    match op.name {
        "mma" => multiply(b, op, statement),
        "ldmatrix" => load(b, op, statement),
        _ => Ok(false),
    }
}

fn vector(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(parts) => parts,
        one => std::slice::from_ref(one),
    }
}

fn multiply(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    op.ignore(&["sync", "aligned", "row", "col"]);
    let shape = op.one_of(&["m16n8k16", "m16n8k8", "m16n8k4"]).ok_or("this shape of mma is not supported")?;
    let types = op.types();
    let [to, left, right, from] = types[..] else { return Err("mma needs four types".to_string()) };
    if left != right || to != from {
        return Err("this mixture of types is not supported".to_string());
    }
    let depth = match shape {
        "m16n8k16" => 16,
        "m16n8k8" => 8,
        _ => 4,
    };
    let possible = match (left, to) {
        (Type::F16, Type::F32 | Type::F16) => depth >= 8,
        (Type::Bf16, Type::F32) => depth >= 8,
        (Type::Tf32, Type::F32) => depth <= 8,
        _ => false,
    };
    if !possible {
        return Err("mma of these types and this shape is not supported".to_string());
    }
    let [d, x, y, c] = &statement.operands[..] else { return Err("mma needs four operands".to_string()) };
    let shape = Shape { depth, element: left, accumulator: to };
    let counts = shape.registers();
    let mut list = Vec::new();
    for (index, (operand, count)) in [d, x, y, c].into_iter().zip(counts).enumerate() {
        let parts = vector(operand);
        if parts.len() != count {
            return Err(format!("{} registers where mma takes {count}", parts.len()));
        }
        for part in parts {
            list.push(if index == 0 { b.destination(part, Type::B32)? } else { b.source(part, Type::B32)? });
        }
    }
    let action = Action::Collective(matrix::multiply, Members::Live);
    let list = list.into_boxed_slice();
    b.push(statement, Instruction { immediate: shape.pack(), list, ..Instruction::new(action) });
    Ok(true)
}

fn load(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    op.ignore(&["sync", "aligned", "m8n8", "b16"]);
    let count = match op.one_of(&["x1", "x2", "x4"]) {
        Some("x1") => 1,
        Some("x2") => 2,
        Some(_) => 4,
        None => return Err("ldmatrix needs a number of matrices".to_string()),
    };
    let transposed = op.has("trans");
    let shared = op.one_of(&["shared", "shared::cta"]).is_some();
    let [d, Operand::Address(base, offset)] = &statement.operands[..] else {
        return Err("ldmatrix needs registers and an address".to_string());
    };
    let parts = vector(d);
    if parts.len() != count {
        return Err(format!("{} registers for {count} matrices", parts.len()));
    }
    let list = parts.iter().map(|part| b.destination(part, Type::B32)).collect::<Decoded<Box<[u32]>>>()?;
    let (a, wide) = match b.register(base) {
        Ok((slot, width)) => (slot, width == Width::Double),
        Err(_) => (b.source(base, Type::U64)?, true),
    };
    let flags = u32::from(wide) | u32::from(transposed) << 1 | u32::from(!shared) << 2;
    let action = Action::Collective(matrix::load, Members::Live);
    b.push(statement, Instruction { a, b: flags, immediate: *offset, list, ..Instruction::new(action) });
    Ok(true)
}
