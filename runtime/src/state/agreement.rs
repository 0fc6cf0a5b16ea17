//! What ranks must have in common: they tell each other, and name the first difference.

use super::{Inner, State};
use crate::comm::Communicator;
use crate::device::DeviceKind;
use crate::error::{Error, Result, Status};
use crate::memory::{Block, Purpose, Tier};
use crate::stream::{Queue, Stream};
use scalert_kernels::dtype::DType;
use scalert_kernels::view::View;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Bytes of a description that ranks tell each other.
const DESCRIPTION_BYTES: usize = 256;

/// The words of every rank, in order; each gives as many.
fn tell(ranks: &dyn Communicator, queue: &mut Queue<'_>, words: &[u64]) -> Result<Vec<u64>> {
    let n = words.len();
    let mut all = vec![0u64; n * (1 + ranks.world() as usize)];
    all[..n].copy_from_slice(words);
    let runtime = queue.runtime();
    let bytes = size_of_val(all.as_slice());
    let block = match runtime.device() {
        DeviceKind::Cpu => None,
        DeviceKind::Cuda => Some(Block::new(runtime.memory(), Tier::Device, Purpose::Other, bytes as u64, true)?),
    };
    let host: *mut u8 = all.as_mut_ptr().cast();
    let data = block.as_ref().map_or(host, |block| block.data().as_ptr());
    let view = |word: usize, words: usize| {
        let data = data.wrapping_add(word * size_of::<u64>());
        // SAFETY: the words lie in the vector or the block, which this call alone uses and outlives its work.
        unsafe { View::new("words", data, DType::I64, &[words], &[1]) }
    };
    // SAFETY: both memories have this many bytes; the queue is waited for before they go.
    let copy = |queue: &mut Queue<'_>, to: *mut u8, from: *const u8| unsafe { queue.copy(to, from, bytes) };
    if block.is_some() {
        copy(queue, data, host)?;
    }
    ranks.all_gather(queue, view(0, n)?, view(n, all.len() - n)?)?;
    if block.is_some() {
        copy(queue, host, data)?;
        queue.wait()?;
    }
    Ok(all.split_off(n))
}

/// Requires the same descriptions on every rank: `FAILED_PRECONDITION` on all of them names the first that differs.
pub(super) fn expect_same(
    ranks: &dyn Communicator,
    queue: &mut Queue<'_>,
    what: &str,
    descriptions: &[String],
) -> Result<()> {
    let mut hasher = DefaultHasher::new();
    descriptions.hash(&mut hasher);
    let summaries = tell(ranks, queue, &[descriptions.len() as u64, hasher.finish()])?;
    let (summaries, _) = summaries.as_chunks::<2>();
    if summaries.iter().all(|summary| *summary == summaries[0]) {
        return Ok(());
    }
    let most = summaries.iter().map(|[count, _]| *count).max().expect("one for each rank");
    for i in 0..most as usize {
        let own = descriptions.get(i).map_or("nothing", String::as_str);
        let mut words = [0u64; DESCRIPTION_BYTES / size_of::<u64>()];
        let (chunks, _) = own.as_bytes().as_chunks::<8>();
        let mut tail = [0u8; 8];
        let rest = &own.as_bytes()[chunks.len() * 8..];
        tail[..rest.len()].copy_from_slice(rest);
        chunks.iter().chain([&tail]).zip(&mut words).for_each(|(bytes, word)| *word = u64::from_le_bytes(*bytes));
        let all = tell(ranks, queue, &words)?;
        let mut all = all.chunks_exact(words.len());
        let first = all.next().expect("one for each rank");
        if let Some(other) = all.clone().position(|words| words != first) {
            let other_words = all.nth(other).expect("it was found");
            let text = |words: &[u64]| {
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).take_while(|b| *b != 0).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            return Err(Error::precondition(format!(
                "ranks must {what} in the same way: number {i} is {} on rank 0, but {} on rank {}",
                text(first),
                text(other_words),
                other + 1
            )));
        }
    }
    Err(Error::precondition(format!(
        "ranks must {what} in the same way, and differ beyond {DESCRIPTION_BYTES} bytes of it"
    )))
}

impl State {
    /// Requires that all ranks have added the same groups and parameters, and that `prepare` succeeds on all of them.
    pub(super) fn agree<T>(&self, inner: &Inner, prepare: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(ranks) = inner.ranks() else { return prepare() };
        let stream = Stream::new(&self.runtime)?;
        let mut queue = stream.begin()?;
        let sharding = super::Sharding { rank: 0, ..inner.sharding };
        let exchange = format!("a state with {:?} and {:?}", sharding, inner.exchange_plan());
        let groups = inner.groups.iter().map(|group| format!("a group with {:?}", group.desc));
        let parameters = inner.parameters.iter().map(|parameter| {
            let info = &parameter.info;
            format!("parameter '{}' {:?} of group {}", parameter.name(), info.shape, info.group)
        });
        let descriptions: Vec<String> = groups.chain(parameters).chain([exchange]).collect();
        expect_same(ranks, &mut queue, "make the state", &descriptions)?;
        let prepared = prepare();
        let status = prepared.as_ref().map_or_else(|error| error.status as u64, |_| 0);
        let statuses = tell(ranks, &mut queue, &[status])?;
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
