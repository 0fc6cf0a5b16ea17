//! The driver API, through the functions that it exports.

mod api;
mod capture;
mod context;
mod event;
mod launch;
mod memory;
mod module;
mod process;
mod stream;
