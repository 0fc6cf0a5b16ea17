//! Whether all ranks have the same words.

use super::{Communicator, Difference};
use crate::error::{Error, Result, Status};
use crate::memory::{Block, Purpose, Tier};
use crate::stream::Queue;
use scalert_kernels::dtype::DType;
use scalert_kernels::view::View;

/// [`Communicator::agree`].
pub(super) fn agree<C: Communicator + ?Sized>(
    communicator: &C,
    queue: &mut Queue<'_>,
    what: &str,
    words: &[u64],
) -> Result<()> {
    let Some(Difference { rank, index, first, other }) = communicator.first_difference(queue, words)? else {
        return Ok(());
    };
    Err(Error::precondition(match index {
        Some(index) => {
            format!("{what}: word {index} is {first} on rank 0 and {other} on rank {rank}, must be the same")
        }
        None => format!("{what}: rank 0 has {first} words and rank {rank} {other}, must be the same"),
    }))
}

/// [`Communicator::first_difference`]: numbers of words first, so that all ranks gather as many, or none do.
pub(super) fn first_difference<C: Communicator + ?Sized>(
    communicator: &C,
    queue: &mut Queue<'_>,
    words: &[u64],
) -> Result<Option<Difference>> {
    let lengths = gather(communicator, queue, &[words.len() as u64])?;
    if let Some(rank) = lengths.iter().position(|length| *length != lengths[0]) {
        let (first, other) = (lengths[0], lengths[rank]);
        return Ok(Some(Difference { rank: rank as u32, index: None, first, other }));
    }
    // In pieces, so that many words of many ranks take little memory.
    let piece = (MOST_GATHERED / communicator.world() as usize).max(1);
    for (first, mine) in words.chunks(piece).enumerate() {
        let all = gather(communicator, queue, mine)?;
        let (rank0, _) = all.split_at(mine.len());
        let difference = all.chunks_exact(mine.len()).enumerate().find_map(|(rank, theirs)| {
            let at = theirs.iter().zip(rank0).position(|(theirs, first)| theirs != first)?;
            let index = Some(first * piece + at);
            Some(Difference { rank: rank as u32, index, first: rank0[at], other: theirs[at] })
        });
        if difference.is_some() {
            return Ok(difference);
        }
    }
    Ok(None)
}

/// Words that are gathered at a time, of all ranks together.
const MOST_GATHERED: usize = 1 << 16;

/// The words of all ranks, as many of each, in their order.
pub(super) fn gather<C: Communicator + ?Sized>(
    communicator: &C,
    queue: &mut Queue<'_>,
    words: &[u64],
) -> Result<Vec<u64>> {
    let n = words.len();
    let mut all: Vec<u64> = Vec::new();
    let total = n.saturating_mul(communicator.world() as usize);
    all.try_reserve_exact(total)
        .map_err(|_| Error::new(Status::OutOfMemory, format!("{total} words of all ranks cannot be allocated")))?;
    all.resize(total, 0);
    let block = |words: usize| {
        Block::new(queue.runtime().memory(), Tier::Device, Purpose::Other, (words * size_of::<u64>()) as u64, false)
    };
    let (mine, theirs) = (block(n)?, block(all.len())?);
    // SAFETY: the blocks have this many words, and are used by this function alone, which waits for the work below.
    let (input, output) = unsafe {
        (
            View::new("words", mine.data().as_ptr(), DType::I64, &[n], &[1])?,
            View::new("words", theirs.data().as_ptr(), DType::I64, &[all.len()], &[1])?,
        )
    };
    // SAFETY: as above, of the vectors as well.
    let outcome = unsafe { queue.copy(input.data(), words.as_ptr().cast(), size_of_val(words)) }
        .and_then(|()| communicator.all_gather(queue, input, output))
        // SAFETY: as above.
        .and_then(|()| unsafe { queue.copy(all.as_mut_ptr().cast(), output.data(), size_of_val(all.as_slice())) });
    let waited = queue.wait();
    if communicator.may_use_memory() {
        std::mem::forget((mine, theirs));
    }
    outcome.and(waited).map(|()| all)
}
