//! CUDA devices: the driver of this process, contexts, and what of them streams, events and memory are made of.
//!
//! The host owns its context: the one that is current when a runtime is made is used if it is of the wanted device, else
//! the primary one is retained. Every call pushes it and pops it again, and never resets it.

mod context;
mod driver;
mod event;
mod failure;
mod memory;
mod stream;
mod timing;

pub use driver::provide_driver;

pub(crate) use context::{Context, Entered};
pub(crate) use driver::{count, describe};
pub(crate) use event::NativeEvent;
pub(crate) use stream::{Capture, NativeStream};
pub(crate) use timing::Timeline;
