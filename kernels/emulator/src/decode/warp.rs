//! Warp-wide instructions: shuffles, votes, matches, reductions, the warp's barrier.

use super::builder::{Builder, Decoded};
use super::moves::single;
use super::opcode::{Opcode, Type};
use crate::execute::collective;
use crate::program::{Action, Instruction, Members, NONE};
use crate::syntax::tree::{Operand, Statement};

pub(super) fn decode(b: &mut Builder<'_>, op: &Opcode<'_>, statement: &Statement) -> Decoded<bool> {
    let operands = &statement.operands[..];
    let last = |b: &mut Builder<'_>| match operands.last() {
        Some(mask) => b.source(mask, Type::B32),
        None => Err("the mask of lanes is missing".to_string()),
    };
    let mut instruction = Instruction::new(Action::Nothing);
    let effect: crate::program::Effect = match op.name {
        "bar" => {
            op.ignore(&["warp", "sync"]);
            collective::meet
        }
        "elect" => {
            op.ignore(&["sync"]);
            let [d, _] = operands else { return Err("elect.sync needs two operands".to_string()) };
            (instruction.d, instruction.c) = with_predicate(b, d, Type::B32)?;
            collective::elect
        }
        "shfl" => {
            if !op.has("sync") {
                return Err("shfl without .sync is not supported".to_string());
            }
            let mode = op.one_of(&["up", "down", "bfly", "idx"]).ok_or("shfl needs a mode")?;
            let of = single(op)?;
            let [d, a, by, clamp, _] = operands else { return Err("shfl needs five operands".to_string()) };
            (instruction.d, instruction.c) = with_predicate(b, d, of)?;
            (instruction.a, instruction.b) = (b.source(a, of)?, b.source(by, Type::B32)?);
            instruction.list = Box::from([b.source(clamp, Type::B32)?]);
            instruction.immediate = ["up", "down", "bfly", "idx"].iter().position(|m| *m == mode).unwrap_or(0) as i64;
            collective::shuffle
        }
        "vote" => {
            if !op.has("sync") {
                return Err("vote without .sync is not supported".to_string());
            }
            let mode = op.one_of(&["all", "any", "uni", "ballot"]).ok_or("vote needs a mode")?;
            op.types();
            let [d, p, _] = operands else { return Err("vote needs three operands".to_string()) };
            instruction.a = b.predicate(p)?;
            instruction.d = if mode == "ballot" { b.destination(d, Type::B32)? } else { b.predicate(d)? >> 1 };
            match mode {
                "all" => collective::vote_all,
                "any" => collective::vote_any,
                "uni" => collective::vote_uniform,
                _ => collective::ballot,
            }
        }
        "match" => {
            let mode = op.one_of(&["any", "all"]).ok_or("match needs a mode")?;
            op.ignore(&["sync"]);
            let of = single(op)?;
            let [d, a, _] = operands else { return Err("match needs three operands".to_string()) };
            (instruction.d, instruction.c) = with_predicate(b, d, Type::B32)?;
            instruction.a = b.source(a, of)?;
            instruction.immediate = i64::from(of.wide());
            if mode == "any" { collective::match_any } else { collective::match_all }
        }
        "redux" => {
            let how = op.one_of(&["add", "min", "max", "and", "or", "xor"]).ok_or("redux needs an operation")?;
            op.ignore(&["sync"]);
            let of = single(op)?;
            if of == Type::F32 {
                return Err("redux of f32 is not supported".to_string());
            }
            let [d, a, _] = operands else { return Err("redux needs three operands".to_string()) };
            (instruction.d, instruction.a) = (b.destination(d, of)?, b.source(a, of)?);
            let how = match (how, of.signed()) {
                ("add", _) => 0,
                ("min", false) => 1,
                ("max", false) => 2,
                ("min", true) => 3,
                ("max", true) => 4,
                ("and", _) => 5,
                ("or", _) => 6,
                _ => 7,
            };
            instruction.immediate = how;
            collective::reduce
        }
        _ => return Ok(false),
    };
    let members = last(b)?;
    // Reductions and matches look at the lanes of their own mask only.
    instruction.action = Action::Collective(effect, Members::Row(members));
    if instruction.list.is_empty() {
        instruction.list = Box::from([NONE]);
    }
    let mut list = instruction.list.into_vec();
    list.push(members);
    instruction.list = list.into_boxed_slice();
    b.push(statement, instruction);
    Ok(true)
}

/// A result that may come with a predicate.
fn with_predicate(b: &mut Builder<'_>, operand: &Operand, of: Type) -> Decoded<(u32, u32)> {
    match operand {
        Operand::Pair(first, second) => {
            let predicate = if **second == Operand::Sink { NONE } else { b.predicate(second)? >> 1 };
            Ok((b.destination(first, of)?, predicate))
        }
        operand => Ok((b.destination(operand, of)?, NONE)),
    }
}
