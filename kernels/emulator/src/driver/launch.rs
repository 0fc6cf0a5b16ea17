//! Launches of kernels.

use std::ffi::{c_uint, c_void};
use std::sync::{Arc, OnceLock};

use super::argument::In;
use super::attribute::{MAX_BLOCK, MAX_GRID, SHARED_PER_BLOCK_OPTIN};
use super::context::{CONTEXTS, Context};
use super::error::Status;
use super::export::exports;
use super::function::{FUNCTIONS, Function};
use super::work::Work;
use super::{current, fault, stream};
use crate::{Entry, Launch, Options};

/// A kernel with everything that a launch needs.
pub(super) struct Kernel {
    function: Arc<Function>,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    params: Vec<u8>,
}

/// Argument of `cuLaunchKernelEx`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    dynamic_shared: c_uint,
    stream: usize,
    attributes: In<LaunchAttribute>,
    count: c_uint,
}

/// One attribute of a launch: its number, and a value of up to 64 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct LaunchAttribute {
    id: c_uint,
    _padding: [u8; 4],
    value: [u32; 16],
}

/// Numbers that mark the parts of an argument buffer.
const EXTRA_END: usize = 0;
const EXTRA_BUFFER: usize = 1;
const EXTRA_BYTES: usize = 2;

fn options() -> &'static Options {
    static OPTIONS: OnceLock<Options> = OnceLock::new();
    OPTIONS.get_or_init(|| {
        let mut options = Options::default();
        let threads = std::env::var("SCALERT_EMULATED_THREADS").ok().and_then(|text| text.trim().parse().ok());
        options.threads = threads.filter(|threads| *threads > 0).unwrap_or(options.threads);
        options
    })
}

impl Kernel {
    /// Runs the kernel in the context of its module; what it does wrong is left there.
    pub(super) fn run(&self, context: &Context) {
        let module = &self.function.module;
        let (Some(own), Ok(entry)) = (CONTEXTS.find(module.context), self.function.entry()) else {
            return context.poison(Status::LAUNCH_FAILED);
        };
        let launch = Launch {
            module: &module.module,
            instance: &module.instance,
            entry,
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.dynamic_shared,
            params: &self.params,
            options: options(),
        };
        if let Err(fault) = crate::launch(&own.memory, &launch) {
            fault::raise(&own, fault);
        }
    }
}

/// Copies arguments, which a caller passes one by one or in one buffer, but not both.
fn arguments(entry: &Entry, each: In<In<u8>>, extra: In<usize>) -> Result<Vec<u8>, Status> {
    let needed = entry.params.last().map_or(0, |param| param.offset + param.bytes);
    if !each.is_null() && !extra.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    if !extra.is_null() {
        return from_buffer(extra, needed);
    }
    let mut bytes = vec![0; needed];
    for (index, param) in entry.params.iter().enumerate() {
        let argument = each.at(index)?;
        for (at, byte) in bytes[param.offset..][..param.bytes].iter_mut().enumerate() {
            *byte = argument.at(at)?;
        }
    }
    Ok(bytes)
}

fn from_buffer(extra: In<usize>, needed: usize) -> Result<Vec<u8>, Status> {
    let (mut buffer, mut bytes) = (0, 0);
    let mut at = 0;
    loop {
        match extra.at(at)? {
            EXTRA_END => break,
            EXTRA_BUFFER => buffer = extra.at(at + 1)?,
            EXTRA_BYTES => bytes = In::<usize>::from_address(extra.at(at + 1)?).at(0)?,
            _ => return Err(Status::INVALID_VALUE),
        }
        at += 2;
    }
    if bytes < needed {
        return Err(Status::INVALID_VALUE);
    }
    let buffer = In::<u8>::from_address(buffer);
    (0..needed).map(|index| buffer.at(index)).collect()
}

/// What a device refuses before it starts.
fn check(function: &Function, grid: [u32; 3], block: [u32; 3], dynamic_shared: u32) -> Result<(), Status> {
    let within = |size: [u32; 3], most: [u32; 3]| size.iter().zip(most).all(|(size, most)| (1..=most).contains(size));
    let threads: u32 = if within(block, MAX_BLOCK) { block.iter().product() } else { u32::MAX };
    if !within(grid, MAX_GRID) || threads > function.max_threads()? {
        return Err(Status::INVALID_VALUE);
    }
    let all = u64::from(function.entry()?.shared_bytes) + u64::from(dynamic_shared);
    if dynamic_shared > function.max_dynamic() || all > u64::from(SHARED_PER_BLOCK_OPTIN) {
        return Err(Status::INVALID_VALUE);
    }
    Ok(())
}

/// What of a launch's attributes a device of this capability does not do.
fn check_attribute(attribute: &LaunchAttribute) -> Result<(), Status> {
    const COOPERATIVE: c_uint = 2;
    const CLUSTER: c_uint = 4;
    const PROGRAMMATIC_SERIALIZATION: c_uint = 6;
    const PREFERRED_CLUSTER: c_uint = 11;
    match attribute.id {
        // None, access window, waiting policy, priority, memory domains, carve-out: hints.
        0 | 1 | 3 | 8 | 9 | 10 | 14 => Ok(()),
        COOPERATIVE | PROGRAMMATIC_SERIALIZATION if attribute.value[0] == 0 => Ok(()),
        CLUSTER | PREFERRED_CLUSTER if attribute.value[..3] == [1, 1, 1] => Ok(()),
        1..=16 => Err(Status::NOT_SUPPORTED),
        _ => Err(Status::INVALID_VALUE),
    }
}

fn launch(
    function: usize,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    stream: usize,
    each: In<In<u8>>,
    extra: In<usize>,
) -> Result<(), Status> {
    let context = current::context()?;
    let function = FUNCTIONS.get(function)?;
    let stream = stream::resolve(stream, &context)?;
    if function.module.context != context.handle {
        return Err(Status::INVALID_CONTEXT);
    }
    if stream.context != context.handle {
        return Err(Status::INVALID_HANDLE);
    }
    check(&function, grid, block, dynamic_shared)?;
    let params = arguments(function.entry()?, each, extra)?;
    stream::enqueue(&stream, Work::Kernel(Kernel { function, grid, block, dynamic_shared, params }))
}

exports! {
    /// Launches a kernel in the order of a stream.
    fn cuLaunchKernel(
        function: usize,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        dynamic_shared: c_uint,
        stream: usize,
        arguments: In<In<u8>>,
        extra: In<usize>,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        launch(function, grid, block, dynamic_shared, stream, arguments, extra)
    }

    /// Launches a kernel in the order of a stream, with attributes.
    fn cuLaunchKernelEx(config: In<LaunchConfig>, function: usize, arguments: In<In<u8>>, extra: In<usize>) {
        let config = config.at(0)?;
        for index in 0..config.count as usize {
            check_attribute(&config.attributes.at(index)?)?;
        }
        let LaunchConfig { grid, block, dynamic_shared, stream, .. } = config;
        launch(function, grid, block, dynamic_shared, stream, arguments, extra)
    }

    /// Launches a kernel whose blocks wait for each other: the device does not do that, and says so.
    fn cuLaunchCooperativeKernel(
        function: usize,
        _grid_x: c_uint,
        _grid_y: c_uint,
        _grid_z: c_uint,
        _block_x: c_uint,
        _block_y: c_uint,
        _block_z: c_uint,
        _dynamic_shared: c_uint,
        _stream: usize,
        _arguments: *mut *mut c_void,
    ) {
        current::context()?;
        FUNCTIONS.get(function)?;
        Err(Status::NOT_SUPPORTED)
    }
}
