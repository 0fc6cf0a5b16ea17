//! A parsed PTX text: its kernels and its variables.

use crate::decode;
use crate::memory::Memory;
use crate::program::Program;
use crate::syntax::tree::{Initial, Space, Tree};
use crate::syntax::{ParseError, parser};
use std::collections::HashMap;

/// A parameter of a kernel, in the buffer of parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Where it starts.
    pub offset: usize,
    /// Its size.
    pub bytes: usize,
    /// Its alignment.
    pub align: usize,
}

/// A kernel.
pub struct Entry {
    /// Its name, as in the text.
    pub name: String,
    /// Its parameters, in order.
    pub params: Vec<Param>,
    /// Its static shared memory.
    pub shared_bytes: u32,
    /// Its local memory for each thread.
    pub local_bytes: u32,
    /// The most threads of a block, where the kernel says so.
    pub max_threads: Option<u32>,
    /// The size of the buffer of parameters.
    pub params_bytes: usize,
    /// An estimate of the registers that a thread would take: those that the text declares, in units of 32 bits.
    pub declared_registers: u32,
    pub(crate) program: Program,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("name", &self.name).field("params", &self.params).finish_non_exhaustive()
    }
}

/// A variable of a module, in its storage.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

/// A parsed PTX text.
pub struct Module {
    entries: Vec<Entry>,
    variables: HashMap<String, Stored>,
    /// The initial bytes of all variables.
    image: Vec<u8>,
    /// Where in the image an address goes: its offset and the offset it points to.
    addresses: Vec<(usize, u64)>,
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module").field("entries", &self.entries).finish_non_exhaustive()
    }
}

/// Bytes between two variables, so that an overrun is seen.
const GAP: usize = 64;

impl Module {
    /// Parses and decodes a text. An instruction that is not known is an error, whether or not it would be executed.
    pub fn parse(text: &str) -> Result<Module, ParseError> {
        let tree = parser::parse(text.trim_end_matches('\0'))?;
        let mut module =
            Module { entries: Vec::new(), variables: HashMap::new(), image: Vec::new(), addresses: Vec::new() };
        module.lay_out(&tree)?;
        for function in tree.functions.iter().filter(|function| function.body.is_some()) {
            let entry = decode::entry(&tree, function, &module.variables)?;
            if function.is_entry {
                module.entries.push(entry);
            }
        }
        Ok(module)
    }

    fn lay_out(&mut self, tree: &Tree) -> Result<(), ParseError> {
        let stored: Vec<_> =
            tree.variables.iter().filter(|v| matches!(v.space, Space::Global | Space::Constant)).collect();
        for variable in &stored {
            let offset = self.image.len().next_multiple_of(variable.align.max(16));
            self.image.resize(offset + variable.bytes + GAP, 0);
            self.variables.insert(variable.name.clone(), Stored { offset, bytes: variable.bytes });
        }
        for variable in &stored {
            let start = self.variables[&variable.name].offset;
            for (index, value) in variable.initial.iter().enumerate() {
                let at = start + index * variable.element;
                match value {
                    Initial::Bits(bits) => {
                        self.image[at..at + variable.element].copy_from_slice(&bits.to_le_bytes()[..variable.element]);
                    }
                    Initial::Address(name, offset) => {
                        let target = self.variables.get(name).filter(|_| variable.element == 8).ok_or_else(|| {
                            ParseError::at(variable.line, &format!("the address of '{name}' is not known here"))
                        })?;
                        self.addresses.push((at, (target.offset as i64 + offset) as u64));
                    }
                }
            }
        }
        Ok(())
    }

    /// A kernel by its name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// All kernels, in the order of the text.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The offset, in the storage of an instance, and the size of a `.global` or `.const` variable.
    pub fn global_variable(&self, name: &str) -> Option<(usize, usize)> {
        self.variables.get(name).map(|stored| (stored.offset, stored.bytes))
    }
}

/// The variables of a module in one address space: what loading a module creates.
pub struct ModuleInstance {
    memory: Memory,
    /// u128 for the alignment.
    storage: Box<[std::cell::UnsafeCell<[u128; 16]>]>,
    registered: Vec<u64>,
}

// SAFETY: the storage is device memory: after construction it is accessed through its address only, by kernels and copies,
// as any other device memory.
unsafe impl Send for ModuleInstance {}
// SAFETY: as above; no method reads or writes the storage.
unsafe impl Sync for ModuleInstance {}

impl ModuleInstance {
    /// Storage for the variables of a module, with their initial values, visible to kernels.
    pub fn new(memory: &Memory, module: &Module) -> ModuleInstance {
        let units = module.image.len().div_ceil(256) + 1;
        let storage = (0..units).map(|_| std::cell::UnsafeCell::new([0u128; 16])).collect();
        let mut instance = ModuleInstance { memory: memory.clone(), storage, registered: Vec::new() };
        let base = instance.base();
        let mut image = module.image.clone();
        for &(at, target) in &module.addresses {
            image[at..at + 8].copy_from_slice(&(base + target).to_le_bytes());
        }
        // SAFETY: the storage has room for the image, and nothing else knows of it yet.
        unsafe { std::ptr::copy_nonoverlapping(image.as_ptr(), base as *mut u8, image.len()) };
        for stored in module.variables.values().filter(|stored| stored.bytes > 0) {
            let address = base + stored.offset as u64;
            memory.register(address, stored.bytes);
            instance.registered.push(address);
        }
        instance
    }

    fn base(&self) -> u64 {
        self.storage.as_ptr() as u64
    }

    /// The address of a byte of the storage, by its offset.
    pub fn address_of(&self, offset: usize) -> u64 {
        self.base() + offset as u64
    }
}

impl Drop for ModuleInstance {
    fn drop(&mut self) {
        for &address in &self.registered {
            self.memory.unregister(address);
        }
    }
}
