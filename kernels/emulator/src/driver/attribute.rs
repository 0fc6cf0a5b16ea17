//! What a device says of itself.

use std::ffi::c_int;

use super::argument::Out;
use super::device;
use super::error::Status;
use super::export::exports;

/// Threads of a block.
pub(super) const MAX_THREADS_PER_BLOCK: u32 = 1024;
/// Threads of a block along each axis.
pub(super) const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Blocks of a grid along each axis.
pub(super) const MAX_GRID: [u32; 3] = [0x7fff_ffff, 0xffff, 0xffff];
/// Lanes of a warp.
pub(super) const WARP: u32 = 32;
/// Threads that a multiprocessor holds.
pub(super) const THREADS_PER_MULTIPROCESSOR: u32 = 2048;
/// Blocks that a multiprocessor holds.
pub(super) const BLOCKS_PER_MULTIPROCESSOR: u32 = 32;
/// Registers of a multiprocessor, and of a block.
pub(super) const REGISTERS: u32 = 65536;
/// Bytes of shared memory of a block that has not asked for more.
pub(super) const SHARED_PER_BLOCK: u32 = 48 << 10;
/// Bytes of shared memory of a block that has.
pub(super) const SHARED_PER_BLOCK_OPTIN: u32 = 163 << 10;
/// Bytes of shared memory of a multiprocessor.
pub(super) const SHARED_PER_MULTIPROCESSOR: u32 = 164 << 10;
/// Bytes of shared memory that the system takes of each block.
pub(super) const SHARED_RESERVED_PER_BLOCK: u32 = 1 << 10;
/// Compute capability, ten times the major number and the minor one.
pub(super) const CAPABILITY: u32 = 80;

/// The last attribute that the API of this version knows.
const LAST: c_int = 147;

/// Values by attribute number; a known attribute that is absent is 0: not supported.
const VALUES: &[(c_int, u32)] = &[
    (1, MAX_THREADS_PER_BLOCK),
    (2, MAX_BLOCK[0]),
    (3, MAX_BLOCK[1]),
    (4, MAX_BLOCK[2]),
    (5, MAX_GRID[0]),
    (6, MAX_GRID[1]),
    (7, MAX_GRID[2]),
    (8, SHARED_PER_BLOCK),
    (9, 64 << 10), // constant memory
    (10, WARP),
    (11, 0x7fff_ffff), // pitch
    (12, REGISTERS),
    (13, 1_000_000), // clock, kHz
    (14, 512),       // alignment of textures
    (15, 1),         // copies overlap with kernels
    (16, 4),         // multiprocessors
    (19, 1),         // maps host memory
    (30, 512),       // alignment of surfaces
    (31, 1),         // concurrent kernels
    (36, 1_000_000), // memory clock, kHz
    (37, 256),       // width of the memory bus, bits
    (38, 4 << 20),   // level-2 cache
    (39, THREADS_PER_MULTIPROCESSOR),
    (40, 2), // copy engines
    (41, 1), // unified addressing
    (51, 32),
    (75, CAPABILITY / 10),
    (76, CAPABILITY % 10),
    (78, 1), // stream priorities
    (79, 1), // global loads through the level-1 cache
    (80, 1), // local loads through the level-1 cache
    (81, SHARED_PER_MULTIPROCESSOR),
    (82, REGISTERS),
    (83, 1), // managed memory
    (87, 2), // single to double precision
    (89, 1), // concurrent managed access
    (90, 1), // preemption
    (91, 1), // kernels take the host's pointer to registered memory
    (97, SHARED_PER_BLOCK_OPTIN),
    (99, 1), // registers host memory
    (106, BLOCKS_PER_MULTIPROCESSOR),
    (111, SHARED_RESERVED_PER_BLOCK),
    (115, 1), // memory pools
    (130, 0), // no NUMA node
    (131, u32::MAX),
    (134, u32::MAX),
];

exports! {
    /// One attribute of a device.
    fn cuDeviceGetAttribute(value: Out<c_int>, attribute: c_int, device: c_int) {
        let value = value.required()?;
        device::get(device)?;
        if !(1..=LAST).contains(&attribute) {
            return Err(Status::INVALID_VALUE);
        }
        let known = VALUES.iter().find(|entry| entry.0 == attribute).map_or(0, |entry| entry.1 as c_int);
        // The bus and device numbers on the bus differ between devices.
        value.set(if attribute == 33 { device + 1 } else { known })
    }
}
