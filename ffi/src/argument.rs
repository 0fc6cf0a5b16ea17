//! What an exported function's arguments must be: the checks of pointers, flags and enumerations.

use crate::layout::CEnum;
use scalert_runtime::Error;
use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;

pub use crate::desc::{In, Options, OutStruct};
pub use crate::handle::{Doomed, Live, OutHandle};

/// A way to pass an argument through the C boundary.
pub trait Argument {
    /// Its type in C.
    type Raw: Copy;
    /// What the function gets once it is checked.
    type Value<'a>;

    /// Checks the argument called `name`.
    ///
    /// # Safety
    /// A pointer is NULL or what the header requires of this argument, for 'a.
    unsafe fn accept<'a>(name: &'static str, raw: Self::Raw) -> Result<Self::Value<'a>, Error>;

    /// Marks the argument as broken by a panic, if it is a handle, and says whether it is one.
    ///
    /// # Safety
    /// As [`Argument::accept`].
    unsafe fn poison(_raw: Self::Raw) -> bool {
        false
    }
}

macro_rules! plain {
    ($($type:ty),*) => {
        $(impl Argument for $type {
            type Raw = $type;
            type Value<'a> = $type;
            unsafe fn accept<'a>(_name: &'static str, raw: $type) -> Result<Self::Value<'a>, Error> {
                Ok(raw)
            }
        })*
    };
}
plain!(f32, u32, u64, i32, i64, *mut c_void, *const c_void, Option<unsafe extern "C" fn(*mut c_void)>);

/// Requires a pointer that is not NULL and aligned to what it points to.
pub(crate) fn expect_pointer<T>(name: &str, raw: *const T) -> Result<(), Error> {
    if raw.is_null() {
        return Err(Error::invalid(name, "must not be NULL"));
    }
    if !raw.is_aligned() {
        return Err(Error::invalid(name, format_args!("{raw:p} must be aligned to {} bytes", align_of::<T>())));
    }
    Ok(())
}

/// Requires a `uint8_t` flag to be 0 or 1.
pub(crate) fn boolean(name: &str, raw: u8) -> Result<bool, Error> {
    match raw {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::invalid(name, format_args!("{raw} must be 0 or 1"))),
    }
}

/// Requires one of an enumeration's numbers.
pub(crate) fn enumeration<E: CEnum>(name: &str, raw: i32) -> Result<E, Error> {
    E::from_raw(raw).ok_or_else(|| {
        let known: Vec<String> = E::CONSTANTS.iter().map(|(c, n)| format!("{c} ({n})")).collect();
        Error::invalid(name, format_args!("{raw} must be {}", known.join(" or ")))
    })
}

/// A `uint8_t` that is 0 or 1.
pub enum Flag {}

impl Argument for Flag {
    type Raw = u8;
    type Value<'a> = bool;
    unsafe fn accept<'a>(name: &'static str, raw: u8) -> Result<Self::Value<'a>, Error> {
        boolean(name, raw)
    }
}

/// A number of an enumeration.
pub struct Enum<E>(PhantomData<E>);

impl<E: CEnum> Argument for Enum<E> {
    type Raw = i32;
    type Value<'a> = E;
    unsafe fn accept<'a>(name: &'static str, raw: i32) -> Result<Self::Value<'a>, Error> {
        enumeration(name, raw)
    }
}

/// A pointer argument that may be NULL.
pub struct Optional<A>(PhantomData<A>);

impl<T, A: Argument<Raw = *const T>> Argument for Optional<A> {
    type Raw = *const T;
    type Value<'a> = Option<A::Value<'a>>;
    unsafe fn accept<'a>(name: &'static str, raw: *const T) -> Result<Self::Value<'a>, Error> {
        if raw.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller's promise.
        unsafe { A::accept(name, raw).map(Some) }
    }
}

/// As [`Optional`], for an argument that is written.
pub struct OptionalOut<A>(PhantomData<A>);

impl<T, A: Argument<Raw = *mut T>> Argument for OptionalOut<A> {
    type Raw = *mut T;
    type Value<'a> = Option<A::Value<'a>>;
    unsafe fn accept<'a>(name: &'static str, raw: *mut T) -> Result<Self::Value<'a>, Error> {
        if raw.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller's promise.
        unsafe { A::accept(name, raw).map(Some) }
    }
}

/// A pointer through which a plain value is given.
pub struct Out<T>(PhantomData<T>);

impl<T: Copy + 'static> Argument for Out<T> {
    type Raw = *mut T;
    type Value<'a> = OutValue<T>;
    unsafe fn accept<'a>(name: &'static str, raw: *mut T) -> Result<Self::Value<'a>, Error> {
        expect_pointer(name, raw)?;
        Ok(OutValue(raw))
    }
}

/// Where a plain value goes. Nothing is read from there, so it may be uninitialised.
pub struct OutValue<T>(*mut T);

impl<T: Copy> OutValue<T> {
    /// Gives the caller `value`.
    pub fn write(self, value: T) {
        // SAFETY: `accept` checked the pointer that the caller promised to be writable.
        unsafe { self.0.write(value) };
    }
}

/// `N` plain values that are only read.
pub struct Array<T, const N: usize>(PhantomData<T>);

impl<T: Copy + 'static, const N: usize> Argument for Array<T, N> {
    type Raw = *const T;
    type Value<'a> = &'a [T; N];
    unsafe fn accept<'a>(name: &'static str, raw: *const T) -> Result<&'a [T; N], Error> {
        expect_pointer(name, raw)?;
        // SAFETY: checked, and N values long by the caller's promise.
        Ok(unsafe { &*raw.cast() })
    }
}

/// A pointer to as many plain values as another argument says.
pub struct Many<T>(PhantomData<T>);

impl<T: Copy + 'static> Argument for Many<T> {
    type Raw = *const T;
    type Value<'a> = Values<'a, T>;
    unsafe fn accept<'a>(name: &'static str, raw: *const T) -> Result<Self::Value<'a>, Error> {
        Ok(Values { name, raw, borrow: PhantomData })
    }
}

/// The values behind a [`Many`].
pub struct Values<'a, T> {
    name: &'static str,
    raw: *const T,
    borrow: PhantomData<&'a T>,
}

impl<'a, T> Values<'a, T> {
    /// The first `length` of them; `length` is what the header says for this argument. May be NULL when there are none.
    pub(crate) fn first(self, length: usize) -> Result<&'a [T], Error> {
        if length == 0 {
            return Ok(&[]);
        }
        expect_pointer(self.name, self.raw)?;
        // SAFETY: checked, and `length` values long by the promise of `accept`'s caller.
        Ok(unsafe { std::slice::from_raw_parts(self.raw, length) })
    }
}

/// A NUL-terminated string.
pub enum Text {}

impl Argument for Text {
    type Raw = *const c_char;
    type Value<'a> = &'a CStr;
    unsafe fn accept<'a>(name: &'static str, raw: *const c_char) -> Result<Self::Value<'a>, Error> {
        expect_pointer(name, raw)?;
        // SAFETY: checked, and NUL-terminated by the caller's promise.
        Ok(unsafe { CStr::from_ptr(raw) })
    }
}
