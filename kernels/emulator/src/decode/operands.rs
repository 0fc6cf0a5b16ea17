//! Operands: registers, constants, addresses of variables, predicates.

use super::builder::{Builder, Decoded, Symbol};
use super::opcode::Type;
use crate::program::{Action, Alu, Fixed, Instruction, LaneMask};
use crate::syntax::tree::{Operand, Statement, Width};

impl Builder<'_> {
    /// A register and its width.
    pub(crate) fn register(&mut self, operand: &Operand) -> Decoded<(u32, Width)> {
        let Operand::Name(name) = operand else { return Err("an operand is not a register".to_string()) };
        match self.symbol(name) {
            Some(Symbol::Register { slot, width }) => Ok((slot, width)),
            Some(Symbol::Predicate(_)) => Err(format!("'{name}' is a predicate")),
            _ => Err(format!("'{name}' is not a register")),
        }
    }

    /// A register that takes a result of a type.
    pub(crate) fn destination(&mut self, operand: &Operand, of: Type) -> Decoded<u32> {
        if *operand == Operand::Sink {
            return Ok(self.new_row(of.wide()));
        }
        let (slot, width) = self.register(operand)?;
        if (width == Width::Double) != of.wide() {
            return Err("a register is not as wide as the type".to_string());
        }
        Ok(slot)
    }

    /// A row that holds an operand of a type.
    pub(crate) fn source(&mut self, operand: &Operand, of: Type) -> Decoded<u32> {
        let value = match operand {
            Operand::Integer(value) => *value,
            Operand::Single(bits) if of.wide() => f64::from(f32::from_bits(*bits)).to_bits(),
            Operand::Single(bits) => u64::from(*bits),
            Operand::Double(bits) if of.wide() => *bits,
            Operand::Double(bits) => u64::from((f64::from_bits(*bits) as f32).to_bits()),
            Operand::Name(name) => {
                if let Some(special) = special(name) {
                    return Ok(self.fixed(special, of.wide()));
                }
                match self.symbol(name) {
                    Some(Symbol::Register { slot, width }) => {
                        if (width == Width::Double) != of.wide() {
                            return Err(format!("'{name}' is not as wide as the type"));
                        }
                        return Ok(slot);
                    }
                    Some(Symbol::Predicate(_)) => return Err(format!("'{name}' is a predicate")),
                    Some(symbol) => return self.address_of(symbol, 0, of),
                    None => return Err(format!("'{name}' is not declared")),
                }
            }
            Operand::Offset(name, offset) => match self.symbol(name) {
                Some(symbol) => return self.address_of(symbol, *offset, of),
                None => return Err(format!("'{name}' is not declared")),
            },
            _ => return Err("this kind of operand is not supported here".to_string()),
        };
        let value = if of.wide() { value } else { value & 0xffff_ffff };
        Ok(self.fixed(Fixed::Value(value), of.wide()))
    }

    /// A row that holds the address of a variable, within its space.
    fn address_of(&mut self, symbol: Symbol, offset: i64, of: Type) -> Decoded<u32> {
        let fixed = match symbol {
            Symbol::Shared(at) | Symbol::Local(at) | Symbol::Parameter(at) => {
                Fixed::Value(at.wrapping_add(offset as u64))
            }
            Symbol::DynamicShared => Fixed::DynamicShared(offset as u64),
            Symbol::Module(at) if of.wide() => Fixed::Module(at.wrapping_add(offset as u64)),
            _ => return Err("the address of this is not supported".to_string()),
        };
        Ok(self.fixed(fixed, of.wide()))
    }

    /// Appends an operation on registers: the result's type, then the types of up to three operands.
    pub(crate) fn alu(&mut self, statement: &Statement, alu: Alu, d: Type, sources: &[Type]) -> Decoded<bool> {
        let operands = &statement.operands[..];
        if operands.len() != sources.len() + 1 {
            return Err(format!("{} operands, and it takes {}", operands.len(), sources.len() + 1));
        }
        let mut instruction =
            Instruction { d: self.destination(&operands[0], d)?, ..Instruction::new(Action::Alu(alu)) };
        let places = [&mut instruction.a, &mut instruction.b, &mut instruction.c];
        for ((place, operand), of) in places.into_iter().zip(&operands[1..]).zip(sources) {
            *place = self.source(operand, *of)?;
        }
        self.push(statement, instruction);
        Ok(true)
    }

    /// A predicate operand: its index times two, plus one if negated.
    pub(crate) fn predicate(&mut self, operand: &Operand) -> Decoded<u32> {
        let (name, negated) = match operand {
            Operand::Name(name) => (name, 0),
            Operand::Not(name) => (name, 1),
            Operand::Integer(value) => {
                // A constant: a predicate that nothing writes is false.
                let never = self.new_predicate();
                return Ok(never << 1 | u32::from(*value != 0));
            }
            _ => return Err("an operand is not a predicate".to_string()),
        };
        match self.symbol(name) {
            Some(Symbol::Predicate(index)) => Ok(index << 1 | negated),
            _ => Err(format!("'{name}' is not a predicate")),
        }
    }
}

/// A special register that does not change while a block runs.
fn special(name: &str) -> Option<Fixed> {
    let (base, axis) = match name.rsplit_once('.') {
        Some((base, "x")) => (base, 0),
        Some((base, "y")) => (base, 1),
        Some((base, "z")) => (base, 2),
        _ => (name, 3),
    };
    Some(match (base, axis) {
        ("%tid", 0..3) => Fixed::Thread(axis),
        ("%ntid", 0..3) => Fixed::Threads(axis),
        ("%ctaid", 0..3) => Fixed::BlockIndex(axis),
        ("%nctaid", 0..3) => Fixed::Blocks(axis),
        ("%laneid", 3) => Fixed::Lane,
        ("%warpid", 3) => Fixed::Warp,
        ("%nwarpid", 3) => Fixed::Warps,
        ("%smid", 3) => Fixed::Processor,
        ("%nsmid", 3) => Fixed::Processors,
        ("%gridid", 3) => Fixed::Zero,
        ("%lanemask_eq", 3) => Fixed::LaneMask(LaneMask::Equal),
        ("%lanemask_lt", 3) => Fixed::LaneMask(LaneMask::Less),
        ("%lanemask_le", 3) => Fixed::LaneMask(LaneMask::LessEqual),
        ("%lanemask_gt", 3) => Fixed::LaneMask(LaneMask::Greater),
        ("%lanemask_ge", 3) => Fixed::LaneMask(LaneMask::GreaterEqual),
        ("%dynamic_smem_size", 3) => Fixed::DynamicSharedBytes,
        ("%total_smem_size", 3) => Fixed::TotalSharedBytes,
        ("WARP_SZ", 3) => Fixed::Value(32),
        _ => return None,
    })
}
