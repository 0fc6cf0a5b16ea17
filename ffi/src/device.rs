//! Devices.

use crate::argument::{Enum, Out, OutStruct};
use scalert_runtime::device::{self, DeviceKind};
use std::ffi::c_char;

c_enum! {
    DeviceKind as "scalert_device_kind_t" {
        SCALERT_DEVICE_CPU = 0 => DeviceKind::Cpu,
        SCALERT_DEVICE_CUDA = 1 => DeviceKind::Cuda,
    }
}

c_struct! {
    DeviceInfo as "scalert_device_info_t" {
        struct_size: usize,
        kind: i32,
        ordinal: i32,
        memory_bytes: u64,
        threads: u32,
        name: [c_char; 96],
        compute_capability: u32,
        multiprocessors: u32,
    }
}

export! {
    /// Number of devices of a kind.
    fn scalert_device_count(kind: Enum<DeviceKind>, count: Out<u32>) {
        count.write(device::count(kind)?);
        Ok(())
    }

    /// Describes one device.
    fn scalert_device_describe(kind: Enum<DeviceKind>, ordinal: i32, out: OutStruct<DeviceInfo>) {
        let device = device::describe(kind, ordinal)?;
        let mut name = [0; 96];
        // The last byte stays NUL.
        for (to, from) in name[..95].iter_mut().zip(device.name.bytes()) {
            *to = from as c_char;
        }
        out.write(DeviceInfo {
            struct_size: 0,
            kind: device.kind as i32,
            ordinal: device.ordinal,
            memory_bytes: device.memory_bytes,
            threads: device.threads,
            name,
            compute_capability: device.compute_capability,
            multiprocessors: device.multiprocessors,
        });
        Ok(())
    }
}
