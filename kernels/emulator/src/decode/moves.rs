//! Moves, packing, selection, conversions of addresses, special registers that change.

use super::builder::{Builder, Decoded, Symbol};
use super::opcode::{Opcode, Type};
use crate::execute::address::{LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_WINDOW};
use crate::execute::block::Block;
use crate::execute::lanewise::*;
use crate::execute::warp::Warp;
use crate::fault::Done;
use crate::program::{Action, Fixed, Instruction, NONE};
use crate::registers::LANES;
use crate::syntax::tree::{Operand, Statement, Width};

pub(super) fn decode(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    let operands = &statement.operands[..];
    match op.name {
        "mov" => mov(b, op, statement)?,
        "activemask" => {
            op.types();
            let [d] = operands else { return Err("activemask needs one operand".to_string()) };
            let d = b.destination(d, Type::B32)?;
            b.push(statement, Instruction { d, ..Instruction::new(Action::Memory(active_mask)) });
        }
        "selp" => {
            let of = single(op)?;
            let [d, x, y, p] = operands else { return Err("selp needs four operands".to_string()) };
            let instruction = Instruction {
                d: b.destination(d, of)?,
                a: b.source(x, of)?,
                b: b.source(y, of)?,
                c: b.predicate(p)?,
                ..Instruction::new(Action::Alu(if of.wide() { select::<u64>() } else { select::<u32>() }))
            };
            b.push(statement, instruction);
        }
        "slct" => {
            let types = op.types();
            op.ignore(&["ftz"]);
            let [of, by] = types[..] else { return Err("slct needs two types".to_string()) };
            let [d, x, y, c] = operands else { return Err("slct needs four operands".to_string()) };
            let alu = match (of.wide(), by) {
                (false, Type::S32) => ternary(|a: u32, b: u32, c: i32| if c >= 0 { a } else { b }),
                (true, Type::S32) => ternary(|a: u64, b: u64, c: i32| if c >= 0 { a } else { b }),
                (false, Type::F32) => ternary(|a: u32, b: u32, c: f32| if c >= 0.0 { a } else { b }),
                (true, Type::F32) => ternary(|a: u64, b: u64, c: f32| if c >= 0.0 { a } else { b }),
                _ => return Err("slct by this type is not supported".to_string()),
            };
            let instruction = Instruction {
                d: b.destination(d, of)?,
                a: b.source(x, of)?,
                b: b.source(y, of)?,
                c: b.source(c, by)?,
                ..Instruction::new(Action::Alu(alu))
            };
            b.push(statement, instruction);
        }
        "cvta" => cvta(b, op, statement)?,
        "isspacep" => {
            let space =
                op.one_of(&["global", "shared", "local", "param", "const"]).ok_or("this space is not supported")?;
            op.ignore(&["shared::cta"]);
            let [d, a] = operands else { return Err("isspacep needs two operands".to_string()) };
            let alu = match space {
                "shared" => test(|a: u64| a >> 56 == 1),
                "local" => test(|a: u64| a >> 56 == 2),
                "param" => test(|a: u64| a >> 56 == 3),
                "global" => test(|a: u64| a >> 56 == 0),
                _ => return Err("isspacep.const is not supported".to_string()),
            };
            let instruction = Instruction {
                d: b.predicate(d)? >> 1,
                a: b.source(a, Type::U64)?,
                ..Instruction::new(Action::Alu(alu))
            };
            b.push(statement, instruction);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// The only type of an opcode.
pub(super) fn single(op: &Opcode<'_>) -> Decoded<Type> {
    match op.types()[..] {
        [of] => Ok(of),
        _ => Err(format!("'{}' needs one type", op.name)),
    }
}

fn mov(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<()> {
    let of = single(op)?;
    let [d, a] = &statement.operands[..] else { return Err("mov needs two operands".to_string()) };
    let mut instruction = Instruction::new(Action::Nothing);
    match (d, a) {
        (_, _) if of == Type::Predicate => {
            instruction.d = b.predicate(d)? >> 1;
            instruction.a = b.predicate(a)?;
            instruction.b = instruction.a;
            instruction.action = Action::Alu(logic(|a, _| a));
        }
        (d, Operand::Vector(parts)) => {
            instruction.d = b.destination(d, of)?;
            instruction.immediate = (of.bytes() * 8 / parts.len()) as i64;
            let part = part_type(of, parts.len())?;
            instruction.list = parts.iter().map(|part_of| b.source(part_of, part)).collect::<Decoded<_>>()?;
            instruction.action = Action::Alu(pack);
        }
        (Operand::Vector(parts), a) => {
            instruction.a = b.source(a, of)?;
            instruction.immediate = (of.bytes() * 8 / parts.len()) as i64;
            let part = part_type(of, parts.len())?;
            let one = |part_of: &Operand, b: &mut Builder<'_>| {
                if *part_of == Operand::Sink { Ok(NONE) } else { b.destination(part_of, part) }
            };
            instruction.list = parts.iter().map(|part_of| one(part_of, b)).collect::<Decoded<_>>()?;
            instruction.action = Action::Alu(unpack);
        }
        (d, Operand::Name(name)) if matches!(&name[..], "%clock" | "%clock_hi" | "%clock64" | "%globaltimer") => {
            let (slot, width) = b.register(d)?;
            instruction.d = slot;
            instruction.immediate = i64::from(width == Width::Double);
            instruction.action = Action::Memory(clock);
        }
        (d, a) => {
            instruction.d = b.destination(d, of)?;
            instruction.a = b.source(a, of)?;
            let alu = if of.wide() { unary(|a: u64| a) } else { unary(|a: u32| a) };
            instruction.action = Action::Alu(alu);
        }
    }
    b.push(statement, instruction);
    Ok(())
}

fn part_type(of: Type, parts: usize) -> Decoded<Type> {
    match of.bytes() / parts {
        1 => Ok(Type::B8),
        2 => Ok(Type::B16),
        4 => Ok(Type::B32),
        _ => Err("this packing is not supported".to_string()),
    }
}

/// Executed instructions as a clock: it goes forward, and is the same in every run.
fn clock(_: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    let now = warp.executed;
    if instruction.immediate == 1 {
        warp.registers.write(instruction.d, mask, &[now; LANES]);
    } else {
        warp.registers.write(instruction.d, mask, &[now as u32; LANES]);
    }
    Ok(())
}

fn active_mask(_: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    warp.registers.write(instruction.d, mask, &[mask; LANES]);
    Ok(())
}

fn cvta(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<()> {
    let to = op.has("to");
    let space = op.one_of(&["global", "shared::cta", "shared", "local", "param", "const"]);
    let space = space.ok_or("this space is not supported")?;
    let of = single(op)?;
    let [d, a] = &statement.operands[..] else { return Err("cvta needs two operands".to_string()) };
    if !of.wide() {
        return Err("cvta of 32-bit addresses is not supported".to_string());
    }
    let window = match space {
        "shared" | "shared::cta" => SHARED_WINDOW,
        "local" => LOCAL_WINDOW,
        "param" => PARAMETER_WINDOW,
        _ => 0,
    };
    // The address of a variable may be written in place of a register that holds it.
    let a = match a {
        Operand::Name(name) if matches!(b.symbol(name), Some(Symbol::Module(_))) && window != 0 => {
            return Err("the variable is not in this space".to_string());
        }
        a => b.source(a, of)?,
    };
    let mut instruction = Instruction { d: b.destination(d, of)?, a, ..Instruction::new(Action::Nothing) };
    instruction.b = b.fixed(Fixed::Value(window), true);
    instruction.action = Action::Alu(match (window, to) {
        (0, _) => unary(|a: u64| a),
        (_, true) => binary(|a: u64, window: u64| a.wrapping_sub(window)),
        (_, false) => binary(|a: u64, window: u64| a.wrapping_add(window)),
    });
    b.push(statement, instruction);
    Ok(())
}
