//! Executes PTX on the CPU, behind the CUDA driver API: every device kernel is tested on machines without a GPU.
//!
//! For tests only: nothing that ships depends on it.
//!
//! [`Module::parse`] turns a text into kernels, [`Memory`] is the global address space, [`launch`] runs a kernel and
//! says either how many instructions it took or what the kernel did wrong, and where. [`driver`] is what a program sees
//! instead of them: the functions of `libcuda.so.1`.

mod decode;
pub mod driver;
mod execute;
mod fault;
mod float;
mod memory;
mod module;
mod program;
mod registers;
mod syntax;

pub use driver::{last_fault, symbol};
pub use execute::launch::{Launch, Options, Statistics, launch};
pub use fault::{Fault, FaultKind};
pub use memory::{Memory, UnknownAddress};
pub use module::{Entry, Module, ModuleInstance, Param};
pub use syntax::ParseError;
