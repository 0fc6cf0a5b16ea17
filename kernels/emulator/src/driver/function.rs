//! Functions: kernels of a loaded module, and what is set for them.

use std::ffi::{CString, c_char, c_int};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use super::argument::Out;
use super::attribute::{CAPABILITY, MAX_THREADS_PER_BLOCK, SHARED_PER_BLOCK, SHARED_PER_BLOCK_OPTIN};
use super::current;
use super::error::Status;
use super::export::exports;
use super::module::Loaded;
use super::registry::{Kind, Registry};
use crate::Entry;

/// A kernel of a loaded module.
pub(super) struct Function {
    /// Its module.
    pub(super) module: Arc<Loaded>,
    name: CString,
    max_dynamic: AtomicU32,
    carveout: AtomicI32,
}

pub(super) static FUNCTIONS: Registry<Function> = Registry::new(Kind::Function);

/// What a text declares is far more than a compiler would take: with this many, a multiprocessor can still be full.
const MOST_REGISTERS: u32 = 32;
const FEWEST_REGISTERS: u32 = 16;
const MAX_DYNAMIC: c_int = 8;
const CARVEOUT: c_int = 9;

impl Function {
    /// The kernel `entry` of a module.
    pub(super) fn new(name: CString, module: Arc<Loaded>, entry: &Entry) -> Self {
        let max_dynamic = AtomicU32::new(SHARED_PER_BLOCK.saturating_sub(entry.shared_bytes));
        Self { module, name, max_dynamic, carveout: AtomicI32::new(-1) }
    }

    /// The kernel, as long as its module is loaded.
    pub(super) fn entry(&self) -> Result<&Entry, Status> {
        let name = self.name.to_str().map_err(|_| Status::INVALID_HANDLE)?;
        self.module.module.entry(name).filter(|_| self.module.is_loaded()).ok_or(Status::INVALID_HANDLE)
    }

    /// Bytes of dynamic shared memory that a launch may ask for.
    pub(super) fn max_dynamic(&self) -> u32 {
        self.max_dynamic.load(Ordering::Acquire)
    }

    /// Threads of a block at most.
    pub(super) fn max_threads(&self) -> Result<u32, Status> {
        Ok(self.entry()?.max_threads.unwrap_or(MAX_THREADS_PER_BLOCK).min(MAX_THREADS_PER_BLOCK))
    }

    /// Registers of a thread: an estimate, since nothing allocates them.
    pub(super) fn registers(&self) -> Result<u32, Status> {
        Ok(self.entry()?.declared_registers.clamp(FEWEST_REGISTERS, MOST_REGISTERS))
    }
}

exports! {
    /// One attribute of a kernel.
    fn cuFuncGetAttribute(value: Out<c_int>, attribute: c_int, function: usize) {
        current::context()?;
        let function = FUNCTIONS.get(function)?;
        let entry = function.entry()?;
        value.set(match attribute {
            0 => function.max_threads()? as c_int,
            1 => entry.shared_bytes as c_int,
            3 => entry.local_bytes as c_int,
            4 => function.registers()? as c_int,
            5 | 6 => CAPABILITY as c_int,
            MAX_DYNAMIC => function.max_dynamic() as c_int,
            CARVEOUT => function.carveout.load(Ordering::Relaxed),
            2 | 7 | 10..=15 => 0,
            _ => return Err(Status::INVALID_VALUE),
        })
    }

    /// Sets an attribute of a kernel; those of clusters need another device.
    fn cuFuncSetAttribute(function: usize, attribute: c_int, value: c_int) {
        current::context()?;
        let function = FUNCTIONS.get(function)?;
        let shared = function.entry()?.shared_bytes;
        match attribute {
            MAX_DYNAMIC => {
                let wanted = u32::try_from(value).map_err(|_| Status::INVALID_VALUE)?;
                if wanted > SHARED_PER_BLOCK_OPTIN.saturating_sub(shared) {
                    return Err(Status::INVALID_VALUE);
                }
                function.max_dynamic.store(wanted, Ordering::Release);
            }
            CARVEOUT if (-1..=100).contains(&value) => function.carveout.store(value, Ordering::Relaxed),
            11..=15 => return Err(Status::NOT_SUPPORTED),
            _ => return Err(Status::INVALID_VALUE),
        }
        Ok(())
    }

    /// Offset and size of a parameter of a kernel.
    fn cuFuncGetParamInfo(function: usize, index: usize, offset: Out<usize>, bytes: Out<usize>) {
        current::context()?;
        let function = FUNCTIONS.get(function)?;
        let param = function.entry()?.params.get(index).ok_or(Status::INVALID_VALUE)?;
        offset.set(param.offset)?;
        bytes.set_if_wanted(param.bytes);
        Ok(())
    }

    /// Name of a kernel; it stays as long as its module is loaded.
    fn cuFuncGetName(name: Out<*const c_char>, function: usize) {
        current::context()?;
        name.set(FUNCTIONS.get(function)?.name.as_ptr())
    }

    /// Module of a kernel.
    fn cuFuncGetModule(module: Out<usize>, function: usize) {
        current::context()?;
        module.set(FUNCTIONS.get(function)?.module.handle)
    }

    /// Prefers a split of shared memory and cache, without effect.
    fn cuFuncSetCacheConfig(function: usize, preference: c_int) {
        current::context()?;
        FUNCTIONS.get(function)?;
        if (0..=3).contains(&preference) { Ok(()) } else { Err(Status::INVALID_VALUE) }
    }
}
