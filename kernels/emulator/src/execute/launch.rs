//! Launches: blocks run one after another, on one or several host threads.

use super::block::Block;
use super::order::WARPS;
use super::shared::Shared;
use super::warp::Warp;
use crate::fault::{Done, Fault, FaultKind};
use crate::memory::Memory;
use crate::module::{Entry, Module, ModuleInstance};
use crate::program::{Fixed, FixedRow, LaneMask};
use crate::registers::{LANES, Registers};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Shared memory of a block at most: what the largest device offers.
const MAX_SHARED: usize = 227 << 10;

/// The number of multiprocessors that kernels see.
const PROCESSORS: u32 = 4;

/// How a launch is executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Instructions that one warp may run before it counts as an infinite loop.
    pub instruction_limit: u64,
    /// Whether races in shared memory are looked for. Bounds, uninitialised bytes and barriers always are.
    pub check_races: bool,
    /// Host threads that run blocks.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { instruction_limit: 1 << 28, check_races: true, threads: 1 }
    }
}

/// A kernel and all it needs to run.
pub struct Launch<'a> {
    /// The module of the kernel.
    pub module: &'a Module,
    /// The variables of the module.
    pub instance: &'a ModuleInstance,
    /// The kernel.
    pub entry: &'a Entry,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub dynamic_shared: u32,
    /// The buffer of parameters, laid out as [`Entry::params`] says.
    pub params: &'a [u8],
    /// How to execute it.
    pub options: &'a Options,
}

/// What a launch took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Instructions executed, counted once for a warp.
    pub instructions: u64,
    /// Instructions executed, counted for each lane that was active.
    pub lane_instructions: u64,
    /// Blocks.
    pub blocks: u64,
    /// Warps.
    pub warps: u64,
}

/// Runs a kernel to its end. On a fault the launch stops; what it wrote before stays written.
pub fn launch(memory: &Memory, launch: &Launch<'_>) -> Result<Statistics, Fault> {
    let shared = validate(launch)?;
    let count = launch.grid.iter().map(|&blocks| u64::from(blocks)).product::<u64>();
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let outcome: Mutex<(Statistics, Option<Box<Fault>>)> = Mutex::default();
    let work = || {
        let result = run_blocks(memory, launch, shared, count, &next, &failed);
        let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(statistics) => {
                outcome.0.instructions += statistics.instructions;
                outcome.0.lane_instructions += statistics.lane_instructions;
                outcome.0.blocks += statistics.blocks;
                outcome.0.warps += statistics.warps;
            }
            Err(fault) => {
                failed.store(true, Relaxed);
                outcome.1.get_or_insert(fault);
            }
        }
    };
    let threads = (launch.options.threads.max(1) as u64).min(count);
    if threads == 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
    }
    let (statistics, fault) = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    fault.map_or(Ok(statistics), |fault| Err(*fault))
}

/// The bytes of shared memory, if the launch can be.
fn validate(launch: &Launch<'_>) -> Result<usize, Fault> {
    let entry = launch.entry;
    let refuse = |message: String| {
        Err(Fault {
            kind: FaultKind::InvalidLaunch,
            kernel: entry.name.clone(),
            line: 0,
            instruction: String::new(),
            address: None,
            block: [0; 3],
            thread: [0; 3],
            message,
        })
    };
    let threads = launch.block.iter().map(|&threads| u64::from(threads)).product::<u64>();
    let most = entry.max_threads.unwrap_or(1024).min((WARPS * LANES) as u32);
    if threads == 0 || threads > u64::from(most) {
        return refuse(format!("a block of {:?} is {threads} threads, and 1 to {most} are possible", launch.block));
    }
    if launch.grid.contains(&0) {
        return refuse(format!("a grid of {:?} has no blocks", launch.grid));
    }
    if launch.grid[1] > 65535 || launch.grid[2] > 65535 || launch.grid[0] > i32::MAX as u32 {
        return refuse(format!("a grid of {:?} is too large", launch.grid));
    }
    if launch.block[2] > 64 {
        return refuse(format!("a block of {:?} has more than 64 threads along z", launch.block));
    }
    if launch.params.len() < entry.params_bytes {
        let (given, needed) = (launch.params.len(), entry.params_bytes);
        return refuse(format!("{given} bytes of parameters were given, and the kernel takes {needed}"));
    }
    let shared = dynamic_start(entry) as usize + launch.dynamic_shared as usize;
    if shared > MAX_SHARED {
        return refuse(format!("{shared} bytes of shared memory, and a block has at most {MAX_SHARED}"));
    }
    if !launch.module.entries().any(|other| std::ptr::eq(other, entry)) {
        return refuse("the kernel is not of the module".to_string());
    }
    Ok(shared)
}

/// Where dynamic shared memory starts.
fn dynamic_start(entry: &Entry) -> u64 {
    u64::from(entry.shared_bytes).next_multiple_of(16)
}

fn run_blocks(
    memory: &Memory,
    launch: &Launch<'_>,
    shared_bytes: usize,
    count: u64,
    next: &AtomicU64,
    failed: &AtomicBool,
) -> Done<Statistics> {
    let (entry, options) = (launch.entry, launch.options);
    let program = &entry.program;
    let threads: u32 = launch.block.iter().product();
    let shared = Shared::new(shared_bytes, options.check_races);
    let mut block = Block::new(entry, memory, launch.params, launch.block, shared, options.instruction_limit);
    let mut warps: Vec<Warp> = (0..threads.div_ceil(LANES as u32))
        .map(|index| {
            let registers = Registers::new(program.rows, program.predicates);
            Warp::new(index, registers, (program.local_bytes.next_multiple_of(16)) + program.frame_bytes)
        })
        .collect();
    for warp in &mut warps {
        for fixed in &program.fixed {
            set_fixed(warp, fixed, launch, shared_bytes);
        }
    }
    let per_block: Vec<FixedRow> =
        program.fixed.iter().filter(|fixed| matches!(fixed.value, Fixed::BlockIndex(_))).copied().collect();
    let mut statistics = Statistics::default();
    let mut tick = 1;
    loop {
        let number = next.fetch_add(1, Relaxed);
        if number >= count || failed.load(Relaxed) {
            return Ok(statistics);
        }
        let [x, y, _] = launch.grid.map(u64::from);
        block.index = [(number % x) as u32, (number / x % y) as u32, (number / (x * y)) as u32];
        if tick > u32::MAX / 2 {
            tick = 1;
            block.shared.clear();
        }
        block.shared.start(tick);
        let count_of_warps = warps.len();
        for warp in &mut warps {
            for fixed in &per_block {
                if let Fixed::BlockIndex(axis) = fixed.value {
                    let value = u64::from(block.index[axis as usize]);
                    warp.registers.broadcast(fixed.slot, fixed.wide, value);
                }
            }
            let lanes = (threads - warp.index * LANES as u32).min(LANES as u32);
            warp.start(u32::MAX >> (LANES as u32 - lanes), tick, count_of_warps);
        }
        block.run(&mut warps)?;
        statistics.blocks += 1;
        statistics.warps += warps.len() as u64;
        for warp in &warps {
            statistics.instructions += warp.executed;
            tick = tick.max(warp.order.tick() + 1);
        }
        statistics.lane_instructions = warps.iter().map(|warp| warp.lanes_executed).sum();
    }
}

/// Fills a row that is the same in every block.
fn set_fixed(warp: &mut Warp, fixed: &FixedRow, launch: &Launch<'_>, shared_bytes: usize) {
    let [x, y, _] = launch.block;
    let first = warp.index * LANES as u32;
    let value = |lane: u32| -> u64 {
        let thread = first + lane;
        match fixed.value {
            Fixed::Value(value) => value,
            Fixed::Module(offset) => launch.instance.address_of(0).wrapping_add(offset),
            Fixed::DynamicShared(offset) => dynamic_start(launch.entry).wrapping_add(offset),
            Fixed::Thread(axis) => u64::from([thread % x, thread / x % y, thread / (x * y)][axis as usize]),
            Fixed::Threads(axis) => u64::from(launch.block[axis as usize]),
            Fixed::Blocks(axis) => u64::from(launch.grid[axis as usize]),
            Fixed::BlockIndex(_) | Fixed::Zero | Fixed::Processor => 0,
            Fixed::Lane => u64::from(lane),
            Fixed::Warp => u64::from(warp.index),
            Fixed::Warps => u64::from(launch.block.iter().product::<u32>().div_ceil(LANES as u32)),
            Fixed::Processors => u64::from(PROCESSORS),
            Fixed::LaneMask(mask) => u64::from(match mask {
                LaneMask::Equal => 1 << lane,
                LaneMask::Less => (1u32 << lane) - 1,
                LaneMask::LessEqual => u32::MAX >> (31 - lane),
                LaneMask::Greater => !(u32::MAX >> (31 - lane)),
                LaneMask::GreaterEqual => u32::MAX << lane,
            }),
            Fixed::DynamicSharedBytes => u64::from(launch.dynamic_shared),
            Fixed::TotalSharedBytes => shared_bytes as u64,
        }
    };
    let values: [u64; LANES] = std::array::from_fn(|lane| value(lane as u32));
    if fixed.wide {
        *warp.registers.wide_mut(fixed.slot) = values;
    } else {
        *warp.registers.row_mut(fixed.slot) = values.map(|value| value as u32);
    }
}
