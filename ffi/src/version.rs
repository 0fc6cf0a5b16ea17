//! The version of the library.

/// `SCALERT_VERSION` of this library.
pub const VERSION: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) * 10000
    + number(env!("CARGO_PKG_VERSION_MINOR")) * 100
    + number(env!("CARGO_PKG_VERSION_PATCH"));

const fn number(digits: &str) -> u32 {
    match u32::from_str_radix(digits, 10) {
        Ok(n) => n,
        Err(_) => panic!("the package's version is made of numbers"),
    }
}

export! {
    /// The version of the loaded library.
    fn scalert_version() -> u32, else VERSION; {
        Ok(VERSION)
    }
}
