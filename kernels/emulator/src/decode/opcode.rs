//! An opcode and its modifiers. Every modifier has to be asked for: one that nobody knows is an error.

use std::cell::Cell;

/// A type that an instruction names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
    Tf32,
    F32,
    F64,
    Predicate,
}

impl Type {
    fn named(name: &str) -> Option<Type> {
        Some(match name {
            "b8" => Type::B8,
            "b16" => Type::B16,
            "b32" => Type::B32,
            "b64" => Type::B64,
            "u8" => Type::U8,
            "u16" => Type::U16,
            "u32" => Type::U32,
            "u64" => Type::U64,
            "s8" => Type::S8,
            "s16" => Type::S16,
            "s32" => Type::S32,
            "s64" => Type::S64,
            "f16" => Type::F16,
            "bf16" => Type::Bf16,
            "f16x2" => Type::F16x2,
            "bf16x2" => Type::Bf16x2,
            "tf32" => Type::Tf32,
            "f32" => Type::F32,
            "f64" => Type::F64,
            "pred" => Type::Predicate,
            _ => return None,
        })
    }

    /// Its size.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Type::B8 | Type::U8 | Type::S8 => 1,
            Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 2,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => 8,
            _ => 4,
        }
    }

    /// Whether it takes a 64-bit register.
    pub(crate) fn wide(self) -> bool {
        self.bytes() == 8
    }

    /// Whether it is a signed integer.
    pub(crate) fn signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    /// Whether it is an integer or untyped bits.
    pub(crate) fn integer(self) -> bool {
        !matches!(
            self,
            Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2 | Type::Tf32 | Type::F32 | Type::F64 | Type::Predicate
        )
    }
}

/// An opcode, split at its dots.
pub(crate) struct Opcode<'a> {
    /// The first part.
    pub(crate) name: &'a str,
    parts: Vec<(&'a str, Cell<bool>)>,
}

impl<'a> Opcode<'a> {
    pub(crate) fn new(text: &'a str) -> Opcode<'a> {
        let mut parts = text.split('.');
        let name = parts.next().unwrap_or_default();
        Opcode { name, parts: parts.map(|part| (part, Cell::new(false))).collect() }
    }

    /// Whether a modifier is there.
    pub(crate) fn has(&self, modifier: &str) -> bool {
        let found = self.parts.iter().find(|(part, used)| *part == modifier && !used.get());
        found.inspect(|(_, used)| used.set(true)).is_some()
    }

    /// The modifier of a list that is there.
    pub(crate) fn one_of(&self, modifiers: &[&'static str]) -> Option<&'static str> {
        modifiers.iter().copied().find(|modifier| self.has(modifier))
    }

    /// All types, in order.
    pub(crate) fn types(&self) -> Vec<Type> {
        let typed = self.parts.iter().filter_map(|(part, used)| Type::named(part).inspect(|_| used.set(true)));
        typed.collect()
    }

    /// A modifier that nobody has asked for.
    pub(crate) fn unused(&self) -> Option<&'a str> {
        self.parts.iter().find(|(_, used)| !used.get()).map(|(part, _)| *part)
    }

    /// Ignores modifiers that change nothing here.
    pub(crate) fn ignore(&self, modifiers: &[&str]) {
        for (part, used) in &self.parts {
            if modifiers.contains(part) {
                used.set(true);
            }
        }
    }

    /// Ignores modifiers that start with a prefix.
    pub(crate) fn ignore_prefix(&self, prefix: &str) {
        for (part, used) in &self.parts {
            if part.starts_with(prefix) {
                used.set(true);
            }
        }
    }
}
