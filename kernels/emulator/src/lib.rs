//! Executes PTX on the CPU, behind the CUDA driver API: every device kernel is tested on machines without a GPU.
//!
//! For tests only: nothing that ships depends on it.
/// PLACEHOLDER
pub fn symbol(_name: &str) -> Option<*const std::ffi::c_void> {
    None
}
/// PLACEHOLDER
pub fn last_fault() -> Option<String> {
    None
}
