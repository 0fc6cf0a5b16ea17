//! Loads, stores, atomic operations and asynchronous copies.

use super::builder::{Builder, Decoded, Symbol};
use super::opcode::{Opcode, Type};
use crate::execute::address::{Access, Region};
use crate::execute::atomic::{self, Operation};
use crate::execute::copy::{self, SOURCE_WIDE, TARGET_GENERIC, TARGET_WIDE};
use crate::execute::transfer::{load, pack_register, store};
use crate::program::{Action, Effect, Fixed, Instruction, NONE};
use crate::syntax::tree::{Operand, Statement, Width};

pub(super) fn decode(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    match op.name {
        "ld" | "ldu" => transfer(b, op, statement, true)?,
        "st" => transfer(b, op, statement, false)?,
        "atom" => atomic_operation(b, op, statement, true)?,
        "red" => atomic_operation(b, op, statement, false)?,
        "cp" => return copies(b, op, statement),
        _ => return Ok(false),
    }
    Ok(true)
}

/// The space that an opcode names; generic if none.
fn region(op: &Opcode<'_>) -> Region {
    match op.one_of(&["global", "const", "shared::cta", "shared", "local", "param::entry", "param::func", "param"]) {
        Some("global" | "const") => Region::Global,
        Some("shared" | "shared::cta") => Region::Shared,
        Some("local") => Region::Local,
        Some(_) => Region::Parameter,
        None => Region::Generic,
    }
}

/// Modifiers of caches, scopes and orders; whether one of them orders the access.
fn strong(op: &Opcode<'_>) -> bool {
    op.ignore(&["weak", "nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "cta", "gpu", "sys", "gl", "cluster"]);
    op.ignore_prefix("L1::");
    op.ignore_prefix("L2::");
    let relaxed = op.one_of(&["volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"]).is_some();
    op.ignore(&["volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"]);
    relaxed
}

/// An address operand: its base row, whether that is wide, its offset, and the region it turns out to be in.
fn address(b: &mut Builder<'_>, operand: &Operand, region: Region) -> Decoded<(u32, bool, i64, Region)> {
    let Operand::Address(base, offset) = operand else { return Err("an operand is not an address".to_string()) };
    match &**base {
        Operand::Integer(value) => Ok((NONE, true, (*value as i64).wrapping_add(*offset), region)),
        Operand::Name(name) => match b.symbol(name) {
            Some(Symbol::Register { slot, width }) => Ok((slot, width == Width::Double, *offset, region)),
            Some(Symbol::Shared(at)) if region == Region::Shared => Ok((NONE, true, at as i64 + offset, region)),
            Some(Symbol::Local(at)) if region == Region::Local => Ok((NONE, true, at as i64 + offset, region)),
            Some(Symbol::Parameter(at)) if region == Region::Parameter => Ok((NONE, true, at as i64 + offset, region)),
            Some(Symbol::Frame(at)) if region == Region::Parameter => {
                Ok((NONE, true, at as i64 + offset, Region::Frame))
            }
            Some(Symbol::DynamicShared) if region == Region::Shared => {
                let slot = b.fixed(Fixed::DynamicShared(0), true);
                Ok((slot, true, *offset, region))
            }
            Some(Symbol::Module(at)) if matches!(region, Region::Global | Region::Generic) => {
                let slot = b.fixed(Fixed::Module(at), true);
                Ok((slot, true, *offset, region))
            }
            Some(_) => Err(format!("'{name}' is not in this space")),
            None => Err(format!("'{name}' is not declared")),
        },
        _ => Err("this address is not supported".to_string()),
    }
}

fn transfer(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement, loads: bool) -> Decoded<()> {
    let region = region(op);
    let strong = strong(op);
    let count = match op.one_of(&["v2", "v4", "v8"]) {
        Some("v2") => 2,
        Some("v4") => 4,
        Some(_) => 8,
        None => 1,
    };
    let of = super::moves::single(op)?;
    let (address_operand, value) = match &statement.operands[..] {
        [value, address] if loads => (address, value),
        [address, value] if !loads => (address, value),
        // A hint for the cache.
        [_, _, _] if op.unused() == Some("L2::cache_hint") => return Err("cache hints are not supported".to_string()),
        _ => return Err("a load or store needs two operands".to_string()),
    };
    let (a, wide, immediate, region) = address(b, address_operand, region)?;
    let values = match value {
        Operand::Vector(values) => &values[..],
        value => std::slice::from_ref(value),
    };
    if values.len() != count {
        return Err(format!("{} registers for {count} values", values.len()));
    }
    let mut list = Vec::new();
    for value in values {
        list.push(if loads {
            if *value == Operand::Sink {
                NONE
            } else {
                let (slot, width) = b.register(value)?;
                if of.wide() && width != Width::Double {
                    return Err("the register is narrower than the type".to_string());
                }
                pack_register(slot, width == Width::Double)
            }
        } else {
            match b.register(value) {
                Ok((_, Width::Word | Width::Half)) if of.wide() => {
                    return Err("the register is narrower than the type".to_string());
                }
                Ok((slot, width)) => pack_register(slot, width == Width::Double),
                Err(_) => pack_register(b.source(value, of)?, of.wide()),
            }
        });
    }
    if region == Region::Frame {
        b.note_frame_access();
    }
    let access =
        Access { region, wide, strong, signed: of.signed() && loads, bytes: of.bytes() as u8, count: count as u8 };
    let action = Action::Memory(if loads { load } else { store });
    let list = list.into_boxed_slice();
    b.push(statement, Instruction { a, b: access.pack(), immediate, list, ..Instruction::new(action) });
    Ok(())
}

fn atomic_operation(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement, returns: bool) -> Decoded<()> {
    op.ignore(&["noftz"]);
    let region = region(op);
    strong(op);
    let name = op.one_of(&["add", "min", "max", "cas", "exch", "and", "or", "xor", "inc", "dec"]);
    let name = name.ok_or("this atomic operation is not supported")?;
    let of = super::moves::single(op)?;
    let operation = Operation::new(name, of).ok_or("this atomic operation is not supported on this type")?;
    let (d, rest) = match &statement.operands[..] {
        [d, rest @ ..] if returns => {
            let d = if *d == Operand::Sink { b.new_row(of.wide()) } else { b.destination(d, of)? };
            (d, rest)
        }
        rest => (NONE, rest),
    };
    let (at, first, second) = match rest {
        [at, first] if name != "cas" => (at, first, None),
        [at, first, second] if name == "cas" => (at, first, Some(second)),
        _ => return Err("the number of operands is wrong".to_string()),
    };
    let (a, wide, immediate, region) = address(b, at, region)?;
    let access = Access { region, wide, strong: true, signed: false, bytes: of.bytes() as u8, count: 1 };
    let first = b.source(first, of)?;
    let second = match second {
        Some(second) => b.source(second, of)?,
        None => first,
    };
    let list = Box::from([first, second, operation.pack()]);
    let action = Action::Memory(atomic::run);
    b.push(statement, Instruction { d, a, b: access.pack(), immediate, list, ..Instruction::new(action) });
    Ok(())
}

fn copies(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    if !op.has("async") {
        return Ok(false);
    }
    let simple = |b: &mut Builder<'_>, effect: Effect, immediate| {
        b.push(statement, Instruction { immediate, ..Instruction::new(Action::Memory(effect)) });
        Ok(true)
    };
    match op.one_of(&["commit_group", "wait_group", "wait_all", "ca", "cg"]) {
        Some("commit_group") => return simple(b, copy::commit, 0),
        Some("wait_all") => return simple(b, copy::wait, -1),
        Some("wait_group") => {
            let [Operand::Integer(pending)] = statement.operands[..] else {
                return Err("cp.async.wait_group needs a number".to_string());
            };
            return simple(b, copy::wait, pending as i64);
        }
        Some(_) => {}
        None => return Ok(false),
    }
    let shared = op.one_of(&["shared", "shared::cta"]).is_some();
    op.ignore(&["global"]);
    op.ignore_prefix("L2::");
    let (target, source, size, taken) = match &statement.operands[..] {
        [target, source, Operand::Integer(size)] => (target, source, *size, None),
        [target, source, Operand::Integer(size), taken] => (target, source, *size, Some(taken)),
        _ => return Err("cp.async needs two addresses and a size".to_string()),
    };
    if !matches!(size, 4 | 8 | 16) {
        return Err("cp.async copies 4, 8 or 16 bytes".to_string());
    }
    let target = address(b, target, if shared { Region::Shared } else { Region::Generic })?;
    let source = address(b, source, Region::Global)?;
    let mut instruction = Instruction::new(Action::Memory(copy::issue));
    (instruction.a, instruction.immediate, instruction.b) = (target.0, target.2, source.0);
    instruction.d = if target.1 { TARGET_WIDE } else { 0 }
        | if source.1 { SOURCE_WIDE } else { 0 }
        | if shared { 0 } else { TARGET_GENERIC };
    if let Some(taken) = taken {
        let predicate = matches!(taken, Operand::Name(name) if matches!(b.symbol(name), Some(Symbol::Predicate(_))));
        if predicate {
            return Err("cp.async with a predicate to ignore the source is not supported".to_string());
        }
        instruction.c = b.source(taken, Type::U32)?;
    }
    let offset = i32::try_from(source.2).map_err(|_| "the offset of the source is too large")?;
    instruction.list = Box::from([offset as u32, size as u32]);
    b.push(statement, instruction);
    Ok(true)
}
