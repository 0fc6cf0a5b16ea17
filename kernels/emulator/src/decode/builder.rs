//! A program that is being put together: rows, constants, scopes, labels, inlined calls.

use super::opcode::Opcode;
use crate::module::{Param, Stored};
use crate::program::*;
use crate::syntax::ParseError;
use crate::syntax::tree::*;
use std::collections::HashMap;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Symbol {
    Register {
        slot: u32,
        width: Width,
    },
    Predicate(u32),
    Shared(u64),
    DynamicShared,
    Local(u64),
    /// An argument or result of an inlined call, behind local memory.
    Frame(u64),
    /// A parameter of the kernel.
    Parameter(u64),
    Module(u64),
}

#[derive(Default)]
struct Scope {
    symbols: HashMap<String, Symbol>,
    labels: HashMap<String, usize>,
    targets: HashMap<String, Vec<String>>,
}

/// Puts a program together.
pub(crate) struct Builder<'a> {
    tree: &'a Tree,
    variables: &'a HashMap<String, Stored>,
    program: Program,
    scopes: Vec<Scope>,
    fixed: HashMap<(Fixed, bool), u32>,
    /// The address of each label, once it is known.
    labels: Vec<Option<u32>>,
    shared: HashMap<String, u64>,
    shared_bytes: u64,
    /// Functions that are being inlined, and where each returns to.
    calls: Vec<(String, usize)>,
    carry: Option<u32>,
    /// Instructions whose immediate is an offset behind local memory.
    frame_accesses: Vec<usize>,
    line: u32,
}

pub(crate) type Decoded<T> = Result<T, String>;

impl<'a> Builder<'a> {
    pub(crate) fn new(tree: &'a Tree, variables: &'a HashMap<String, Stored>) -> Builder<'a> {
        Builder {
            tree,
            variables,
            program: Program::default(),
            scopes: Vec::new(),
            fixed: HashMap::new(),
            labels: Vec::new(),
            shared: HashMap::new(),
            shared_bytes: 0,
            calls: Vec::new(),
            carry: None,
            frame_accesses: Vec::new(),
            line: 0,
        }
    }

    /// Decodes a kernel, or a function by itself.
    pub(crate) fn kernel(&mut self, function: &'a Function, params: &[Param]) -> Result<(), ParseError> {
        let mut symbols = HashMap::new();
        for (parameter, param) in function.parameters.iter().zip(params) {
            symbols.insert(parameter.name.clone(), Symbol::Parameter(param.offset as u64));
        }
        if !function.is_entry {
            for variable in function.parameters.iter().chain(&function.results) {
                symbols.insert(variable.name.clone(), self.frame(variable));
            }
        }
        self.function(function, symbols)?;
        self.emit(Action::Exit, "ret;");
        Ok(())
    }

    /// Fills in the targets of branches, and hands the program over with the size of its static shared memory.
    pub(crate) fn finish(mut self) -> Result<(Program, u64), ParseError> {
        let labels = self.labels;
        let resolve = |label: u32, line: u32| {
            labels[label as usize].ok_or_else(|| ParseError::at(line, "a branch to a label that is not there"))
        };
        for instruction in &mut self.program.code {
            match &mut instruction.action {
                Action::Branch(target) => *target = resolve(*target, instruction.line)?,
                Action::BranchIndexed => {
                    for target in &mut instruction.list {
                        *target = resolve(*target, instruction.line)?;
                    }
                }
                _ => {}
            }
        }
        // Arguments of calls stand behind the local memory that addresses can reach.
        let shift = self.program.local_bytes.next_multiple_of(16) as i64;
        for at in self.frame_accesses {
            self.program.code[at].immediate += shift;
        }
        Ok((self.program, self.shared_bytes))
    }

    fn function(&mut self, function: &'a Function, symbols: HashMap<String, Symbol>) -> Result<(), ParseError> {
        let outer = std::mem::take(&mut self.scopes);
        let end = self.new_label();
        self.calls.push((function.name.clone(), end));
        self.scopes.push(Scope { symbols, ..Scope::default() });
        let body = function.body.as_deref().unwrap_or_default();
        let result = self.items(body).map_err(|mut error| {
            if error.function.is_empty() {
                error.function = function.name.clone();
            }
            error
        });
        self.calls.pop();
        self.scopes = outer;
        self.labels[end] = Some(self.program.code.len() as u32);
        result
    }

    fn items(&mut self, items: &'a [Item]) -> Result<(), ParseError> {
        self.declare_labels(items);
        let mut at = 0;
        while at < items.len() {
            match &items[at] {
                Item::Open => {
                    let close = closing(items, at);
                    self.scopes.push(Scope::default());
                    self.items(&items[at + 1..close])?;
                    self.scopes.pop();
                    at = close;
                }
                Item::Close => {}
                Item::Label(name) => {
                    let here = self.program.code.len() as u32;
                    if let Some(label) = self.find_label(name) {
                        self.labels[label] = Some(here);
                    }
                }
                Item::Registers(width, names) => self.registers(*width, names),
                Item::Variable(variable) => self.variable(variable),
                Item::Targets(..) => {}
                Item::Statement(statement) => self.statement(statement)?,
            }
            at += 1;
        }
        Ok(())
    }

    /// Labels of this scope, not of scopes within it.
    fn declare_labels(&mut self, items: &[Item]) {
        let mut depth = 0;
        for item in items {
            match item {
                Item::Open => depth += 1,
                Item::Close => depth -= 1,
                Item::Label(name) if depth == 0 => {
                    let label = self.new_label();
                    self.scope().labels.insert(name.clone(), label);
                }
                Item::Targets(name, targets) if depth == 0 => {
                    self.scope().targets.insert(name.clone(), targets.clone());
                }
                _ => {}
            }
        }
    }

    fn scope(&mut self) -> &mut Scope {
        if self.scopes.is_empty() {
            self.scopes.push(Scope::default());
        }
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    fn new_label(&mut self) -> usize {
        self.labels.push(None);
        self.labels.len() - 1
    }

    fn find_label(&self, name: &str) -> Option<usize> {
        self.scopes.iter().rev().find_map(|scope| scope.labels.get(name)).copied()
    }

    fn registers(&mut self, width: Width, names: &[String]) {
        for name in names {
            let symbol = match width {
                Width::Predicate => Symbol::Predicate(self.new_predicate()),
                _ => Symbol::Register { slot: self.new_row(width == Width::Double), width },
            };
            self.scope().symbols.insert(name.clone(), symbol);
        }
    }

    fn variable(&mut self, variable: &Variable) {
        let symbol = match variable.space {
            Space::Shared => self.shared_variable(variable),
            Space::Parameter => self.frame(variable),
            _ => {
                let offset = self.program.local_bytes.next_multiple_of(variable.align);
                self.program.local_bytes = offset + variable.bytes;
                Symbol::Local(offset as u64)
            }
        };
        self.scope().symbols.insert(variable.name.clone(), symbol);
    }

    fn frame(&mut self, variable: &Variable) -> Symbol {
        let offset = self.program.frame_bytes.next_multiple_of(variable.align.max(16));
        self.program.frame_bytes = offset + variable.bytes;
        Symbol::Frame(offset as u64)
    }

    fn shared_variable(&mut self, variable: &Variable) -> Symbol {
        if variable.bytes == 0 {
            return Symbol::DynamicShared;
        }
        let key = format!("{} {}", variable.line, variable.name);
        if let Some(&offset) = self.shared.get(&key) {
            return Symbol::Shared(offset);
        }
        let offset = self.shared_bytes.next_multiple_of(variable.align as u64);
        self.shared_bytes = offset + variable.bytes as u64;
        self.shared.insert(key, offset);
        Symbol::Shared(offset)
    }

    pub(crate) fn new_row(&mut self, wide: bool) -> u32 {
        let slot = self.program.rows as u32;
        self.program.rows += 1 + usize::from(wide);
        slot
    }

    pub(crate) fn new_predicate(&mut self) -> u32 {
        self.program.predicates += 1;
        self.program.predicates as u32 - 1
    }

    /// The predicate that stands for the carry flag.
    pub(crate) fn carry(&mut self) -> u32 {
        match self.carry {
            Some(carry) => carry,
            None => {
                let carry = self.new_predicate();
                self.carry = Some(carry);
                carry
            }
        }
    }

    /// A row that holds a value from the start.
    pub(crate) fn fixed(&mut self, value: Fixed, wide: bool) -> u32 {
        if let Some(&slot) = self.fixed.get(&(value, wide)) {
            return slot;
        }
        let slot = self.new_row(wide);
        self.program.fixed.push(FixedRow { slot, wide, value });
        self.fixed.insert((value, wide), slot);
        slot
    }

    pub(crate) fn symbol(&mut self, name: &str) -> Option<Symbol> {
        if let Some(symbol) = self.scopes.iter().rev().find_map(|scope| scope.symbols.get(name)) {
            return Some(*symbol);
        }
        if let Some(stored) = self.variables.get(name) {
            return Some(Symbol::Module(stored.offset as u64));
        }
        let tree = self.tree;
        let shared = tree.variables.iter().find(|v| v.space == Space::Shared && v.name == name)?;
        Some(self.shared_variable(shared))
    }

    /// Appends an instruction that does something with no operands.
    pub(crate) fn emit(&mut self, action: Action, text: &str) {
        let instruction = Instruction { line: self.line, ..Instruction::new(action) };
        self.program.code.push(instruction);
        self.program.texts.push(text.to_string());
    }

    fn statement(&mut self, statement: &'a Statement) -> Result<(), ParseError> {
        self.line = statement.line;
        self.decode(statement).map_err(|message| ParseError {
            line: statement.line,
            function: self.calls.last().map(|call| call.0.clone()).unwrap_or_default(),
            instruction: statement.text.clone(),
            message,
        })
    }

    fn decode(&mut self, statement: &'a Statement) -> Decoded<()> {
        let op = Opcode::new(&statement.opcode);
        let guard = match &statement.guard {
            None => NONE,
            Some((name, negated)) => match self.symbol(name) {
                Some(Symbol::Predicate(index)) => index << 1 | u32::from(*negated),
                _ => return Err(format!("the guard '{name}' is not a predicate")),
            },
        };
        let first = self.program.code.len();
        let known = super::control::decode(self, &op, statement)?
            || super::moves::decode(self, &op, statement)?
            || super::memory::decode(self, &op, statement)?
            || super::integer::decode(self, &op, statement)?
            || super::floating::decode(self, &op, statement)?
            || super::half_floating::decode(self, &op, statement)?
            || super::compare::decode(self, &op, statement)?
            || super::convert::decode(self, &op, statement)?
            || super::warp::decode(self, &op, statement)?
            || super::matrix::decode(self, &op, statement)?;
        if !known {
            return Err(format!("the opcode '{}' is not supported", statement.opcode));
        }
        if let Some(part) = op.unused() {
            return Err(format!("the modifier '.{part}' of '{}' is not supported", op.name));
        }
        if guard != NONE {
            if self.program.code.len() > first + 1 {
                return Err("a guard on a call is not supported".to_string());
            }
            if let Some(instruction) = self.program.code.get_mut(first) {
                instruction.guard = guard;
            }
        }
        Ok(())
    }

    /// Appends a decoded instruction.
    pub(crate) fn push(&mut self, statement: &Statement, mut instruction: Instruction) {
        instruction.line = statement.line;
        self.program.code.push(instruction);
        self.program.texts.push(statement.text.clone());
    }

    /// Notes that the next instruction accesses the arguments of a call.
    pub(crate) fn note_frame_access(&mut self) {
        self.frame_accesses.push(self.program.code.len());
    }

    /// The number of a label, to be resolved at the end.
    pub(crate) fn label(&mut self, name: &str) -> Decoded<u32> {
        self.find_label(name).map(|label| label as u32).ok_or_else(|| format!("there is no label '{name}'"))
    }

    /// The labels of a `.branchtargets` list.
    pub(crate) fn targets(&mut self, name: &str) -> Decoded<Box<[u32]>> {
        let targets = self.scopes.iter().rev().find_map(|scope| scope.targets.get(name)).cloned();
        let targets = targets.ok_or_else(|| format!("there is no list of targets '{name}'"))?;
        targets.iter().map(|target| self.label(target)).collect()
    }

    /// Where `ret` goes: the end of the function that is inlined, or nowhere in a kernel.
    pub(crate) fn return_label(&self) -> Option<u32> {
        if self.calls.len() > 1 { self.calls.last().map(|call| call.1 as u32) } else { None }
    }

    /// Inlines a call.
    pub(crate) fn call(&mut self, results: &[Operand], name: &str, arguments: &[Operand]) -> Decoded<()> {
        let tree = self.tree;
        let found = tree.functions.iter().find(|function| function.name == name && function.body.is_some());
        let Some(function) = found else { return Err(format!("a call of '{name}', which has no body here")) };
        if self.calls.iter().any(|call| call.0 == name) {
            return Err(format!("a recursive call of '{name}' is not supported"));
        }
        if function.parameters.len() != arguments.len() || function.results.len() != results.len() {
            return Err(format!("'{name}' takes and returns another number of values"));
        }
        let mut symbols = HashMap::new();
        let formal = function.parameters.iter().chain(&function.results);
        for (variable, actual) in formal.zip(arguments.iter().chain(results)) {
            let symbol = match actual {
                Operand::Name(actual) => self.symbol(actual),
                _ => None,
            };
            let Some(symbol @ Symbol::Frame(_)) = symbol else {
                return Err("a call with something else than .param variables is not supported".to_string());
            };
            symbols.insert(variable.name.clone(), symbol);
        }
        let line = self.line;
        self.function(function, symbols).map_err(|error| format!("in '{name}': {error}"))?;
        self.line = line;
        Ok(())
    }
}

/// The index of the brace that closes the one at `open`.
fn closing(items: &[Item], open: usize) -> usize {
    let mut depth = 0;
    for (index, item) in items.iter().enumerate().skip(open) {
        match item {
            Item::Open => depth += 1,
            Item::Close => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    items.len()
}
