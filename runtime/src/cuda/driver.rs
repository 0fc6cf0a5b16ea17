//! The driver of this process, and the devices that it has.

use crate::device::{DeviceInfo, DeviceKind, default_threads};
use crate::error::{Error, Result, Status};
use scalert_kernels::backend::cuda::driver::{Driver, attribute};
use scalert_kernels::backend::cuda::image;
use std::sync::OnceLock;

static PROVIDED: OnceLock<&'static Driver> = OnceLock::new();

/// Uses `driver`, which has been started, instead of the machine's: an emulated one under test. Does nothing when a
/// driver has been provided before.
pub fn provide_driver(driver: &'static Driver) {
    let _ = PROVIDED.set(driver);
}

/// The driver; `UNAVAILABLE` with the reason where this build or machine has none.
pub(super) fn driver() -> Result<&'static Driver> {
    static PROCESS: OnceLock<u32> = OnceLock::new();
    let unavailable = |reason: &str| Error::new(Status::Unavailable, reason);
    image::built().map_err(unavailable)?;
    let driver = PROVIDED.get().copied().map_or_else(Driver::of_machine, Ok).map_err(unavailable)?;
    if *PROCESS.get_or_init(std::process::id) != std::process::id() {
        return Err(after_fork());
    }
    Ok(driver)
}

/// The refusal of CUDA in a forked child.
pub(super) fn after_fork() -> Error {
    Error::precondition("CUDA was used before fork(), so this child process cannot use it; CPU runtimes can be used")
}

/// Number of devices.
pub(crate) fn count() -> Result<u32> {
    let driver = driver()?;
    let mut count = 0;
    // SAFETY: writes one integer.
    unsafe { driver.device_count(&mut count) }?;
    Ok(count.max(0) as u32)
}

/// The driver's number of a device.
pub(super) fn number(driver: &Driver, ordinal: i32) -> Result<i32> {
    let devices = count()?;
    if ordinal < 0 {
        return Err(Error::invalid("ordinal", format!("{ordinal} must not be negative")));
    }
    if ordinal as u32 >= devices {
        let message = format!("ordinal: {ordinal} must be below the number of CUDA devices of this machine, {devices}");
        return Err(Error::new(Status::Unavailable, message));
    }
    let mut number = 0;
    // SAFETY: writes one integer.
    unsafe { driver.device_get(&mut number, ordinal) }?;
    Ok(number)
}

fn attribute_of(driver: &Driver, number: i32, attribute: i32) -> Result<u32> {
    let mut value = 0;
    // SAFETY: writes one integer.
    unsafe { driver.device_attribute(&mut value, attribute, number) }?;
    Ok(value.max(0) as u32)
}

fn name(driver: &Driver, number: i32) -> Result<String> {
    let mut name = [0u8; 96];
    // SAFETY: writes at most as many bytes as there are, the last of them NUL.
    unsafe { driver.device_name(name.as_mut_ptr().cast(), name.len() as i32, number) }?;
    Ok(name.split(|byte| *byte == 0).next().map(String::from_utf8_lossy).unwrap_or_default().into_owned())
}

/// Describes one device.
pub(crate) fn describe(ordinal: i32) -> Result<DeviceInfo> {
    let driver = driver()?;
    let number = number(driver, ordinal)?;
    let mut bytes = 0;
    // SAFETY: writes one size.
    unsafe { driver.device_bytes(&mut bytes, number) }?;
    let read = |attribute| attribute_of(driver, number, attribute);
    Ok(DeviceInfo {
        kind: DeviceKind::Cuda,
        ordinal,
        memory_bytes: bytes as u64,
        threads: default_threads(),
        name: name(driver, number)?,
        compute_capability: 10 * read(attribute::CAPABILITY_MAJOR)? + read(attribute::CAPABILITY_MINOR)?,
        multiprocessors: read(attribute::MULTIPROCESSORS)?,
    })
}
