//! The syntax tree of a PTX module.

/// What a variable declaration names as its state space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Constant,
    Shared,
    Local,
    Parameter,
}

/// One initial value of a variable.
#[derive(Clone, Debug)]
pub(crate) enum Initial {
    /// Bits, cut to the size of the element.
    Bits(u64),
    /// The address of another variable, plus an offset.
    Address(String, i64),
}

/// A declared variable.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) space: Space,
    pub(crate) name: String,
    pub(crate) align: usize,
    pub(crate) element: usize,
    /// Zero for an array without a length (dynamic shared memory).
    pub(crate) bytes: usize,
    pub(crate) initial: Vec<Initial>,
    pub(crate) line: u32,
}

/// What a register is declared to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Predicate,
    /// 8 and 16 bits.
    Half,
    Word,
    Double,
}

/// An operand as written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Name(String),
    Integer(u64),
    Single(u32),
    Double(u64),
    Vector(Vec<Operand>),
    /// `[base+offset]`.
    Address(Box<Operand>, i64),
    /// `!%p`.
    Not(String),
    /// `%r|%p`.
    Pair(Box<Operand>, Box<Operand>),
    /// `_`.
    Sink,
    /// `(a, b)`: arguments and results of a call.
    List(Vec<Operand>),
    /// `name+offset` outside brackets.
    Offset(String, i64),
}

/// An instruction as written.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// The guard: a predicate, and whether it is negated.
    pub(crate) guard: Option<(String, bool)>,
    /// The opcode with its modifiers.
    pub(crate) opcode: String,
    pub(crate) operands: Vec<Operand>,
    pub(crate) line: u32,
    /// The text of the instruction, on one line.
    pub(crate) text: String,
}

/// What stands in the body of a function.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Statement(Statement),
    Label(String),
    /// Names of registers, and what they hold.
    Registers(Width, Vec<String>),
    Variable(Variable),
    /// `name: .branchtargets a, b;`
    Targets(String, Vec<String>),
    Open,
    Close,
}

/// A function or a kernel.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) is_entry: bool,
    pub(crate) parameters: Vec<Variable>,
    pub(crate) results: Vec<Variable>,
    /// Absent for a declaration.
    pub(crate) body: Option<Vec<Item>>,
    pub(crate) max_threads: Option<u32>,
}

/// A whole text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub(crate) variables: Vec<Variable>,
    pub(crate) functions: Vec<Function>,
}
