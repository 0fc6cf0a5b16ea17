//! Branches, calls, ends, barriers of the block, fences.

use super::builder::{Builder, Decoded, Symbol};
use super::opcode::{Opcode, Type};
use crate::program::{Action, Barrier, Instruction, NONE, Reduction};
use crate::syntax::tree::{Operand, Statement};

pub(super) fn decode<'a>(b: &mut Builder<'a>, op: &Opcode<'_>, statement: &'a Statement) -> Decoded<bool> {
    let operands = &statement.operands[..];
    match op.name {
        "bra" => {
            op.ignore(&["uni"]);
            let [Operand::Name(target)] = operands else { return Err("a branch needs a label".to_string()) };
            let target = b.label(target)?;
            b.push(statement, Instruction::new(Action::Branch(target)));
        }
        "brx" => {
            op.ignore(&["idx", "uni"]);
            let [index, Operand::Name(targets)] = operands else {
                return Err("brx.idx needs an index and a list of targets".to_string());
            };
            let a = b.source(index, Type::U32)?;
            let list = b.targets(targets)?;
            b.push(statement, Instruction { a, list, ..Instruction::new(Action::BranchIndexed) });
        }
        "call" => {
            op.ignore(&["uni"]);
            let (results, rest) = match operands {
                [Operand::List(results), rest @ ..] => (&results[..], rest),
                rest => (&[][..], rest),
            };
            let (name, arguments) = match rest {
                [Operand::Name(name)] => (name, &[][..]),
                [Operand::Name(name), Operand::List(arguments)] => (name, &arguments[..]),
                _ => return Err("an indirect call is not supported".to_string()),
            };
            if matches!(b.symbol(name), Some(Symbol::Register { .. })) {
                return Err("an indirect call is not supported".to_string());
            }
            if name == "__assertfail" {
                let trap = Action::Trap("a device assertion failed");
                b.push(statement, Instruction::new(trap));
            } else {
                b.call(results, name, arguments)?;
            }
        }
        "ret" => {
            op.ignore(&["uni"]);
            let action = b.return_label().map_or(Action::Exit, Action::Branch);
            b.push(statement, Instruction::new(action));
        }
        "exit" => b.push(statement, Instruction::new(Action::Exit)),
        "trap" => b.push(statement, Instruction::new(Action::Trap("the kernel executed trap"))),
        "brkpt" => b.push(statement, Instruction::new(Action::Trap("the kernel executed brkpt"))),
        "membar" | "fence" => {
            op.ignore(&["cta", "gl", "sys", "gpu", "sc", "acq_rel", "cluster", "acquire", "release"]);
            b.push(statement, Instruction::new(Action::Nothing));
        }
        "nanosleep" | "prefetch" | "prefetchu" | "discard" | "applypriority" | "pmevent" => {
            op.ignore(&["u32", "global", "local", "L1", "L2", "L2::evict_last", "L2::evict_normal"]);
            b.push(statement, Instruction::new(Action::Nothing));
        }
        "bar" if op.has("warp") => return Ok(false),
        "bar" | "barrier" => barrier(b, op, statement)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn barrier(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<()> {
    op.ignore(&["cta"]);
    let aligned = op.has("aligned") || op.name == "bar";
    let kind = op.one_of(&["sync", "arrive", "red"]).ok_or("this barrier is not supported")?;
    let operands = &statement.operands[..];
    let mut instruction = Instruction::new(Action::Nothing);
    let mut reduction = Reduction::None;
    let rest = if kind == "red" {
        let how = op.one_of(&["popc", "and", "or"]).ok_or("this reduction is not supported")?;
        op.types();
        let [d, rest @ .., predicate] = operands else { return Err("bar.red needs three operands".to_string()) };
        instruction.c = b.predicate(predicate)?;
        (reduction, instruction.d) = match how {
            "popc" => (Reduction::Count, b.destination(d, Type::U32)?),
            "and" => (Reduction::And, b.predicate(d)? >> 1),
            _ => (Reduction::Or, b.predicate(d)? >> 1),
        };
        rest
    } else {
        operands
    };
    let (number, count) = match rest {
        [number] if kind != "arrive" => (number, None),
        [number, count] => (number, Some(count)),
        _ => return Err("a barrier needs its number, and a count to arrive".to_string()),
    };
    instruction.a = b.source(number, Type::U32)?;
    instruction.b = match count {
        Some(count) => b.source(count, Type::U32)?,
        None => NONE,
    };
    instruction.action = Action::Barrier(Barrier { aligned, waits: kind != "arrive", reduction });
    b.push(statement, instruction);
    Ok(())
}
