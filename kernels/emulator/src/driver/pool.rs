//! Allocation in stream order, and the pool that it draws on.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::argument::Out;
use super::error::Status;
use super::export::exports;
use super::memory::{self, Origin};
use super::registry::{Kind, Registry};
use super::{current, device, stream};

/// The default pool of a device. It returns memory at once, whatever its threshold.
struct Pool {
    handle: usize,
    device: c_int,
    reuse: [AtomicU32; 3],
    threshold: AtomicU64,
}

static POOLS: Registry<Pool> = Registry::new(Kind::Pool);
static CREATE: Mutex<()> = Mutex::new(());

/// Attributes: three reuse policies, the release threshold, then four counts of bytes.
const THRESHOLD: c_int = 4;
const COUNTS: std::ops::RangeInclusive<c_int> = 5..=8;

fn default_pool(ordinal: c_int) -> Result<Arc<Pool>, Status> {
    device::get(ordinal)?;
    let _one_at_a_time = CREATE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = POOLS.all().into_iter().find(|pool| pool.device == ordinal) {
        return Ok(pool);
    }
    let (handle, threshold) = (POOLS.issue(), AtomicU64::new(0));
    let reuse = [const { AtomicU32::new(1) }; 3];
    let pool = Arc::new(Pool { handle, device: ordinal, reuse, threshold });
    POOLS.insert(handle, pool.clone());
    Ok(pool)
}

fn allocate(address: Out<u64>, bytes: usize, stream: usize) -> Result<(), Status> {
    let context = current::context()?;
    let address = address.required()?;
    let stream = stream::resolve(stream, &context)?;
    stream.in_order(|| address.set(memory::allocate(&context, bytes, Origin::Pool, 0)?))
}

exports! {
    /// The pool that a device starts with.
    fn cuDeviceGetDefaultMemPool(pool: Out<usize>, device: c_int) {
        pool.set(default_pool(device)?.handle)
    }

    /// The pool that a device draws on: its default one.
    fn cuDeviceGetMemPool(pool: Out<usize>, device: c_int) {
        pool.set(default_pool(device)?.handle)
    }

    /// Makes a device draw on a pool: only its default one exists.
    fn cuDeviceSetMemPool(device: c_int, pool: usize) {
        device::get(device)?;
        if POOLS.get(pool)?.device == device { Ok(()) } else { Err(Status::INVALID_VALUE) }
    }

    /// Sets an attribute of a pool.
    fn cuMemPoolSetAttribute(pool: usize, attribute: c_int, value: Out<c_void>) {
        device::all()?;
        let pool = POOLS.get(pool)?;
        match attribute {
            1..=3 => pool.reuse[attribute as usize - 1].store(value.cast::<u32>().get()?, Ordering::Relaxed),
            THRESHOLD => pool.threshold.store(value.cast::<u64>().get()?, Ordering::Relaxed),
            _ => return Err(Status::INVALID_VALUE),
        }
        Ok(())
    }

    /// An attribute of a pool.
    fn cuMemPoolGetAttribute(pool: usize, attribute: c_int, value: Out<c_void>) {
        device::all()?;
        let pool = POOLS.get(pool)?;
        match attribute {
            1..=3 => value.cast::<u32>().set(pool.reuse[attribute as usize - 1].load(Ordering::Relaxed)),
            THRESHOLD => value.cast::<u64>().set(pool.threshold.load(Ordering::Relaxed)),
            _ if COUNTS.contains(&attribute) => value.cast::<u64>().set(memory::pool_bytes(pool.device)),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    /// Gives memory of a pool back that it does not need: it keeps none.
    fn cuMemPoolTrimTo(pool: usize, _keep: usize) {
        device::all()?;
        POOLS.get(pool).map(|_| ())
    }

    /// Allocates device memory in the order of a stream.
    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: usize) {
        allocate(address, bytes, stream)
    }

    /// Allocates device memory of a pool in the order of a stream.
    fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: usize, stream: usize) {
        device::all()?;
        POOLS.get(pool)?;
        allocate(address, bytes, stream)
    }

    /// Frees device memory in the order of a stream.
    fn cuMemFreeAsync(address: u64, stream: usize) {
        let context = current::context()?;
        let stream = stream::resolve(stream, &context)?;
        let allowed = |origin| matches!(origin, Origin::Device | Origin::Pool | Origin::Managed);
        stream.in_order(|| memory::release(address, allowed, Status::INVALID_VALUE))
    }
}
