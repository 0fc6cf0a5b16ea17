use crate::device::{DeviceInfo, DeviceKind};
use crate::error::{Error, Result, Status};
use scalert_kernels::backend::cuda::driver::{Driver, attribute};
use scalert_kernels::backend::cuda::image;
use std::ffi::{CStr, c_char};

/// Oldest compute capability that the kernels of this library run on.
const OLDEST_CAPABILITY: i32 = 80;

/// The driver; `UNAVAILABLE` when this build has no device code or this machine no driver.
pub(super) fn driver() -> Result<&'static Driver> {
    image::built().and_then(|()| Driver::of_machine()).map_err(|reason| Error::new(Status::Unavailable, reason))
}

/// Number of CUDA devices.
pub(crate) fn count() -> Result<u32> {
    let driver = driver()?;
    let mut count = 0;
    // SAFETY: writes one integer.
    unsafe { driver.device_count(&mut count) }?;
    Ok(count.max(0) as u32)
}

/// The driver's number of the device with an ordinal, which the kernels must run on.
pub(super) fn find(ordinal: i32) -> Result<(&'static Driver, i32)> {
    let (driver, devices) = (driver()?, count()?);
    if devices == 0 {
        return Err(Error::new(Status::Unavailable, "this machine has no CUDA device"));
    }
    if !(0..i64::from(devices)).contains(&i64::from(ordinal)) {
        return Err(Error::invalid("ordinal", format!("{ordinal} must be 0 to {}", devices - 1)));
    }
    let mut device = 0;
    // SAFETY: writes one integer.
    unsafe { driver.device_get(&mut device, ordinal) }?;
    let capability = capability(driver, device)?;
    if capability < OLDEST_CAPABILITY {
        return Err(Error::new(
            Status::Unavailable,
            format!(
                "CUDA device {ordinal} has compute capability {}.{}, the kernels need 8.0 or later",
                capability / 10,
                capability % 10
            ),
        ));
    }
    Ok((driver, device))
}

fn read(driver: &Driver, attribute: i32, device: i32) -> Result<i32> {
    let mut value = 0;
    // SAFETY: writes one integer.
    unsafe { driver.device_attribute(&mut value, attribute, device) }?;
    Ok(value)
}

fn capability(driver: &Driver, device: i32) -> Result<i32> {
    Ok(10 * read(driver, attribute::CAPABILITY_MAJOR, device)? + read(driver, attribute::CAPABILITY_MINOR, device)?)
}

/// Describes one device.
pub(crate) fn describe(ordinal: i32) -> Result<DeviceInfo> {
    let (driver, device) = find(ordinal)?;
    let (mut name, mut bytes) = ([0 as c_char; 96], 0);
    // SAFETY: writes at most 95 bytes and a NUL, and one size.
    unsafe {
        driver.device_name(name.as_mut_ptr(), name.len() as i32, device)?;
        driver.device_bytes(&mut bytes, device)?;
    }
    // SAFETY: the driver ends the name with NUL.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    Ok(DeviceInfo {
        kind: DeviceKind::Cuda,
        ordinal,
        memory_bytes: bytes as u64,
        threads: read(driver, attribute::MULTIPROCESSORS, device)?.max(0) as u32,
        compute_capability: capability(driver, device)? as u32,
        name,
    })
}
