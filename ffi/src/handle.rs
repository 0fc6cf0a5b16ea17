//! Opaque handles: a box that begins with a word saying what it holds, so that a handle of another kind, or (as far as
//! freed memory still tells) a destroyed one, is an invalid argument.

use crate::argument::Argument;
use scalert_runtime::{Error, Status};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What may stand behind a handle.
pub trait Kind {
    /// First word of its handles.
    const MAGIC: u64;
    /// `scalert_<NAME>_t`.
    const NAME: &'static str;
}

/// First word of every destroyed handle.
const DESTROYED: u64 = u64::from_le_bytes(*b"scaleRT\0");

/// What an opaque pointer points to.
#[repr(C)]
pub struct Handle<T> {
    magic: AtomicU64,
    poisoned: AtomicBool,
    value: T,
}

impl<T: Kind> Handle<T> {
    /// A new handle, owned by whoever holds the pointer.
    pub(crate) fn new(value: T) -> *mut Handle<T> {
        Box::into_raw(Box::new(Handle { magic: AtomicU64::new(T::MAGIC), poisoned: AtomicBool::new(false), value }))
    }

    /// The handle at `raw`, poisoned or not.
    ///
    /// # Safety
    /// `raw` is NULL or points to at least a word; if the word is the magic of `T`, to a handle of `T` that lives for 'a.
    unsafe fn at<'a>(argument: &str, raw: *const Handle<T>) -> Result<&'a Handle<T>, Error> {
        let must = T::NAME;
        if raw.is_null() {
            return Err(Error::invalid(argument, format_args!("NULL must be a scalert_{must}_t")));
        }
        if !raw.is_aligned() {
            return Err(Error::invalid(
                argument,
                format_args!("{raw:p} is not a handle; it must be a scalert_{must}_t"),
            ));
        }
        // SAFETY: there is a word by the caller's promise; every handle begins with one that is only accessed atomically.
        let magic = unsafe { &*raw.cast::<AtomicU64>() }.load(Ordering::Acquire);
        if magic == DESTROYED {
            return Err(Error::invalid(
                argument,
                format_args!("has been destroyed; it must be a live scalert_{must}_t"),
            ));
        }
        if magic != T::MAGIC {
            return Err(Error::invalid(argument, format_args!("is not a live scalert_{must}_t, which it must be")));
        }
        // SAFETY: the magic says so, by the caller's promise.
        Ok(unsafe { &*raw })
    }
}

/// An argument that is a live handle. The runtime's objects are shared, and notice a second thread where the header
/// asks for one at a time.
pub struct Live<T>(PhantomData<T>);

impl<T: Kind + Send + Sync + 'static> Argument for Live<T> {
    type Raw = *const Handle<T>;
    type Value<'a> = &'a T;

    unsafe fn accept<'a>(name: &'static str, raw: Self::Raw) -> Result<Self::Value<'a>, Error> {
        // SAFETY: the caller's promise.
        let handle = unsafe { Handle::at(name, raw)? };
        if handle.poisoned.load(Ordering::Acquire) {
            return Err(Error::new(
                Status::Internal,
                format!("{name}: an earlier call on it met a bug in the library; it can only be destroyed"),
            ));
        }
        Ok(&handle.value)
    }

    unsafe fn poison(raw: Self::Raw) -> bool {
        // SAFETY: the caller's promise.
        if let Ok(handle) = unsafe { Handle::at("", raw) } {
            handle.poisoned.store(true, Ordering::Release);
        }
        true
    }
}

/// An argument that is a handle to destroy, or NULL.
pub struct Doomed<T>(PhantomData<T>);

impl<T: Kind + 'static> Argument for Doomed<T> {
    type Raw = *mut Handle<T>;
    type Value<'a> = Option<T>;

    unsafe fn accept<'a>(name: &'static str, raw: Self::Raw) -> Result<Self::Value<'a>, Error> {
        if raw.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller's promise.
        let handle = unsafe { Handle::at(name, raw)? };
        handle.magic.store(DESTROYED, Ordering::Release);
        // SAFETY: `Handle::new` boxed it, and the magic has said until now that it was not destroyed.
        let handle = unsafe { Box::from_raw(raw) };
        Ok(Some(handle.value))
    }
}

/// An argument through which a new handle is given.
pub struct OutHandle<T>(PhantomData<T>);

/// Where a new handle goes.
pub struct NewHandle<T>(*mut *mut Handle<T>);

impl<T: Kind> NewHandle<T> {
    /// Gives the caller a handle of `value`.
    pub fn give(self, value: T) {
        // SAFETY: `accept` checked the pointer that the caller promised to be writable.
        unsafe { self.0.write(Handle::new(value)) };
    }
}

impl<T: Kind + 'static> Argument for OutHandle<T> {
    type Raw = *mut *mut Handle<T>;
    type Value<'a> = NewHandle<T>;

    unsafe fn accept<'a>(name: &'static str, raw: Self::Raw) -> Result<Self::Value<'a>, Error> {
        crate::argument::expect_pointer(name, raw)?;
        Ok(NewHandle(raw))
    }
}

/// An argument through which as many new handles are given as another argument says.
pub struct OutHandles<T>(PhantomData<T>);

/// Where new handles go.
pub struct NewHandles<T>(*mut *mut Handle<T>);

impl<T: Kind> NewHandles<T> {
    /// Gives the caller a handle of each value; there are as many as the header says.
    pub fn give(self, values: Vec<T>) {
        for (i, value) in values.into_iter().enumerate() {
            // SAFETY: `accept` checked the pointer, behind which the caller promised as many writable ones.
            unsafe { self.0.add(i).write(Handle::new(value)) };
        }
    }
}

impl<T: Kind + 'static> Argument for OutHandles<T> {
    type Raw = *mut *mut Handle<T>;
    type Value<'a> = NewHandles<T>;

    unsafe fn accept<'a>(name: &'static str, raw: Self::Raw) -> Result<Self::Value<'a>, Error> {
        crate::argument::expect_pointer(name, raw)?;
        Ok(NewHandles(raw))
    }
}
