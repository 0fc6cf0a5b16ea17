//! What a rank calls: enough to compare the calls of ranks, and to say in words where they differ.

use super::{Communicator, Reduction};
use crate::error::{Error, Result};
use scalert_kernels::dtype::DType;
use scalert_kernels::view::View;
use std::fmt::{Display, Formatter};

/// A name that the host gives to the calls of a rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// UTF-8; zeros from its end on.
    words: [u64; Tag::MOST_BYTES / 8],
}

impl Tag {
    /// Longest tag.
    pub const MOST_BYTES: usize = 64;

    /// A tag of at most [`Tag::MOST_BYTES`] bytes.
    pub fn new(text: &str) -> Result<Tag> {
        if text.len() > Tag::MOST_BYTES || text.contains('\0') {
            let must = format!("{} bytes must be at most {} without a NUL", text.len(), Tag::MOST_BYTES);
            return Err(Error::invalid("tag", must));
        }
        let mut bytes = [0; Tag::MOST_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        let mut tag = Tag::default();
        for (word, chunk) in tag.words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
        }
        Ok(tag)
    }
}

/// The calls of a rank, named while this lives.
pub(crate) struct Named<'a> {
    ranks: &'a dyn Communicator,
    before: Tag,
}

impl<'a> Named<'a> {
    /// Names the calls that follow; of a longer text the beginning.
    pub(crate) fn new(ranks: &'a dyn Communicator, text: &str) -> Result<Named<'a>> {
        let end = (0..=text.len().min(Tag::MOST_BYTES)).rev().find(|end| text.is_char_boundary(*end));
        Ok(Named { ranks, before: ranks.set_tag(Tag::new(&text[..end.unwrap_or(0)])?)? })
    }
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        // A communicator that refuses it refuses the calls as well.
        let _ = self.ranks.set_tag(self.before);
    }
}

impl Display for Tag {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).take_while(|b| *b != 0).collect();
        f.write_str(&String::from_utf8_lossy(&bytes))
    }
}

/// The operations of a communicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Every rank gets the reduction of all.
    AllReduce,
    /// One rank gets it.
    Reduce,
    /// Every rank gets a part of it.
    ReduceScatter,
    /// Every rank gets what all have.
    AllGather,
    /// Every rank gets what one has.
    Broadcast,
    /// Every rank gets a part of what each has.
    AllToAll,
    /// Another rank gets what one has.
    Send,
    /// The other side of that.
    Receive,
    /// Every rank waits for all.
    Barrier,
}

impl Operation {
    const ALL: [Operation; 9] = [
        Operation::AllReduce,
        Operation::Reduce,
        Operation::ReduceScatter,
        Operation::AllGather,
        Operation::Broadcast,
        Operation::AllToAll,
        Operation::Send,
        Operation::Receive,
        Operation::Barrier,
    ];

    /// Its name, such as `all_reduce`.
    pub fn name(self) -> &'static str {
        match self {
            Operation::AllReduce => "all_reduce",
            Operation::Reduce => "reduce",
            Operation::ReduceScatter => "reduce_scatter",
            Operation::AllGather => "all_gather",
            Operation::Broadcast => "broadcast",
            Operation::AllToAll => "all_to_all",
            Operation::Send => "send",
            Operation::Receive => "receive",
            Operation::Barrier => "barrier",
        }
    }
}

/// A call of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) operation: Operation,
    /// Elements that the rank gives to, or gets of, each other rank, and their type.
    pub(super) elements: Option<(u64, DType)>,
    pub(super) reduction: Option<Reduction>,
    pub(super) root: Option<u32>,
    pub(super) tag: Tag,
}

impl Call {
    pub(super) fn new(operation: Operation, x: Option<&View<'_>>) -> Call {
        let elements = x.map(|x| (x.numel() as u64, x.dtype()));
        Call { operation, elements, reduction: None, root: None, tag: Tag::default() }
    }

    pub(super) fn reducing(self, reduction: Reduction) -> Call {
        Call { reduction: Some(reduction), ..self }
    }

    pub(super) fn rooted(self, root: u32) -> Call {
        Call { root: Some(root), ..self }
    }

    /// Whether the calls of two ranks are parts of one operation.
    pub(super) fn agrees(&self, other: &Call) -> bool {
        let operation = match self.operation {
            Operation::Receive => Operation::Send,
            operation => operation,
        };
        *self == *other || Call { operation, ..*self } == Call { operation, ..*other } && self.is_message_with(other)
    }

    fn is_message_with(&self, other: &Call) -> bool {
        let is_message = |call: &Call| matches!(call.operation, Operation::Send | Operation::Receive);
        is_message(self) && is_message(other)
    }
}

/// Words of a [`Record`].
pub(super) const WORDS: usize = 6 + Tag::MOST_BYTES / 8;

/// A call as words, so that ranks can exchange it, and its number among the calls of its rank.
pub(super) type Record = [u64; WORDS];

const REDUCTIONS: [Reduction; 3] = [Reduction::Sum, Reduction::Max, Reduction::Mean];

impl Call {
    pub(super) fn record(&self, sequence: u64) -> Record {
        let mut record = [0; WORDS];
        let (elements, dtype) = self.elements.map_or((0, 0), |(n, dtype)| (n, dtype as u64));
        let reduction = self.reduction.and_then(|r| REDUCTIONS.iter().position(|other| *other == r));
        record[..6].copy_from_slice(&[
            sequence,
            self.operation as u64,
            elements,
            dtype,
            reduction.map_or(0, |r| r as u64 + 1),
            self.root.map_or(0, |root| u64::from(root) + 1),
        ]);
        record[6..].copy_from_slice(&self.tag.words);
        record
    }

    /// The call of a record; None when it is none.
    pub(super) fn of(record: &[u64]) -> Option<Call> {
        let words = record.get(6..WORDS)?.try_into().ok()?;
        let index = |word: u64| usize::try_from(word).ok();
        let dtype = i32::try_from(record[3]).ok().and_then(DType::from_raw);
        Some(Call {
            operation: *Operation::ALL.get(index(record[1])?)?,
            elements: dtype.map(|dtype| (record[2], dtype)),
            reduction: index(record[4])?.checked_sub(1).and_then(|r| REDUCTIONS.get(r)).copied(),
            root: record[5].checked_sub(1).and_then(|root| u32::try_from(root).ok()),
            tag: Tag { words },
        })
    }
}

impl Display for Call {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.operation.name())?;
        match self.reduction {
            Some(Reduction::Sum) => f.write_str(" (sum)")?,
            Some(Reduction::Max) => f.write_str(" (max)")?,
            Some(Reduction::Mean) => f.write_str(" (mean)")?,
            None => {}
        }
        if let Some((n, dtype)) = self.elements {
            write!(f, " of {n} {dtype}")?;
        }
        match (self.operation, self.root) {
            (Operation::Broadcast, Some(root)) => write!(f, " from rank {root}")?,
            (_, Some(root)) => write!(f, " to rank {root}")?,
            (_, None) => {}
        }
        if self.tag != Tag::default() {
            write!(f, " tagged '{}'", self.tag)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_survive_their_records() {
        for (i, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, i);
            let plain = Call::new(operation, None);
            let elements = Some((1 << 40, DType::BF16));
            let tag = Tag::new("layer 3: gradient").unwrap();
            let full = Call { elements, tag, ..plain.reducing(Reduction::Mean).rooted(7) };
            for call in [plain, full] {
                assert_eq!(Call::of(&call.record(5)), Some(call));
            }
        }
        assert_eq!(Call::of(&[9; WORDS]), None);
        assert_eq!(Call::of(&[0; 3]), None);
    }

    #[test]
    fn words_say_what_is_called() {
        let call = Call { elements: Some((10, DType::F32)), ..Call::new(Operation::Reduce, None) };
        let call = call.reducing(Reduction::Sum).rooted(2);
        assert_eq!(call.to_string(), "reduce (sum) of 10 f32 to rank 2");
        let tagged = Call { tag: Tag::new("x").unwrap(), ..Call::new(Operation::Barrier, None) };
        assert_eq!(tagged.to_string(), "barrier tagged 'x'");
        assert!(Tag::new(&"x".repeat(64)).is_ok());
        assert!(Tag::new(&"x".repeat(65)).unwrap_err().message.contains("65 bytes"));
    }

    #[test]
    fn a_message_is_sent_and_received() {
        let call = |operation, n| Call { elements: Some((n, DType::F32)), ..Call::new(operation, None) };
        assert!(call(Operation::Send, 3).agrees(&call(Operation::Receive, 3)));
        assert!(!call(Operation::Send, 3).agrees(&call(Operation::Receive, 4)));
        assert!(!call(Operation::Reduce, 3).agrees(&call(Operation::AllReduce, 3)));
        assert!(call(Operation::Barrier, 0).agrees(&call(Operation::Barrier, 0)));
    }
}
