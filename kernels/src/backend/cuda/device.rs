//! One device in one context: its properties, and its functions, loaded when they are first launched.

use super::cublaslt::CublasLt;
use super::cudnn::Cudnn;
use super::driver::{CudaError, Driver, Handle, Library, attribute};
use super::image;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Mutex;

/// What a launch is sized by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Compute capability: 10 major + minor.
    pub capability: u32,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Most dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// Bytes of the second-level cache.
    pub l2_bytes: u32,
    /// Whether the driver is this machine's own, so that NVIDIA's libraries work on the device too.
    pub native: bool,
}

/// A device in a context. Its methods need the context to be current on the calling thread.
pub struct Device {
    driver: &'static Driver,
    properties: Properties,
    modules: Mutex<Modules>,
    cublas_lt: CublasLt,
    cudnn: Cudnn,
}

#[derive(Default)]
struct Modules {
    loaded: HashMap<&'static str, Module>,
    functions: HashMap<&'static str, Function>,
}

/// A module of the driver.
struct Module(Handle);

/// A function of a module.
#[derive(Clone, Copy)]
pub struct Function {
    pub(super) handle: Handle,
    pub(super) parameter_bytes: usize,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Send for Function {}

impl Device {
    /// The device numbered `device` by the driver, in the current context.
    pub fn new(driver: &'static Driver, device: i32) -> Result<Device, CudaError> {
        let read = |attribute: i32| {
            let mut value = 0;
            // SAFETY: writes one integer.
            unsafe { driver.device_attribute(&mut value, attribute, device) }.map(|()| value.max(0) as u32)
        };
        let properties = Properties {
            capability: 10 * read(attribute::CAPABILITY_MAJOR)? + read(attribute::CAPABILITY_MINOR)?,
            multiprocessors: read(attribute::MULTIPROCESSORS)?.max(1),
            shared_bytes: read(attribute::SHARED_MEMORY_OPT_IN)?,
            l2_bytes: read(attribute::L2_BYTES)?,
            native: Driver::of_machine().is_ok_and(|machine| std::ptr::eq(machine, driver)),
        };
        Ok(Device {
            driver,
            properties,
            modules: Mutex::default(),
            cublas_lt: CublasLt::default(),
            cudnn: Cudnn::default(),
        })
    }

    /// With the libraries of [`super::cublaslt::provide`] and the like, whatever the driver.
    pub fn with_libraries(mut self) -> Device {
        self.properties.native = true;
        self
    }

    /// Its driver.
    pub fn driver(&self) -> &'static Driver {
        self.driver
    }

    /// What launches are sized by.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// cuBLASLt on this device. Only where the device is [`Properties::native`].
    pub(crate) fn cublas_lt(&self) -> &CublasLt {
        &self.cublas_lt
    }

    /// cuDNN on this device. Only where the device is [`Properties::native`].
    pub(crate) fn cudnn(&self) -> &Cudnn {
        &self.cudnn
    }

    /// The function `name` of the file `file`, loaded at first use. Loading is allowed while a stream is captured.
    pub fn function(&self, file: &'static str, name: &'static str) -> Result<Function, CudaError> {
        let mut modules = self.modules.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(function) = modules.functions.get(name) {
            return Ok(*function);
        }
        let function = self.driver.relaxed(|| self.load(&mut modules, file, name))?;
        modules.functions.insert(name, function);
        Ok(function)
    }

    fn load(&self, modules: &mut Modules, file: &'static str, name: &'static str) -> Result<Function, CudaError> {
        let module = match modules.loaded.get(file) {
            Some(module) => module.0,
            None => {
                let module = self.load_module(file)?;
                modules.loaded.insert(file, Module(module));
                module
            }
        };
        let symbol = CString::new(name).expect("no NUL in a kernel's name");
        let mut function = Function { handle: std::ptr::null_mut(), parameter_bytes: 0 };
        // SAFETY: the module is loaded; the driver writes one handle, one offset and one size.
        unsafe {
            self.driver.module_function(&mut function.handle, module, symbol.as_ptr())?;
            let mut offset = 0;
            self.driver.function_parameter(function.handle, 0, &mut offset, &mut function.parameter_bytes)?;
            const MAX_DYNAMIC_SHARED_BYTES: i32 = 8;
            self.driver.function_set_attribute(
                function.handle,
                MAX_DYNAMIC_SHARED_BYTES,
                self.dynamic_shared_bytes(function.handle)?,
            )?;
        }
        Ok(function)
    }

    /// What the device has for a block beyond the static shared memory of the function.
    fn dynamic_shared_bytes(&self, function: Handle) -> Result<i32, CudaError> {
        const STATIC_SHARED_BYTES: i32 = 1;
        let mut bytes = 0;
        // SAFETY: writes one integer.
        unsafe { self.driver.function_attribute(&mut bytes, STATIC_SHARED_BYTES, function) }?;
        Ok(self.properties.shared_bytes as i32 - bytes)
    }

    /// Loads the cubin made for this device, or else the PTX, which the driver compiles.
    fn load_module(&self, file: &str) -> Result<Handle, CudaError> {
        const NO_BINARY_FOR_GPU: i64 = 209;
        let image = image::find(file).map_err(|message| CudaError {
            library: Library::Driver,
            code: NO_BINARY_FOR_GPU,
            call: "cuModuleLoadData",
            message,
        })?;
        let mut module = std::ptr::null_mut();
        if let Some(cubin) = image.cubin(self.properties.capability) {
            // SAFETY: the image is a whole cubin.
            match unsafe { self.driver.module_load(&mut module, cubin.as_ptr().cast()) } {
                Err(error) if error.code == NO_BINARY_FOR_GPU => {}
                loaded => return loaded.map(|()| module),
            }
        }
        // SAFETY: the image is PTX text that ends with NUL.
        unsafe { self.driver.module_load(&mut module, image.ptx().as_ptr().cast()) }?;
        Ok(module)
    }

    /// Unloads what was loaded. A context that is gone has done so itself.
    pub fn unload(&mut self) {
        self.cublas_lt.destroy();
        self.cudnn.destroy();
        let modules = self.modules.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        modules.functions.clear();
        for (_, module) in modules.loaded.drain() {
            // SAFETY: a module that this device loaded, whose functions are used no more. A failure means that the
            // context is gone, and the module with it.
            let _ = unsafe { self.driver.module_unload(module.0) };
        }
    }
}
