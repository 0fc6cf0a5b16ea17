//! What the tests of the C ABI share: the header as data, C made from it, and how C programs are built against the
//! library.

pub mod build;
pub mod generate;
pub mod header;
