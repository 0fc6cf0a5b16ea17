//! From PTX text to a syntax tree.

pub(crate) mod lexer;
pub(crate) mod parser;
pub(crate) mod tree;

/// Why a PTX text was refused: what it says, and on which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The line of the text, counted from 1.
    pub line: u32,
    /// The function in which it stands; empty outside of functions.
    pub function: String,
    /// The instruction as written; empty where the error is not in an instruction.
    pub instruction: String,
    /// What is wrong.
    pub message: String,
}

impl ParseError {
    pub(crate) fn at(line: u32, message: &str) -> ParseError {
        ParseError { line, function: String::new(), instruction: String::new(), message: message.to_string() }
    }
}

impl std::fmt::Display for ParseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PTX line {}", self.line)?;
        if !self.function.is_empty() {
            write!(f, ", function {}", self.function)?;
        }
        if !self.instruction.is_empty() {
            write!(f, ", `{}`", self.instruction)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ParseError {}
