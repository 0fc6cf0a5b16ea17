//! What ranks must have in common: they tell each other, and name the first difference.

use super::{Inner, State};
use crate::comm::{Communicator, gather};
use crate::error::{Error, Result, Status};
use crate::stream::{Queue, Stream};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Bytes of a description that ranks tell each other.
const DESCRIPTION_BYTES: usize = 256;

fn words_of(description: &str) -> [u64; DESCRIPTION_BYTES / size_of::<u64>()] {
    let mut bytes = [0; DESCRIPTION_BYTES];
    let n = description.len().min(DESCRIPTION_BYTES);
    bytes[..n].copy_from_slice(&description.as_bytes()[..n]);
    let (words, _) = bytes.as_chunks();
    std::array::from_fn(|i| u64::from_le_bytes(words[i]))
}

fn text_of(words: &[u64]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Requires the same descriptions on every rank: `FAILED_PRECONDITION` on all of them names the first that differs.
fn expect_same(ranks: &dyn Communicator, queue: &mut Queue<'_>, descriptions: &[String]) -> Result<()> {
    let hash = |description: &String| {
        let mut hasher = DefaultHasher::new();
        description.hash(&mut hasher);
        hasher.finish()
    };
    let hashes: Vec<u64> = descriptions.iter().map(hash).collect();
    let Some(difference) = ranks.first_difference(queue, &hashes)? else { return Ok(()) };
    // Where one rank has more, its last ones are what the others lack.
    let index = difference.index.unwrap_or_else(|| difference.first.min(difference.other) as usize);
    let words = words_of(descriptions.get(index).map_or("nothing", String::as_str));
    let all = gather(ranks, queue, &words)?;
    let text = |rank: u32| text_of(&all[rank as usize * words.len()..][..words.len()]);
    Err(Error::precondition(format!(
        "ranks must make the same state: number {index} is {} on rank 0, but {} on rank {}",
        text(0),
        text(difference.rank),
        difference.rank
    )))
}

impl State {
    /// Requires that all ranks have added the same groups and parameters, and that `prepare` succeeds on all of them.
    pub(super) fn agree<T>(&self, inner: &Inner, prepare: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(ranks) = inner.ranks() else { return prepare() };
        let stream = Stream::new(&self.runtime)?;
        let mut queue = stream.begin()?;
        let state = format!(
            "a state of stage {}, gradients in {} summed in {} {}, bucket_bytes {}, gather_bytes {}, overlap {}",
            inner.sharding.stage as i32,
            inner.gradient_dtype,
            inner.reduction_dtype,
            if inner.each_micro { "at each micro-batch" } else { "at the step" },
            inner.bucket_bytes,
            inner.gather_bytes,
            inner.overlap
        );
        let groups = inner.groups.iter().map(|group| format!("a group with {:?}", group.desc));
        let parameters = inner.parameters.iter().map(|parameter| {
            let info = &parameter.info;
            format!("parameter '{}' {:?} of group {}", parameter.name(), info.shape, info.group)
        });
        let descriptions: Vec<String> = std::iter::once(state).chain(groups).chain(parameters).collect();
        expect_same(ranks, &mut queue, &descriptions)?;
        let prepared = prepare();
        let status = prepared.as_ref().map_or_else(|error| error.status as u64, |_| 0);
        let statuses = gather(ranks, &mut queue, &[status])?;
        let prepared = prepared?;
        match statuses.iter().position(|status| *status != 0) {
            None => Ok(prepared),
            Some(rank) => {
                let status = i32::try_from(statuses[rank]).ok().and_then(Status::from_raw);
                let status = status.unwrap_or(Status::CommError);
                Err(Error::new(status, format!("rank {rank} could not seal its part of the state, and says why")))
            }
        }
    }
}
