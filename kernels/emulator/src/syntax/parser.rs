//! Tokens to a syntax tree: directives, declarations and instructions.

use super::ParseError;
use super::lexer::{Kind, Token, tokens};
use super::tree::*;

/// Parses a whole text.
pub(crate) fn parse(text: &str) -> Result<Tree, ParseError> {
    Parser { text, tokens: tokens(text)?, at: 0 }.module()
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token<'a>>,
    at: usize,
}

/// The size in bytes of a scalar type, as in a declaration.
fn type_bytes(name: &str) -> Option<usize> {
    Some(match name {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        _ => return None,
    })
}

fn space(name: &str) -> Option<Space> {
    Some(match name {
        ".global" => Space::Global,
        ".const" => Space::Constant,
        ".shared" => Space::Shared,
        ".local" => Space::Local,
        ".param" => Space::Parameter,
        _ => return None,
    })
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    fn line(&self) -> u32 {
        self.peek().or(self.tokens.last().copied()).map_or(1, |token| token.line)
    }

    fn error<T>(&self, message: impl AsRef<str>) -> Result<T, ParseError> {
        Err(ParseError::at(self.line(), message.as_ref()))
    }

    fn next(&mut self) -> Result<Token<'a>, ParseError> {
        let token = self.peek();
        self.at += 1;
        token.map_or_else(|| self.error("the text ends too early"), Ok)
    }

    fn accept(&mut self, mark: u8) -> bool {
        let found = self.peek().is_some_and(|token| token.is(mark));
        self.at += usize::from(found);
        found
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.kind == Kind::Word && token.text == word);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, mark: u8) -> Result<(), ParseError> {
        if self.accept(mark) {
            return Ok(());
        }
        let found = self.peek().map_or("the end", |token| token.text);
        self.error(format!("expected '{}', found '{found}'", mark as char))
    }

    fn word(&mut self) -> Result<&'a str, ParseError> {
        let token = self.next()?;
        if token.kind == Kind::Word {
            return Ok(token.text);
        }
        self.at -= 1;
        self.error(format!("expected a name, found '{}'", token.text))
    }

    fn integer(&mut self) -> Result<u64, ParseError> {
        let negative = self.accept(b'-');
        match self.next()?.kind {
            Kind::Integer(value) if negative => Ok(value.wrapping_neg()),
            Kind::Integer(value) => Ok(value),
            _ => {
                self.at -= 1;
                self.error("expected a whole number")
            }
        }
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self.peek().is_some_and(|token| token.line == line) {
            self.at += 1;
        }
    }

    fn skip_statement(&mut self) {
        while self.peek().is_some() && !self.accept(b';') {
            self.at += 1;
        }
    }

    fn skip_braces(&mut self) -> Result<(), ParseError> {
        while !self.accept(b'{') {
            self.next()?;
        }
        let mut depth = 1;
        while depth > 0 {
            let token = self.next()?;
            depth += i32::from(token.is(b'{')) - i32::from(token.is(b'}'));
        }
        Ok(())
    }

    fn module(mut self) -> Result<Tree, ParseError> {
        let mut tree = Tree::default();
        while let Some(token) = self.peek() {
            match token.text {
                ".version" | ".target" | ".address_size" | ".file" | ".loc" => self.skip_line(),
                ".section" => self.skip_braces()?,
                ".pragma" | ".alias" => self.skip_statement(),
                ".visible" | ".extern" | ".weak" | ".common" => self.at += 1,
                ".entry" | ".func" => {
                    self.at += 1;
                    let function = self.function(token.text == ".entry")?;
                    tree.functions.push(function);
                }
                text if space(text).is_some() => {
                    let mut declared = self.variables()?;
                    tree.variables.append(&mut declared);
                    self.expect(b';')?;
                }
                ";" => self.at += 1,
                text => return self.error(format!("'{text}' is not supported here")),
            }
        }
        Ok(tree)
    }

    fn function(&mut self, is_entry: bool) -> Result<Function, ParseError> {
        let results =
            if !is_entry && self.peek().is_some_and(|token| token.is(b'(')) { self.parameters()? } else { Vec::new() };
        let name = self.word()?.to_string();
        let parameters = if self.peek().is_some_and(|token| token.is(b'(')) { self.parameters()? } else { Vec::new() };
        let mut function = Function { name, is_entry, parameters, results, body: None, max_threads: None };
        loop {
            let Some(token) = self.peek() else { return Ok(function) };
            match token.text {
                ";" => {
                    self.at += 1;
                    return Ok(function);
                }
                "{" => break,
                ".noreturn" => self.at += 1,
                ".maxntid" | ".reqntid" => {
                    self.at += 1;
                    let mut threads = self.integer()?;
                    while self.accept(b',') {
                        threads *= self.integer()?;
                    }
                    function.max_threads = Some(threads as u32);
                }
                ".minnctapersm" | ".maxnreg" | ".maxnctapersm" => {
                    self.at += 1;
                    self.integer()?;
                }
                ".pragma" => self.skip_statement(),
                text => return self.error(format!("'{text}' is not supported on a function")),
            }
        }
        function.body = Some(self.body().map_err(|error| ParseError { function: function.name.clone(), ..error })?);
        Ok(function)
    }

    fn parameters(&mut self) -> Result<Vec<Variable>, ParseError> {
        self.expect(b'(')?;
        let mut all = Vec::new();
        while !self.accept(b')') {
            if self.peek().is_some_and(|token| token.text == ".reg") {
                return self.error("a register as a parameter is not supported");
            }
            all.append(&mut self.variables()?);
            self.accept(b',');
        }
        Ok(all)
    }

    /// `.global .align 4 .b8 name[16] = {…}`, without what follows; parameters declare one name each.
    fn variables(&mut self) -> Result<Vec<Variable>, ParseError> {
        let line = self.line();
        let word = self.word()?;
        let Some(space) = space(word) else { return self.error(format!("'{word}' is not a state space")) };
        let (mut align, mut element, mut lanes) = (0, None, 1);
        while let Some(token) = self.peek().filter(|token| token.kind == Kind::Word && token.text.starts_with('.')) {
            self.at += 1;
            match token.text {
                ".align" => align = self.integer()? as usize,
                ".ptr" | ".global" | ".const" | ".shared" | ".local" => {
                    if matches!(self.peek(), Some(next) if next.text == ".align") {
                        self.at += 1;
                        self.integer()?;
                    }
                }
                ".v2" => lanes = 2,
                ".v4" => lanes = 4,
                ".attribute" => {
                    while !self.accept(b')') {
                        self.next()?;
                    }
                }
                name => match type_bytes(name) {
                    Some(bytes) => element = Some(bytes),
                    None => return self.error(format!("the type '{name}' is not supported in a declaration")),
                },
            }
        }
        let Some(element) = element else { return self.error("a variable has no type") };
        let mut all = Vec::new();
        loop {
            let name = self.word()?.to_string();
            let mut bytes = element * lanes;
            while self.accept(b'[') {
                if self.accept(b']') {
                    bytes = 0;
                } else {
                    bytes *= self.integer()? as usize;
                    self.expect(b']')?;
                }
            }
            let mut initial = Vec::new();
            if self.accept(b'=') {
                self.initial(&mut initial)?;
            }
            bytes = bytes.max(initial.len() * element);
            let align = if align == 0 { element * lanes } else { align };
            all.push(Variable { space, name, align, element, bytes, initial, line });
            if space == Space::Parameter || !self.accept(b',') {
                return Ok(all);
            }
        }
    }

    fn initial(&mut self, into: &mut Vec<Initial>) -> Result<(), ParseError> {
        if self.accept(b'{') {
            while !self.accept(b'}') {
                self.initial(into)?;
                self.accept(b',');
            }
            return Ok(());
        }
        let negative = self.accept(b'-');
        let token = self.next()?;
        into.push(match token.kind {
            Kind::Integer(value) => Initial::Bits(if negative { value.wrapping_neg() } else { value }),
            Kind::Single(bits) => Initial::Bits(u64::from(bits)),
            Kind::Double(bits) => Initial::Bits(bits),
            Kind::Word if token.text == "generic" => {
                self.expect(b'(')?;
                let name = self.word()?.to_string();
                let offset = self.offset()?;
                self.expect(b')')?;
                let after = self.offset()?;
                Initial::Address(name, offset + after)
            }
            Kind::Word => Initial::Address(token.text.to_string(), self.offset()?),
            _ => return self.error("this initial value is not supported"),
        });
        Ok(())
    }

    fn offset(&mut self) -> Result<i64, ParseError> {
        if self.accept(b'+') {
            return Ok(self.integer()? as i64);
        }
        if self.accept(b'-') {
            return Ok((self.integer()? as i64).wrapping_neg());
        }
        Ok(0)
    }

    fn body(&mut self) -> Result<Vec<Item>, ParseError> {
        self.expect(b'{')?;
        let (mut items, mut depth) = (Vec::new(), 0);
        loop {
            let Some(token) = self.peek() else { return self.error("the body of a function is not closed") };
            match token.text {
                "{" => {
                    self.at += 1;
                    depth += 1;
                    items.push(Item::Open);
                }
                "}" => {
                    self.at += 1;
                    if depth == 0 {
                        return Ok(items);
                    }
                    depth -= 1;
                    items.push(Item::Close);
                }
                ";" => self.at += 1,
                ".reg" => {
                    self.at += 1;
                    items.push(self.registers()?);
                }
                ".loc" | ".file" => self.skip_line(),
                ".pragma" => self.skip_statement(),
                ".extern" | ".visible" => self.at += 1,
                text if space(text).is_some() => {
                    items.extend(self.variables()?.into_iter().map(Item::Variable));
                    self.expect(b';')?;
                }
                _ if self.tokens.get(self.at + 1).is_some_and(|next| next.is(b':')) => {
                    let name = self.word()?.to_string();
                    self.at += 1;
                    if self.accept_word(".branchtargets") {
                        let mut targets = vec![self.word()?.to_string()];
                        while self.accept(b',') {
                            targets.push(self.word()?.to_string());
                        }
                        self.expect(b';')?;
                        items.push(Item::Targets(name, targets));
                    } else {
                        items.push(Item::Label(name));
                    }
                }
                _ => items.push(Item::Statement(self.statement()?)),
            }
        }
    }

    fn registers(&mut self) -> Result<Item, ParseError> {
        let kind = self.word()?;
        let width = match (kind, type_bytes(kind)) {
            (".pred", _) => Width::Predicate,
            (_, Some(1 | 2)) => Width::Half,
            (_, Some(4)) => Width::Word,
            (_, Some(8)) => Width::Double,
            _ => return self.error(format!("registers of type '{kind}' are not supported")),
        };
        let mut names = Vec::new();
        loop {
            let name = self.word()?;
            if self.accept(b'<') {
                let count = self.integer()?;
                self.expect(b'>')?;
                names.extend((0..count).map(|index| format!("{name}{index}")));
            } else {
                names.push(name.to_string());
            }
            if !self.accept(b',') {
                break;
            }
        }
        self.expect(b';')?;
        Ok(Item::Registers(width, names))
    }

    fn statement(&mut self) -> Result<Statement, ParseError> {
        let first = self.next()?;
        self.at -= 1;
        let guard = if self.accept(b'@') {
            let negated = self.accept(b'!');
            Some((self.word()?.to_string(), negated))
        } else {
            None
        };
        let opcode = self.word()?.to_string();
        let mut operands = Vec::new();
        let result = loop {
            if self.accept(b';') {
                break Ok(());
            }
            match self.operand() {
                Ok(operand) => operands.push(operand),
                Err(error) => break Err(error),
            }
            if !self.accept(b',') {
                break self.expect(b';');
            }
        };
        let end = self.tokens[self.at.min(self.tokens.len()) - 1].end;
        let text = self.text[first.start..end].split_whitespace().collect::<Vec<_>>().join(" ");
        result.map_err(|error| ParseError { instruction: text.clone(), ..error })?;
        Ok(Statement { guard, opcode, operands, line: first.line, text })
    }

    fn operand(&mut self) -> Result<Operand, ParseError> {
        let token = self.next()?;
        let operand = match token.kind {
            Kind::Integer(value) => Operand::Integer(value),
            Kind::Single(bits) => Operand::Single(bits),
            Kind::Double(bits) => Operand::Double(bits),
            Kind::Mark(b'-') => match self.next()?.kind {
                Kind::Integer(value) => Operand::Integer(value.wrapping_neg()),
                Kind::Single(bits) => Operand::Single(bits ^ 1 << 31),
                Kind::Double(bits) => Operand::Double(bits ^ 1 << 63),
                _ => return self.error("expected a number after '-'"),
            },
            Kind::Mark(b'!') => Operand::Not(self.word()?.to_string()),
            Kind::Mark(b'{') => Operand::Vector(self.operands_until(b'}')?),
            Kind::Mark(b'(') => Operand::List(self.operands_until(b')')?),
            Kind::Mark(b'[') => {
                let base = self.operand()?;
                let (base, offset) = match base {
                    Operand::Offset(name, offset) => (Operand::Name(name), offset),
                    other => (other, 0),
                };
                self.expect(b']')?;
                Operand::Address(Box::new(base), offset)
            }
            Kind::Word if token.text == "_" => Operand::Sink,
            Kind::Word => match self.offset_of_name()? {
                Some(offset) => Operand::Offset(token.text.to_string(), offset),
                None => Operand::Name(token.text.to_string()),
            },
            _ => {
                self.at -= 1;
                return self.error(format!("'{}' is not an operand", token.text));
            }
        };
        if self.accept(b'|') {
            return Ok(Operand::Pair(Box::new(operand), Box::new(self.operand()?)));
        }
        Ok(operand)
    }

    fn offset_of_name(&mut self) -> Result<Option<i64>, ParseError> {
        let present = self.peek().is_some_and(|token| token.is(b'+') || token.is(b'-'));
        if present { self.offset().map(Some) } else { Ok(None) }
    }

    fn operands_until(&mut self, close: u8) -> Result<Vec<Operand>, ParseError> {
        let mut all = Vec::new();
        while !self.accept(close) {
            all.push(self.operand()?);
            self.accept(b',');
        }
        Ok(all)
    }
}
