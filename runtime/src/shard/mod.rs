//! How training state is divided over the ranks of a group (ZeRO, Rajbhandari et al. 2020): pure arithmetic.
//!
//! | module | is |
//! |---|---|
//! | `layout` | the flat space of parameters, and which rank has which part of it |
//! | `bucket` | gradients on their way to the sum over ranks |
//! | `forecast` | which parameters will be acquired next |
//! | `gathered` | where the weights of a sharded parameter are while they are in use |

pub(crate) mod bucket;
pub(crate) mod forecast;
pub(crate) mod gathered;
pub(crate) mod layout;

/// What each rank keeps a part of, instead of all. The numbers are those of the C header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum Stage {
    /// Nothing: everything is on every rank.
    #[default]
    Replicated = 0,
    /// Master weights and moments.
    Optimizer = 1,
    /// Gradient accumulators too.
    Gradients = 2,
    /// Weights too.
    Parameters = 3,
}
