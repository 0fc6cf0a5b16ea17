//! A device for tests: memory, and launches with arguments.

#![allow(dead_code)] // each test file uses a part of it

use scalert_ptx_emulator::*;

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(crate) enum Arg {
    Pointer(u64),
    Int(i32),
    Float(f32),
}

/// Memory and options of launches.
pub(crate) struct Device {
    pub(crate) memory: Memory,
    pub(crate) options: Options,
}

impl Device {
    pub(crate) fn new() -> Device {
        Device { memory: Memory::new(), options: Options { instruction_limit: 1 << 22, ..Options::default() } }
    }

    pub(crate) fn upload<T: Copy>(&self, values: &[T]) -> u64 {
        let address = self.memory.allocate(size_of_val(values).max(1), 256, true).expect("memory");
        // SAFETY: plain numbers without padding.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
        self.memory.copy_in(address, bytes).expect("in range");
        address
    }

    pub(crate) fn download<T: Copy + Default>(&self, address: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::default(); count];
        // SAFETY: plain numbers without padding, of which any bits are a value.
        let bytes = unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), count * size_of::<T>()) };
        self.memory.copy_out(address, bytes).expect("in range");
        values
    }

    pub(crate) fn empty(&self, bytes: usize) -> u64 {
        self.memory.allocate(bytes, 256, true).expect("memory")
    }

    pub(crate) fn run(
        &self,
        module: &Module,
        name: &str,
        grid: impl Shape,
        block: impl Shape,
        shared: u32,
        arguments: &[Arg],
    ) -> Result<Statistics, Fault> {
        let entry = module.entry(name).unwrap_or_else(|| panic!("no kernel {name}"));
        let instance = ModuleInstance::new(&self.memory, module);
        let mut params = vec![0u8; entry.params_bytes];
        for (param, argument) in entry.params.iter().zip(arguments) {
            let bytes = match argument {
                Arg::Pointer(value) => value.to_le_bytes().to_vec(),
                Arg::Int(value) => value.to_le_bytes().to_vec(),
                Arg::Float(value) => value.to_le_bytes().to_vec(),
            };
            assert_eq!(bytes.len(), param.bytes, "the size of an argument of {name}");
            params[param.offset..param.offset + param.bytes].copy_from_slice(&bytes);
        }
        let (grid, block) = (grid.shape(), block.shape());
        let options = &self.options;
        let params = &params[..];
        let request =
            Launch { module, instance: &instance, entry, grid, block, dynamic_shared: shared, params, options };
        launch(&self.memory, &request)
    }

    /// Runs a kernel that has to fault, and returns the fault, which has to name the kernel and the instruction.
    pub(crate) fn fault(&self, module: &Module, name: &str, block: u32, shared: u32, arguments: &[Arg]) -> Fault {
        let fault = self.run(module, name, 1, block, shared, arguments).expect_err("a fault");
        assert_eq!(fault.kernel, name);
        assert!(fault.line > 0, "{fault}");
        assert!(fault.to_string().contains(&format!("PTX line {}, `{}`", fault.line, fault.instruction)), "{fault}");
        fault
    }
}

/// One to three extents.
pub(crate) trait Shape {
    fn shape(self) -> [u32; 3];
}

impl Shape for u32 {
    fn shape(self) -> [u32; 3] {
        [self, 1, 1]
    }
}

impl Shape for [u32; 3] {
    fn shape(self) -> [u32; 3] {
        self
    }
}

pub(crate) fn parse(text: &str) -> Module {
    Module::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

/// Numbers that look random, the same in every run.
pub(crate) fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
