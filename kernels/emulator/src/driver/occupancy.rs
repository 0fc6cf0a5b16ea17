//! How many blocks of a kernel a multiprocessor holds.

use std::ffi::{c_int, c_uint};

use super::argument::Out;
use super::attribute::{
    BLOCKS_PER_MULTIPROCESSOR, REGISTERS, SHARED_PER_MULTIPROCESSOR, SHARED_RESERVED_PER_BLOCK,
    THREADS_PER_MULTIPROCESSOR, WARP,
};
use super::current;
use super::error::Status;
use super::export::exports;
use super::function::{FUNCTIONS, Function};

/// Registers are given out to warps in this unit.
const REGISTER_UNIT: u32 = 256;
/// Shared memory is given out in this unit.
const SHARED_UNIT: u64 = 128;

type DynamicShared = unsafe extern "C" fn(c_int) -> usize;

/// Blocks of a kernel with so many threads and bytes of dynamic shared memory that a multiprocessor holds.
fn blocks(function: &Function, threads: u32, dynamic: usize) -> Result<u32, Status> {
    if threads == 0 || threads > function.max_threads()? || dynamic > function.max_dynamic() as usize {
        return Ok(0);
    }
    let warps = threads.div_ceil(WARP);
    let registers = warps * (function.registers()? * WARP).next_multiple_of(REGISTER_UNIT);
    let shared = u64::from(function.entry()?.shared_bytes) + dynamic as u64 + u64::from(SHARED_RESERVED_PER_BLOCK);
    let by_shared = u64::from(SHARED_PER_MULTIPROCESSOR) / shared.next_multiple_of(SHARED_UNIT);
    let by_threads = THREADS_PER_MULTIPROCESSOR / (warps * WARP);
    Ok(by_threads.min(REGISTERS / registers).min(by_shared as u32).min(BLOCKS_PER_MULTIPROCESSOR))
}

fn count(out: Out<c_int>, function: usize, threads: c_int, dynamic: usize) -> Result<(), Status> {
    current::context()?;
    let function = FUNCTIONS.get(function)?;
    let threads = u32::try_from(threads).ok().filter(|threads| *threads > 0).ok_or(Status::INVALID_VALUE)?;
    out.set(blocks(&function, threads, dynamic)? as c_int)
}

exports! {
    /// Blocks of a kernel that a multiprocessor holds.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(out: Out<c_int>, function: usize, threads: c_int, dynamic: usize) {
        count(out, function, threads, dynamic)
    }

    /// Blocks of a kernel that a multiprocessor holds, with flags, which are without effect.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        out: Out<c_int>,
        function: usize,
        threads: c_int,
        dynamic: usize,
        flags: c_uint,
    ) {
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        count(out, function, threads, dynamic)
    }

    /// Size of a block with which a multiprocessor holds most threads, and the grid that fills the device.
    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<c_int>,
        block: Out<c_int>,
        function: usize,
        dynamic_of_block: Option<DynamicShared>,
        dynamic: usize,
        limit: c_int,
    ) {
        const MULTIPROCESSORS: u32 = 4;
        current::context()?;
        let function = FUNCTIONS.get(function)?;
        let most = function.max_threads()?;
        let most = u32::try_from(limit).ok().filter(|limit| *limit > 0).map_or(most, |limit| limit.min(most));
        let mut best = (0, 0, 0);
        for threads in (WARP..=most.next_multiple_of(WARP)).rev().step_by(WARP as usize) {
            let threads = threads.min(most);
            // SAFETY: the caller vouches for a function that takes a size of a block.
            let dynamic = dynamic_of_block.map_or(dynamic, |dynamic| unsafe { dynamic(threads as c_int) });
            let held = blocks(&function, threads, dynamic)?;
            best = best.max((held * threads, threads, held));
        }
        grid.set((best.2 * MULTIPROCESSORS) as c_int)?;
        block.set(best.1 as c_int)
    }
}
