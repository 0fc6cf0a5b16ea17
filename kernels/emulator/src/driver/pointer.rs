//! What the driver says of an address.

use std::ffi::{c_int, c_uint, c_void};

use super::argument::{In, Out};
use super::error::Status;
use super::export::exports;
use super::memory::{self, Allocation, Origin};
use super::{current, device};

const HOST: u32 = 1;
const DEVICE: u32 = 2;
const READ_AND_WRITE: u32 = 3;
const LAST_ATTRIBUTE: c_int = 21;

/// A value of an attribute, by its size.
enum Value {
    Word(u32),
    Long(u64),
}

fn attribute(attribute: c_int, address: u64, found: &Allocation) -> Result<Value, Status> {
    let is_host = matches!(found.origin, Origin::Pinned | Origin::Registered);
    Ok(match attribute {
        1 => Value::Long(found.context as u64),
        2 => Value::Word(if is_host { HOST } else { DEVICE }),
        3 => Value::Long(address),
        4 if found.origin.is_host_visible() => Value::Long(address),
        7 | 20 => Value::Long(found.id),
        8 => Value::Word(u32::from(found.origin == Origin::Managed)),
        9 => Value::Word(found.device as u32),
        11 | 19 => Value::Long(found.base),
        12 | 18 => Value::Long(found.bytes as u64),
        13 => Value::Word(1),
        16 => Value::Word(READ_AND_WRITE),
        6 | 10 | 15 | 21 => Value::Word(0),
        14 | 17 => Value::Long(0),
        _ => return Err(Status::INVALID_VALUE),
    })
}

/// What several attributes are of an address that the driver does not know.
fn unknown(attribute: c_int) -> Value {
    const NO_DEVICE: u32 = -2_i32 as u32;
    match attribute {
        2 | 6 | 8 | 10 | 13 | 15 | 16 | 21 => Value::Word(0),
        9 => Value::Word(NO_DEVICE),
        _ => Value::Long(0),
    }
}

fn store(out: Out<c_void>, value: Value) -> Result<(), Status> {
    match value {
        Value::Word(word) => out.cast::<u32>().set(word),
        Value::Long(long) => out.cast::<u64>().set(long),
    }
}

exports! {
    /// One attribute of an address.
    fn cuPointerGetAttribute(data: Out<c_void>, kind: c_int, address: u64) {
        device::all()?;
        let data = data.required()?;
        let found = memory::find(address).ok_or(Status::INVALID_VALUE)?;
        store(data, attribute(kind, address, &found)?)
    }

    /// Several attributes of an address; one that does not apply is zero.
    fn cuPointerGetAttributes(count: c_uint, kinds: In<c_int>, data: In<Out<c_void>>, address: u64) {
        device::all()?;
        let found = memory::find(address);
        for index in 0..count as usize {
            let (kind, out) = (kinds.at(index)?, data.at(index)?);
            if !(1..=LAST_ATTRIBUTE).contains(&kind) {
                return Err(Status::INVALID_VALUE);
            }
            let value = found.as_ref().and_then(|found| attribute(kind, address, found).ok());
            store(out, value.unwrap_or_else(|| unknown(kind)))?;
        }
        Ok(())
    }

    /// First byte and size of the allocation that an address falls into.
    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) {
        current::context()?;
        let found = memory::find(address).filter(|found| found.origin != Origin::Registered);
        let found = found.ok_or(Status::NOT_FOUND)?;
        base.set_if_wanted(found.base);
        bytes.set_if_wanted(found.bytes);
        Ok(())
    }
}
