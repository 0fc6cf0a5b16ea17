//! What the structs and enumerations of the header look like from Rust, so that a test can compare them with C.

/// A field of a C struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its offset in bytes.
    pub offset: usize,
    /// Its size in bytes.
    pub size: usize,
}

/// A struct of the header.
///
/// # Safety
/// The type is `repr(C)` and all zero bytes are a value of it.
pub unsafe trait CStruct: Copy {
    /// Its name in C.
    const NAME: &'static str;
    /// Its fields in order.
    const FIELDS: &'static [Field];

    /// The value whose bytes are all zero: every default.
    fn zeroed() -> Self {
        // SAFETY: the trait's promise.
        unsafe { std::mem::zeroed() }
    }
}

/// An enumeration of the header, which travels as `int32_t`.
pub trait CEnum: Sized {
    /// Its typedef in C.
    const NAME: &'static str;
    /// Its constants and their numbers.
    const CONSTANTS: &'static [(&'static str, i64)];
    /// The value that a number stands for.
    fn from_raw(raw: i32) -> Option<Self>;
}

/// One struct as Rust lays it out.
#[derive(Clone, Copy, Debug)]
pub struct Struct {
    /// Its name in C.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: usize,
    /// Its alignment in bytes.
    pub alignment: usize,
    /// Its fields in order.
    pub fields: &'static [Field],
}

fn of<T: CStruct>() -> Struct {
    Struct { name: T::NAME, size: size_of::<T>(), alignment: align_of::<T>(), fields: T::FIELDS }
}
