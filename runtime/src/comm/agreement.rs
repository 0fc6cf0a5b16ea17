//! Whether all ranks have the same words.

use super::{Communicator, Difference};
use crate::device::DeviceKind;
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

/// The words of all ranks, as many of each, in their order. They are in the host's own memory where the device reaches it, else
/// in a block of the ledger meanwhile.
pub(crate) fn gather<C: Communicator + ?Sized>(
    communicator: &C,
    queue: &mut Queue<'_>,
    words: &[u64],
) -> Result<Vec<u64>> {
    let n = words.len();
    let mut all: Vec<u64> = Vec::new();
    let total = n.saturating_mul(1 + communicator.world() as usize);
    all.try_reserve_exact(total)
        .map_err(|_| Error::new(Status::OutOfMemory, format!("{total} words of all ranks cannot be allocated")))?;
    all.extend_from_slice(words);
    all.resize(total, 0);
    let bytes = size_of_val(all.as_slice());
    let runtime = queue.runtime();
    let block = match runtime.device() {
        DeviceKind::Cpu => None,
        DeviceKind::Cuda => Some(Block::new(runtime.memory(), Tier::Device, Purpose::Other, bytes as u64, false)?),
    };
    let host: *mut u8 = all.as_mut_ptr().cast();
    let data = block.as_ref().map_or(host, |block| block.data().as_ptr());
    let view = |word: usize, words: usize| {
        let data = data.wrapping_add(word * size_of::<u64>());
        // SAFETY: the words lie in the vector or the block, which this function alone uses until their work is done.
        unsafe { View::new("words", data, DType::I64, &[words], &[1]) }
    };
    let (input, output) = (view(0, n)?, view(n, total - n)?);
    let outcome = if block.is_none() {
        communicator.all_gather(queue, input, output)
    } else {
        // SAFETY: vector and block have this many bytes, and are waited for below.
        unsafe { queue.copy(data, host, bytes) }
            .and_then(|()| communicator.all_gather(queue, input, output))
            // SAFETY: as above.
            .and_then(|()| unsafe { queue.copy(host, data, bytes) })
    };
    let outcome = outcome.and(queue.wait());
    if communicator.may_use_memory() {
        std::mem::forget((all, block));
        return Err(outcome.and_then(|()| communicator.async_error()).err().unwrap_or_else(|| {
            Error::new(Status::CommError, "an earlier operation has failed that may still use its memory")
        }));
    }
    outcome.map(|()| all.split_off(n))
}
