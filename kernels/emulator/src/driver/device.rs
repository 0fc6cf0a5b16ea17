//! Devices: how many there are, and how much memory each has.

use std::ffi::{c_char, c_int, c_uint};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use super::argument::Out;
use super::context::Primary;
use super::error::Status;
use super::export::exports;

/// One emulated device.
pub(super) struct Device {
    /// Bytes of its memory.
    pub(super) total: usize,
    used: AtomicUsize,
    /// Its primary context.
    pub(super) primary: Mutex<Primary>,
}

struct Devices {
    process: u32,
    list: Vec<Device>,
}

static DEVICES: OnceLock<Devices> = OnceLock::new();
static SHUT_DOWN: AtomicBool = AtomicBool::new(false);

const DRIVER_VERSION: c_int = 13000;
const DEFAULT_BYTES: usize = 2 << 30;
const MAX_DEVICES: usize = 64;

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
}

/// A real driver answers no calls from what runs after its own exit handler.
extern "C" fn shut_down() {
    SHUT_DOWN.store(true, Ordering::Release);
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|value| value.trim().parse().ok()).unwrap_or(default)
}

impl Devices {
    fn from_environment() -> Self {
        let total = number("SCALERT_EMULATED_BYTES", DEFAULT_BYTES);
        let count = number("SCALERT_EMULATED_DEVICES", 1).min(MAX_DEVICES);
        let device = || Device { total, used: AtomicUsize::new(0), primary: Mutex::new(Primary::default()) };
        // SAFETY: the handler touches one atomic only.
        unsafe { atexit(shut_down) };
        Self { process: std::process::id(), list: (0..count).map(|_| device()).collect() }
    }
}

impl Device {
    /// Takes bytes of its memory, or says that there are not as many left.
    pub(super) fn charge(&self, bytes: usize) -> Result<(), Status> {
        let grown = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.total);
        match self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, grown) {
            Ok(_) => Ok(()),
            Err(_) => Err(Status::OUT_OF_MEMORY),
        }
    }

    /// Gives bytes back.
    pub(super) fn refund(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }
}

/// All devices, once the driver has been initialised by this process, not by one that it was forked from.
pub(super) fn all() -> Result<&'static [Device], Status> {
    if SHUT_DOWN.load(Ordering::Acquire) {
        return Err(Status::DEINITIALIZED);
    }
    match DEVICES.get() {
        Some(devices) if !devices.list.is_empty() && devices.process == std::process::id() => Ok(&devices.list),
        _ => Err(Status::NOT_INITIALIZED),
    }
}

/// The device of an ordinal.
pub(super) fn get(ordinal: c_int) -> Result<&'static Device, Status> {
    let list = all()?;
    usize::try_from(ordinal).ok().and_then(|index| list.get(index)).ok_or(Status::INVALID_DEVICE)
}

exports! {
    /// Initialises the driver.
    fn cuInit(flags: c_uint) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        match DEVICES.get_or_init(Devices::from_environment).list.is_empty() {
            true => Err(Status::NO_DEVICE),
            false => all().map(|_| ()),
        }
    }

    /// Version of the driver.
    fn cuDriverGetVersion(version: Out<c_int>) {
        version.set(DRIVER_VERSION)
    }

    /// Number of devices.
    fn cuDeviceGetCount(count: Out<c_int>) {
        count.set(all()?.len() as c_int)
    }

    /// Handle of a device: its ordinal.
    fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) {
        get(ordinal)?;
        device.set(ordinal)
    }

    /// Name of a device, cut to the room there is.
    fn cuDeviceGetName(name: Out<c_char>, length: c_int, device: c_int) {
        get(device)?;
        write_text("emulated CUDA device", name, length)
    }

    /// Sixteen bytes that tell devices apart.
    fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: c_int) {
        get(device)?;
        uuid.set(identity(device))
    }

    /// Sixteen bytes that tell devices apart.
    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: c_int) {
        get(device)?;
        uuid.set(identity(device))
    }

    /// Address of a device on the bus.
    fn cuDeviceGetPCIBusId(name: Out<c_char>, length: c_int, device: c_int) {
        get(device)?;
        write_text(&format!("0000:{:02x}:00.0", device + 1), name, length)
    }

    /// Bytes of memory of a device.
    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) {
        bytes.set(get(device)?.total)
    }

    /// Whether one device reaches the memory of another: it does not.
    fn cuDeviceCanAccessPeer(can_access: Out<c_int>, device: c_int, peer: c_int) {
        get(device)?;
        get(peer)?;
        can_access.set(0)
    }
}

fn identity(device: c_int) -> [u8; 16] {
    let mut bytes = *b"scalert-emulated";
    bytes[15] = device as u8;
    bytes
}

fn write_text(text: &str, out: Out<c_char>, length: c_int) -> Result<(), Status> {
    let out = out.required()?;
    let room = usize::try_from(length).ok().filter(|room| *room > 0).ok_or(Status::INVALID_VALUE)?;
    let kept = text.len().min(room - 1);
    text.bytes().take(kept).enumerate().for_each(|(index, byte)| out.set_at(index, byte as c_char));
    out.set_at(kept, 0);
    Ok(())
}
