//! Pointers that arrive as arguments of exported functions.

use std::ffi::{CStr, c_char};

use super::error::Status;

/// Where a result goes: null, or valid for writes of `T` by the contract of the exported function it came through.
///
/// The field is private, so that only a caller of an exported function can make one.
#[repr(transparent)]
pub(super) struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// Refuses null.
    pub(super) fn required(self) -> Result<Self, Status> {
        if self.0.is_null() { Err(Status::INVALID_VALUE) } else { Ok(self) }
    }

    /// Stores a result; null is refused.
    pub(super) fn set(self, value: T) -> Result<(), Status> {
        self.required()?.set_at(0, value);
        Ok(())
    }

    /// Stores a result unless the pointer is null.
    pub(super) fn set_if_wanted(self, value: T) {
        if !self.0.is_null() {
            self.set_at(0, value);
        }
    }

    /// Stores the element `index` of an array that the caller says is that long.
    pub(super) fn set_at(self, index: usize, value: T) {
        // SAFETY: not null, and the caller of the exported function vouches for an array longer than `index`.
        unsafe { self.0.add(index).write_unaligned(value) }
    }

    /// Reads what the caller stored there; null is refused.
    pub(super) fn get(self) -> Result<T, Status>
    where
        T: Copy,
    {
        self.required()?;
        // SAFETY: not null, and the caller of the exported function vouches for an initialised value behind it.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// The same place for a result of another type.
    pub(super) fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }

    /// Whether the caller wants no result.
    pub(super) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The pointer itself.
    pub(super) fn pointer(self) -> *mut T {
        self.0
    }
}

/// What a caller hands in: null, or valid for reads of `T` by the contract of the exported function it came through.
#[repr(transparent)]
pub(super) struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for In<T> {}

impl<T: Copy> In<T> {
    /// Reads the element `index` of an array that the caller says is that long; null is refused.
    pub(super) fn at(self, index: usize) -> Result<T, Status> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null, and the caller of the exported function vouches for an array longer than `index`.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    /// What an address that a caller handed in, in an array of addresses, points to.
    pub(super) fn from_address(address: usize) -> Self {
        Self(address as *const T)
    }

    /// Whether nothing was handed in.
    pub(super) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The pointer itself.
    pub(super) fn pointer(self) -> *const T {
        self.0
    }
}

/// Text of a caller, ending in a NUL.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Text(*const c_char);

impl Text {
    /// The text; null and what is not UTF-8 are refused.
    pub(super) fn get<'a>(self) -> Result<&'a str, Status> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null, and the caller of the exported function vouches for a NUL at its end.
        unsafe { CStr::from_ptr(self.0) }.to_str().map_err(|_| Status::INVALID_VALUE)
    }
}
