//! A group of one rank: nothing but copies, on any device.

use super::{Communicator, Reduction};
use crate::error::{Error, Result, Status};
use crate::stream::Queue;
use scalert_kernels::view::View;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Default)]
pub(super) struct Single {
    is_aborted: AtomicBool,
}

impl Single {
    /// output = input, which may be the same.
    fn copy(&self, queue: &mut Queue<'_>, input: View<'_>, output: View<'_>) -> Result<()> {
        self.async_error()?;
        if input.data() == output.data() {
            return Ok(());
        }
        // SAFETY: the views are of one size and, not being the same, apart: checked arguments.
        unsafe { queue.copy(output.data(), input.data(), input.numel() * input.dtype().size()) }
    }

    fn nobody(&self) -> Result<()> {
        self.async_error()?;
        Err(Error::precondition("the group has no other rank"))
    }
}

impl Communicator for Single {
    fn rank(&self) -> u32 {
        0
    }
    fn world(&self) -> u32 {
        1
    }
    fn deterministic(&self) -> bool {
        true
    }
    fn all_reduce(&self, _: &mut Queue<'_>, _: View<'_>, _: Reduction) -> Result<()> {
        self.async_error()
    }
    fn reduce(
        &self,
        queue: &mut Queue<'_>,
        input: View<'_>,
        output: Option<View<'_>>,
        _: Reduction,
        _: u32,
    ) -> Result<()> {
        self.copy(queue, input, output.unwrap_or(input))
    }
    fn reduce_scatter(&self, queue: &mut Queue<'_>, input: View<'_>, output: View<'_>, _: Reduction) -> Result<()> {
        self.copy(queue, input, output)
    }
    fn all_gather(&self, queue: &mut Queue<'_>, input: View<'_>, output: View<'_>) -> Result<()> {
        self.copy(queue, input, output)
    }
    fn broadcast(&self, _: &mut Queue<'_>, _: View<'_>, _: u32) -> Result<()> {
        self.async_error()
    }
    fn all_to_all(&self, queue: &mut Queue<'_>, input: View<'_>, output: View<'_>) -> Result<()> {
        self.copy(queue, input, output)
    }
    fn send(&self, _: &mut Queue<'_>, _: View<'_>, _: u32) -> Result<()> {
        self.nobody()
    }
    fn receive(&self, _: &mut Queue<'_>, _: View<'_>, _: u32) -> Result<()> {
        self.nobody()
    }
    fn barrier(&self, _: &mut Queue<'_>) -> Result<()> {
        self.async_error()
    }
    fn abort(&self) {
        self.is_aborted.store(true, Ordering::Release);
    }
    fn async_error(&self) -> Result<()> {
        if self.is_aborted.load(Ordering::Acquire) {
            return Err(Error::new(Status::CommError, "the group has failed: rank 0 has aborted the group"));
        }
        Ok(())
    }
}
