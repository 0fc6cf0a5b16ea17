//! Communicators: collective operations over a group of ranks.
//!
//! Every rank calls the same operations in the same order, each with a stream of its own runtime. An operation is enqueued; on
//! the CPU device it is complete when it returns. Tensors are contiguous and of one dimension; n is their number of elements.
//!
//! | module | is |
//! |---|---|
//! | `handle` | [`Comm`], what hosts and training states hold: it checks arguments |
//! | `single` | a group of one rank |
//! | `local` | ranks that are threads of one process, and their `rendezvous` |
//! | [`host`] | the host's own communicator behind callbacks |
//! | [`nccl`] | ranks of NCCL, one CUDA device each |
//! | `checked` | any communicator, whose ranks compare their calls first |
//! | `agreement` | whether all ranks have the same words |
//! | `call` | what a rank calls, in words |

mod agreement;
mod call;
mod checked;
mod handle;
pub mod host;
mod local;
pub mod nccl;
mod rendezvous;
mod single;

pub(crate) use agreement::gather;
pub(crate) use call::Named;
pub use call::{Operation, Tag};
pub use handle::{Comm, CommDesc};
pub use scalert_kernels::ops::rank_reduce::Reduction;

use crate::error::Result;
use crate::stream::Queue;
use scalert_kernels::view::View;

/// A group of ranks. Arguments have been checked: dtypes, shapes, overlap, and that memory is of the device.
pub(crate) trait Communicator: Send + Sync {
    /// This rank: 0 to world - 1.
    fn rank(&self) -> u32;
    /// The number of ranks.
    fn world(&self) -> u32;
    /// Whether sums are in the order of ranks, so that they have the same bits every time and however tensors are divided.
    fn deterministic(&self) -> bool;
    /// x = the reduction of x over the ranks, on every rank.
    fn all_reduce(&self, queue: &mut Queue<'_>, x: View<'_>, reduction: Reduction) -> Result<()>;
    /// output = the reduction of input over the ranks, on `root`; elsewhere output is not given. It may be input itself.
    fn reduce(
        &self,
        queue: &mut Queue<'_>,
        input: View<'_>,
        output: Option<View<'_>>,
        reduction: Reduction,
        root: u32,
    ) -> Result<()>;
    /// output \[n\] = part `rank` of the reduction of input \[world n\]; it may be that part of input.
    fn reduce_scatter(
        &self,
        queue: &mut Queue<'_>,
        input: View<'_>,
        output: View<'_>,
        reduction: Reduction,
    ) -> Result<()>;
    /// output \[world n\] = the inputs \[n\] of the ranks, one behind the other; input may be its part of output.
    fn all_gather(&self, queue: &mut Queue<'_>, input: View<'_>, output: View<'_>) -> Result<()>;
    /// x = x of `root`.
    fn broadcast(&self, queue: &mut Queue<'_>, x: View<'_>, root: u32) -> Result<()>;
    /// Part r of output \[world n\] = part `rank` of input \[world n\] of rank r.
    fn all_to_all(&self, queue: &mut Queue<'_>, input: View<'_>, output: View<'_>) -> Result<()>;
    /// Gives x to another rank, which receives it.
    fn send(&self, queue: &mut Queue<'_>, x: View<'_>, to: u32) -> Result<()>;
    /// x = what another rank sends.
    fn receive(&self, queue: &mut Queue<'_>, x: View<'_>, from: u32) -> Result<()>;
    /// Holds work of the queue back until every rank has come here.
    fn barrier(&self, queue: &mut Queue<'_>) -> Result<()>;
    /// Gives the group up: operations in progress and later ones, of every rank that can be reached, fail.
    fn abort(&self);
    /// What has gone wrong since, if anything.
    fn async_error(&self) -> Result<()>;

    /// Whether an operation has failed that may still write to the memory it was given: memory lent to it is then never freed.
    fn may_use_memory(&self) -> bool {
        false
    }

    /// Names the calls of this rank from now on, where ranks compare their calls; gives the name that they had.
    fn set_tag(&self, tag: Tag) -> Result<Tag> {
        Ok(tag)
    }

    /// Requires all ranks to have the same words: else `FAILED_PRECONDITION` on every rank, which names two ranks and what
    /// they have. A collective operation that waits for the device.
    fn agree(&self, queue: &mut Queue<'_>, what: &str, words: &[u64]) -> Result<()> {
        agreement::agree(self, queue, what, words)
    }

    /// Where the words of the ranks first differ: the same answer on every rank. A collective operation that waits for the
    /// device.
    fn first_difference(&self, queue: &mut Queue<'_>, words: &[u64]) -> Result<Option<Difference>> {
        agreement::first_difference(self, queue, words)
    }
}

/// Where the words of two ranks differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The first rank whose words are not those of rank 0.
    pub rank: u32,
    /// The first word that is not that of rank 0; None when their numbers differ.
    pub index: Option<usize>,
    /// What rank 0 has there, or how many words.
    pub first: u64,
    /// What `rank` has there, or how many words.
    pub other: u64,
}
