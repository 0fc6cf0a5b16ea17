//! The ABI as frozen, and hostile calls of every function.
//!
//! `SCALERT_REFRESH=1 cargo test -p scalert-tests --test abi` rewrites `exports.txt` and `layout.txt` after a change of
//! the header that is meant.

mod frozen;
mod programs;
