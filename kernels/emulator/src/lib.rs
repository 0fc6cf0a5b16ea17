//! Executes PTX on the CPU, behind the CUDA driver API: every device kernel is tested on machines without a GPU.
//!
//! For tests only: nothing that ships depends on it.
