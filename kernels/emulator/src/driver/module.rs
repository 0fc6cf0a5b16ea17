//! Modules: PTX text that is loaded into a context.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::argument::{In, Out, Text};
use super::context::Context;
use super::error::Status;
use super::export::exports;
use super::function::{FUNCTIONS, Function};
use super::memory::{self, Origin};
use super::registry::{Kind, Registry};
use super::{attribute, capture, current};
use crate::{Module, ModuleInstance};

/// A module in a context.
pub(super) struct Loaded {
    /// Its handle.
    pub(super) handle: usize,
    /// Handle of its context.
    pub(super) context: usize,
    /// Its kernels.
    pub(super) module: Module,
    /// Its variables.
    pub(super) instance: ModuleInstance,
    loaded: AtomicBool,
    functions: Mutex<HashMap<String, usize>>,
    variables: Mutex<HashMap<String, u64>>,
}

pub(super) static MODULES: Registry<Loaded> = Registry::new(Kind::Module);

const ELF: &[u8] = b"\x7fELF";
const FAT_BINARY: &[u8] = &[0x50, 0xed, 0x55, 0xba];
const FAT_BINARY_WRAPPER: &[u8] = &[0xb1, 0x43, 0x62, 0x46];
/// Language version that the emulated driver takes: major and minor.
const PTX_VERSION: (u32, u32) = (9, 0);

const INFO_LOG: c_int = 3;
const INFO_LOG_BYTES: c_int = 4;
const ERROR_LOG: c_int = 5;
const ERROR_LOG_BYTES: c_int = 6;
const LAST_OPTION: c_int = 40;

impl Loaded {
    /// Whether it is still loaded.
    pub(super) fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    fn unload(&self) {
        self.loaded.store(false, Ordering::Release);
        let functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        functions.values().for_each(|function| {
            let _ = FUNCTIONS.remove(*function);
        });
        let variables = self.variables.lock().unwrap_or_else(PoisonError::into_inner);
        variables.values().for_each(|address| {
            let _ = memory::release(*address, |origin| origin == Origin::Module, Status::NOT_FOUND);
        });
    }
}

/// Unloads every module of a context that goes away.
pub(super) fn unload_all(context: usize) {
    MODULES.remove_where(|module| module.context == context).iter().for_each(|module| module.unload());
}

/// The words behind a directive such as `.target`.
fn directive<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim_start().strip_prefix(name)).map(str::trim)
}

/// What stops a text from running on this device before a word of it is translated.
fn check_header(text: &str) -> Result<(), (Status, String)> {
    let version = directive(text, ".version ").ok_or((Status::INVALID_IMAGE, "no .version".to_owned()))?;
    let mut numbers = version.split('.').map_while(|number| number.trim().parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        return Err((Status::INVALID_PTX, format!("unknown .version {version}")));
    };
    if (major, minor) > PTX_VERSION {
        return Err((Status::UNSUPPORTED_PTX_VERSION, format!("unsupported .version {version}")));
    }
    let target = directive(text, ".target ").unwrap_or_default();
    let name = target.split([',', ' ', '/']).next().unwrap_or_default();
    let capability = name.strip_prefix("sm_").and_then(|number| number.parse::<u32>().ok());
    match capability {
        Some(capability) if capability <= attribute::CAPABILITY => Ok(()),
        _ => {
            Err((Status::INVALID_PTX, format!(".target {target} is not for a device of sm_{}", attribute::CAPABILITY)))
        }
    }
}

/// The text of an image; a binary is refused.
fn text_of<'a>(image: In<u8>) -> Result<&'a str, Status> {
    let starts_with = |magic: &[u8]| {
        // Stops at the first difference: a text may end before the magic does.
        magic.iter().enumerate().all(|(index, byte)| image.at(index) == Ok(*byte))
    };
    image.at(0)?;
    if [ELF, FAT_BINARY, FAT_BINARY_WRAPPER].into_iter().any(starts_with) {
        return Err(Status::NO_BINARY_FOR_GPU);
    }
    // SAFETY: not null, and the caller vouches for an image: one that is no binary is a text that ends in a NUL.
    let text = unsafe { CStr::from_ptr(image.pointer().cast::<c_char>()) };
    text.to_str().map_err(|_| Status::INVALID_IMAGE)
}

fn translate(text: &str) -> Result<Module, (Status, String)> {
    check_header(text)?;
    Module::parse(text).map_err(|error| (Status::INVALID_PTX, error.to_string()))
}

fn load(context: &Context, out: Out<usize>, text: &str) -> Result<(), (Status, String)> {
    let module = translate(text)?;
    let instance = ModuleInstance::new(&context.memory, &module);
    let handle = MODULES.issue();
    let loaded = Arc::new(Loaded {
        handle,
        context: context.handle,
        module,
        instance,
        loaded: AtomicBool::new(true),
        functions: Mutex::new(HashMap::new()),
        variables: Mutex::new(HashMap::new()),
    });
    MODULES.insert(handle, loaded);
    out.set(handle).map_err(|status| (status, String::new()))
}

/// Buffers for messages, as options name them.
struct Logs {
    info: Log,
    error: Log,
}

#[derive(Default)]
struct Log {
    buffer: Option<Out<c_char>>,
    bytes: usize,
}

impl Logs {
    fn from_options(count: c_uint, options: In<c_int>, values: In<Out<c_void>>) -> Result<Self, Status> {
        let mut logs = Self { info: Log::default(), error: Log::default() };
        for index in 0..count as usize {
            let (option, value) = (options.at(index)?, values.at(index)?);
            match option {
                INFO_LOG => logs.info.buffer = Some(value.cast()),
                INFO_LOG_BYTES => logs.info.bytes = value.pointer() as usize,
                ERROR_LOG => logs.error.buffer = Some(value.cast()),
                ERROR_LOG_BYTES => logs.error.bytes = value.pointer() as usize,
                0..=LAST_OPTION => {}
                _ => return Err(Status::INVALID_VALUE),
            }
        }
        Ok(logs)
    }
}

impl Log {
    fn write(&self, text: &str) {
        let Some(buffer) = self.buffer.filter(|buffer| !buffer.is_null() && self.bytes > 0) else { return };
        let kept = text.len().min(self.bytes - 1);
        text.bytes().take(kept).enumerate().for_each(|(index, byte)| buffer.set_at(index, byte as c_char));
        buffer.set_at(kept, 0);
    }
}

/// Takes an image and tells the logs what is wrong with it.
fn load_image(out: Out<usize>, image: In<u8>, logs: Option<Logs>) -> Result<(), Status> {
    let context = current::context()?;
    let out = out.required()?;
    capture::refuse_unsafe_call()?;
    let outcome = load(&context, out, text_of(image)?);
    if let Some(logs) = logs {
        logs.info.write("");
        logs.error.write(outcome.as_ref().err().map_or("", |error| &error.1));
    }
    outcome.map_err(|error| error.0)
}

fn load_file(out: Out<usize>, path: &str) -> Result<(), Status> {
    let context = current::context()?;
    let out = out.required()?;
    capture::refuse_unsafe_call()?;
    let bytes = std::fs::read(path).map_err(|_| Status::FILE_NOT_FOUND)?;
    if [ELF, FAT_BINARY, FAT_BINARY_WRAPPER].into_iter().any(|magic| bytes.starts_with(magic)) {
        return Err(Status::NO_BINARY_FOR_GPU);
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| Status::INVALID_IMAGE)?;
    load(&context, out, text).map_err(|error| error.0)
}

exports! {
    /// Loads PTX text from a file.
    fn cuModuleLoad(module: Out<usize>, path: Text) {
        load_file(module, path.get()?)
    }

    /// Loads PTX text.
    fn cuModuleLoadData(module: Out<usize>, image: In<u8>) {
        load_image(module, image, None)
    }

    /// Loads PTX text, with options: buffers for messages are filled, the rest changes nothing.
    fn cuModuleLoadDataEx(
        module: Out<usize>,
        image: In<u8>,
        count: c_uint,
        options: In<c_int>,
        values: In<Out<c_void>>,
    ) {
        load_image(module, image, Some(Logs::from_options(count, options, values)?))
    }

    /// Unloads a module.
    fn cuModuleUnload(module: usize) {
        current::context()?;
        capture::refuse_unsafe_call()?;
        MODULES.remove(module)?.unload();
        Ok(())
    }

    /// A kernel of a module.
    fn cuModuleGetFunction(function: Out<usize>, module: usize, name: Text) {
        let context = current::context()?;
        let function = function.required()?;
        let loaded = MODULES.get(module)?;
        if loaded.context != context.handle {
            return Err(Status::INVALID_CONTEXT);
        }
        let name = name.get()?;
        let entry = loaded.module.entry(name).ok_or(Status::NOT_FOUND)?;
        let mut functions = loaded.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = functions.get(name) {
            return function.set(*handle);
        }
        let text = CString::new(name).map_err(|_| Status::INVALID_VALUE)?;
        let handle = FUNCTIONS.issue();
        FUNCTIONS.insert(handle, Arc::new(Function::new(text, loaded.clone(), entry)));
        functions.insert(name.to_owned(), handle);
        function.set(handle)
    }

    /// Number of kernels of a module.
    fn cuModuleGetFunctionCount(count: Out<c_uint>, module: usize) {
        current::context()?;
        count.set(MODULES.get(module)?.module.entries().count() as c_uint)
    }

    /// Address and size of a variable of a module.
    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: usize, name: Text) {
        let context = current::context()?;
        let loaded = MODULES.get(module)?;
        let name = name.get()?;
        let (offset, size) = loaded.module.global_variable(name).ok_or(Status::NOT_FOUND)?;
        let at = loaded.instance.address_of(offset);
        let mut variables = loaded.variables.lock().unwrap_or_else(PoisonError::into_inner);
        if size > 0 && variables.insert(name.to_owned(), at).is_none() {
            memory::note(&context, at, size, Origin::Module, 0);
        }
        address.set_if_wanted(at);
        bytes.set_if_wanted(size);
        Ok(())
    }

    /// How modules are loaded: at once.
    fn cuModuleGetLoadingMode(mode: Out<c_int>) {
        const EAGER: c_int = 1;
        mode.set(EAGER)
    }
}
