//! Structs that begin with `struct_size`: how an older or newer caller's struct becomes this library's.

use crate::argument::{Argument, expect_pointer};
use crate::layout::CStruct;
use scalert_runtime::Error;
use std::marker::PhantomData;

/// No struct of any version is larger; a larger size is a field that was never set.
const LARGEST: usize = 4096;

/// The size that the caller's struct says it has.
///
/// # Safety
/// `raw` is NULL or points to a `size_t`.
unsafe fn size_of_struct<T: CStruct>(name: &str, raw: *const T) -> Result<usize, Error> {
    expect_pointer(name, raw)?;
    // SAFETY: checked, and the first field by the caller's promise.
    let size = unsafe { raw.cast::<usize>().read() };
    if !(size_of::<usize>()..=LARGEST).contains(&size) {
        return Err(Error::invalid(name, format_args!("struct_size {size} must be sizeof({})", T::NAME)));
    }
    Ok(size)
}

/// Copies the caller's struct: what a shorter one lacks is zero, and what a longer one has beyond this library's must be.
///
/// # Safety
/// `raw` is NULL or points to `struct_size` readable bytes, of which this is the first field.
pub(crate) unsafe fn read<T: CStruct>(name: &str, raw: *const T) -> Result<T, Error> {
    // SAFETY: the caller's promise.
    let size = unsafe { size_of_struct(name, raw)? };
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(raw.cast::<u8>(), size) };
    let known = size.min(size_of::<T>());
    if let Some(at) = bytes[known..].iter().position(|b| *b != 0) {
        return Err(Error::invalid(
            name,
            format_args!(
                "byte {} of {} is {} but must be 0: this library knows only the first {} bytes",
                known + at,
                T::NAME,
                bytes[known + at],
                size_of::<T>()
            ),
        ));
    }
    let mut value = T::zeroed();
    // SAFETY: `known` bytes are within both; a CStruct is any bytes.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut value).cast::<u8>(), known) };
    Ok(value)
}

/// A struct that must be given.
pub struct In<T>(PhantomData<T>);

impl<T: CStruct + 'static> Argument for In<T> {
    type Raw = *const T;
    type Value<'a> = T;
    unsafe fn accept<'a>(name: &'static str, raw: *const T) -> Result<Self::Value<'a>, Error> {
        // SAFETY: the caller's promise.
        unsafe { read(name, raw) }
    }
}

/// A struct that may be NULL for all defaults.
pub struct Options<T>(PhantomData<T>);

impl<T: CStruct + 'static> Argument for Options<T> {
    type Raw = *const T;
    type Value<'a> = T;
    unsafe fn accept<'a>(name: &'static str, raw: *const T) -> Result<Self::Value<'a>, Error> {
        if raw.is_null() {
            return Ok(T::zeroed());
        }
        // SAFETY: the caller's promise.
        unsafe { read(name, raw) }
    }
}

/// A struct that the function fills, as far as the caller's `struct_size` goes.
pub struct OutStruct<T>(PhantomData<T>);

impl<T: CStruct + 'static> Argument for OutStruct<T> {
    type Raw = *mut T;
    type Value<'a> = Filled<T>;
    unsafe fn accept<'a>(name: &'static str, raw: *mut T) -> Result<Self::Value<'a>, Error> {
        // SAFETY: the caller's promise.
        let size = unsafe { size_of_struct(name, raw)? };
        Ok(Filled { raw, size })
    }
}

/// Where a filled struct goes.
pub struct Filled<T> {
    raw: *mut T,
    size: usize,
}

impl<T: CStruct> Filled<T> {
    /// Gives the caller the fields that its struct has, except `struct_size`, which stays. What a newer caller's struct
    /// has beyond them becomes zero.
    pub fn write(self, value: T) {
        let first = T::FIELDS[1].offset;
        let known = self.size.min(size_of::<T>());
        let to = self.raw.cast::<u8>();
        // SAFETY: `accept` read the size of what the caller promised to be writable.
        unsafe {
            if known > first {
                std::ptr::copy_nonoverlapping((&raw const value).cast::<u8>().add(first), to.add(first), known - first);
            }
            to.add(known).write_bytes(0, self.size - known);
        }
    }
}
