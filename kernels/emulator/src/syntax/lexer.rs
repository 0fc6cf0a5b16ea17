//! Text to tokens.

use crate::syntax::ParseError;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// An identifier, an opcode with its modifiers, a directive or a special register, dots included.
    Word,
    /// A whole number, wrapped to 64 bits.
    Integer(u64),
    /// `0f…`: the bits of an f32.
    Single(u32),
    /// `0d…`, or a decimal fraction: the bits of an f64.
    Double(u64),
    /// A quoted text.
    Quoted,
    /// A single punctuation character.
    Mark(u8),
}

/// A token and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
    pub(crate) line: u32,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Token<'_> {
    /// Whether the token is this punctuation character.
    pub(crate) fn is(&self, mark: u8) -> bool {
        self.kind == Kind::Mark(mark)
    }
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

fn continues_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.')
}

/// All tokens of a text, without comments.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let bytes = text.as_bytes();
    let (mut at, mut line) = (0, 1u32);
    let mut found = Vec::new();
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            byte if byte.is_ascii_whitespace() || byte == 0 => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let close = text[at..].find("*/").ok_or_else(|| ParseError::at(line, "a comment is not closed"))?;
                line += text[at..at + close].matches('\n').count() as u32;
                at += close + 2;
                continue;
            }
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += 1;
                }
                at = (at + 1).min(bytes.len());
                found.push(Token { kind: Kind::Quoted, text: &text[start..at], line, start, end: at });
            }
            byte if byte.is_ascii_digit() => {
                while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'.') {
                    at += 1;
                }
                let word = &text[start..at];
                let kind = number(word).ok_or_else(|| ParseError::at(line, &format!("'{word}' is not a number")))?;
                found.push(Token { kind, text: word, line, start, end: at });
            }
            byte if starts_word(byte) => {
                at += 1;
                loop {
                    // Directives stand one by one, even where nothing parts them, as in `.reg.b32`.
                    let next_directive = byte == b'.' && bytes.get(at) == Some(&b'.');
                    if at < bytes.len() && continues_word(bytes[at]) && !next_directive {
                        at += 1;
                    } else if bytes[at..].starts_with(b"::") {
                        at += 2;
                    } else {
                        break;
                    }
                }
                found.push(Token { kind: Kind::Word, text: &text[start..at], line, start, end: at });
            }
            byte if byte.is_ascii() => {
                at += 1;
                found.push(Token { kind: Kind::Mark(byte), text: &text[start..at], line, start, end: at });
            }
            _ => return Err(ParseError::at(line, "a character is not ASCII")),
        }
    }
    Ok(found)
}

fn number(word: &str) -> Option<Kind> {
    let lower = word.to_ascii_lowercase();
    if let Some(bits) = lower.strip_prefix("0f") {
        return u32::from_str_radix(bits, 16).ok().map(Kind::Single);
    }
    if let Some(bits) = lower.strip_prefix("0d") {
        return u64::from_str_radix(bits, 16).ok().map(Kind::Double);
    }
    let whole = lower.strip_suffix('u').unwrap_or(&lower);
    if let Some(digits) = whole.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok().map(Kind::Integer);
    }
    if let Some(digits) = whole.strip_prefix("0b") {
        return u64::from_str_radix(digits, 2).ok().map(Kind::Integer);
    }
    if whole.len() > 1 && whole.starts_with('0') && whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return u64::from_str_radix(whole, 8).ok().map(Kind::Integer);
    }
    match whole.parse() {
        Ok(value) => Some(Kind::Integer(value)),
        Err(_) => whole.parse::<f64>().ok().map(|value| Kind::Double(value.to_bits())),
    }
}
