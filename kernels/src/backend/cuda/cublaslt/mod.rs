//! cuBLASLt, loaded at run time: NVIDIA's matrix products, where a machine has them. Absence is a reason, not a panic.
//!
//! Matrices are column-major here, as cuBLASLt takes them. Codes and enumerations are plain integers, since a newer
//! library may have values that no enumeration here knows. Nothing that sums in an order of its own choosing run by
//! run (atomic reductions), or rounds sums to less than f32, is ever selected; nor is TF32, unless the process asks
//! cuBLAS for it through its environment variables.

mod functions;

use super::driver::{CudaError, DevicePointer, Driver, Handle, Library};
use crate::dtype::DType;
pub use functions::provide;
use functions::{ARCHITECTURE_MISMATCH, Algorithm, Functions, HeuristicResult, INVALID_VALUE, NOT_SUPPORTED};
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::{Mutex, PoisonError};

/// Plans that are kept; more distinct products than that start anew.
const MOST_PLANS: usize = 4096;

/// Whether this machine has cuBLASLt; the error says why not.
pub fn available() -> Result<(), &'static str> {
    Functions::of_machine().map(|_| ())
}

/// A matrix, column-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Rows, which are contiguous.
    pub rows: u64,
    /// Columns.
    pub columns: u64,
    /// Elements from column to column.
    pub leading: i64,
    /// Elements from one matrix of the batch to the next.
    pub batch_stride: i64,
    /// Largest power of two that divides the address, at most 256.
    pub alignment: u32,
}

/// What follows the product: numbers of cublasLtEpilogue_t.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Epilogue {
    /// Nothing.
    None = 1,
    /// Adds a bias to each column, with an element for each row.
    Bias = 4,
    /// GELU, tanh form.
    Gelu = 32,
    /// The bias, then GELU.
    BiasGelu = 36,
    /// GELU, whose argument is stored too.
    GeluSaved = 160,
    /// The bias, then GELU, whose argument is stored too.
    BiasGeluSaved = 164,
    /// Times the derivative of GELU at a stored argument.
    GeluBackward = 192,
}

/// A product d = epilogue(alpha op(a) op(b) + beta d + bias), apart from addresses and factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matmul {
    /// Dtype of a and b.
    pub dtype: DType,
    /// Dtype of d, the bias and the stored arguments.
    pub d_dtype: DType,
    /// Whether op(a) is the transpose of a.
    pub transpose_a: bool,
    /// Whether op(b) is the transpose of b.
    pub transpose_b: bool,
    /// Left operand.
    pub a: Layout,
    /// Right operand.
    pub b: Layout,
    /// Result.
    pub d: Layout,
    /// Matrices in the batch.
    pub batch: i32,
    /// What follows.
    pub epilogue: Epilogue,
    /// Leading dimension and batch stride of the stored arguments; both multiples of 8.
    pub saved: (i64, i64),
    /// Whether the device holds the factors.
    pub device_factors: bool,
    /// Bytes of workspace that may be used.
    pub workspace_bytes: usize,
}

/// Addresses and factors of a product.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// Left operand.
    pub a: DevicePointer,
    /// Right operand.
    pub b: DevicePointer,
    /// Result.
    pub d: DevicePointer,
    /// Bias, if the epilogue has one.
    pub bias: DevicePointer,
    /// Stored arguments, if the epilogue has them; aligned to 16 bytes.
    pub saved: DevicePointer,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of the old d.
    pub beta: f32,
    /// Where the device holds alpha, and beta after it, if it does.
    pub factors: DevicePointer,
    /// Aligned to 256 bytes, as large as the product says.
    pub workspace: DevicePointer,
}

/// A product made ready: the library's descriptors and the algorithm it chose.
struct Plan {
    functions: &'static Functions,
    desc: Handle,
    a: Handle,
    b: Handle,
    d: Handle,
    algorithm: Algorithm,
    workspace_bytes: usize,
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: descriptors that the library made, each destroyed once; they hold nothing on the device. Nothing can
        // be done about a failure.
        unsafe {
            for layout in [self.a, self.b, self.d] {
                if !layout.is_null() {
                    let _ = self.functions.layout_destroy(layout);
                }
            }
            if !self.desc.is_null() {
                let _ = self.functions.desc_destroy(self.desc);
            }
        }
    }
}

fn data_type(dtype: DType) -> c_int {
    const R_32F: c_int = 0;
    const R_16F: c_int = 2;
    const R_16BF: c_int = 14;
    match dtype {
        DType::BF16 => R_16BF,
        DType::F16 => R_16F,
        _ => R_32F,
    }
}

fn bytes_of<T>(value: &T) -> (*const c_void, usize) {
    ((value as *const T).cast(), size_of::<T>())
}

mod desc {
    pub(super) const POINTER_MODE: i32 = 2;
    pub(super) const TRANSPOSE_A: i32 = 3;
    pub(super) const TRANSPOSE_B: i32 = 4;
    pub(super) const EPILOGUE: i32 = 7;
    pub(super) const BIAS_POINTER: i32 = 8;
    pub(super) const SAVED_POINTER: i32 = 11;
    pub(super) const SAVED_LEADING: i32 = 12;
    pub(super) const SAVED_BATCH_STRIDE: i32 = 13;
}

impl Plan {
    /// Asks the library for an algorithm; an error of NOT_SUPPORTED if there is none for this product.
    fn new(
        functions: &'static Functions,
        handle: Handle,
        matmul: &Matmul,
        operands: &Operands,
    ) -> Result<Plan, CudaError> {
        const COMPUTE_32F: c_int = 68;
        const NO_TRANSPOSE: i32 = 0;
        const TRANSPOSE: i32 = 1;
        const ON_DEVICE: i32 = 1;
        let null = std::ptr::null_mut();
        let mut plan =
            Plan { functions, desc: null, a: null, b: null, d: null, algorithm: Algorithm([0; 8]), workspace_bytes: 0 };
        // SAFETY: the library writes handles, and reads attributes of the sizes that cublasLt.h gives them.
        unsafe {
            functions.desc_create(&mut plan.desc, COMPUTE_32F, data_type(DType::F32))?;
            let operation = |transposed: bool| if transposed { TRANSPOSE } else { NO_TRANSPOSE };
            plan.set(desc::TRANSPOSE_A, &operation(matmul.transpose_a))?;
            plan.set(desc::TRANSPOSE_B, &operation(matmul.transpose_b))?;
            plan.set(desc::EPILOGUE, &(matmul.epilogue as i32))?;
            if matmul.device_factors {
                plan.set(desc::POINTER_MODE, &ON_DEVICE)?;
            }
            plan.set_pointers(operands)?;
            if operands.saved != 0 {
                plan.set(desc::SAVED_LEADING, &matmul.saved.0)?;
                plan.set(desc::SAVED_BATCH_STRIDE, &matmul.saved.1)?;
            }
            let layouts = [
                (&mut plan.a, matmul.a, matmul.dtype),
                (&mut plan.b, matmul.b, matmul.dtype),
                (&mut plan.d, matmul.d, matmul.d_dtype),
            ];
            for (handle, layout, dtype) in layouts {
                make_layout(functions, handle, &layout, dtype, matmul.batch)?;
            }
        }
        let result = plan.choose(handle, matmul)?;
        plan.algorithm = result.algorithm;
        plan.workspace_bytes = result.workspace_bytes;
        Ok(plan)
    }

    /// # Safety
    /// `T` is the attribute's type.
    unsafe fn set<T>(&self, attribute: i32, value: &T) -> Result<(), CudaError> {
        let (value, bytes) = bytes_of(value);
        // SAFETY: the caller's promise; the library copies the value.
        unsafe { self.functions.desc_set(self.desc, attribute, value, bytes) }
    }

    fn set_pointers(&self, operands: &Operands) -> Result<(), CudaError> {
        // SAFETY: both attributes are pointers.
        unsafe {
            if operands.bias != 0 {
                self.set(desc::BIAS_POINTER, &operands.bias)?;
            }
            if operands.saved != 0 {
                self.set(desc::SAVED_POINTER, &operands.saved)?;
            }
        }
        Ok(())
    }

    fn choose(&self, handle: Handle, matmul: &Matmul) -> Result<HeuristicResult, CudaError> {
        const WORKSPACE_BYTES: i32 = 1;
        const REDUCTIONS: i32 = 3;
        /// Partial sums in f32, added in a fixed order. (That no reduction is needed is always allowed.)
        const IN_COMPUTE_TYPE: u32 = 2;
        const ALIGNMENT_A: i32 = 5;
        let functions = self.functions;
        let mut preference = std::ptr::null_mut();
        let mut result = HeuristicResult {
            algorithm: Algorithm([0; 8]),
            workspace_bytes: 0,
            state: 0,
            waves: 0.0,
            reserved: [0; 4],
        };
        let mut found = 0;
        // SAFETY: the library writes a handle; attributes have the sizes that cublasLt.h gives them; there is room for
        // one result; the preference is destroyed once.
        let chosen = unsafe {
            functions.preference_create(&mut preference)?;
            let set = |attribute: i32, (value, bytes): (*const c_void, usize)| {
                functions.preference_set(preference, attribute, value, bytes)
            };
            let mut chosen = set(WORKSPACE_BYTES, bytes_of(&(matmul.workspace_bytes as u64)))
                .and_then(|()| set(REDUCTIONS, bytes_of(&IN_COMPUTE_TYPE)));
            // Attributes for a, b, c and d follow each other; c is d.
            let alignments = [matmul.a, matmul.b, matmul.d, matmul.d].map(|layout| layout.alignment);
            for (attribute, alignment) in (ALIGNMENT_A..).zip(&alignments) {
                chosen = chosen.and_then(|()| set(attribute, bytes_of(alignment)));
            }
            let chosen = chosen.and_then(|()| {
                functions.heuristic(
                    handle,
                    self.desc,
                    self.a,
                    self.b,
                    self.d,
                    self.d,
                    preference,
                    1,
                    &mut result,
                    &mut found,
                )
            });
            let _ = functions.preference_destroy(preference);
            chosen
        };
        chosen?;
        match (found, result.state) {
            (0, _) => Err(functions.error("cublasLtMatmulAlgoGetHeuristic", NOT_SUPPORTED as c_int)),
            (_, 0) => Ok(result),
            (_, code) => Err(functions.error("cublasLtMatmulAlgoGetHeuristic", code)),
        }
    }
}

/// # Safety
/// `handle` is not a layout yet.
unsafe fn make_layout(
    functions: &Functions,
    handle: &mut Handle,
    layout: &Layout,
    dtype: DType,
    batch: i32,
) -> Result<(), CudaError> {
    const BATCH_COUNT: i32 = 5;
    const BATCH_STRIDE: i32 = 6;
    // SAFETY: the library writes a handle, and reads attributes of the sizes that cublasLt.h gives them.
    unsafe {
        functions.layout_create(handle, data_type(dtype), layout.rows, layout.columns, layout.leading)?;
        if batch > 1 {
            let (value, bytes) = bytes_of(&batch);
            functions.layout_set(*handle, BATCH_COUNT, value, bytes)?;
            let (value, bytes) = bytes_of(&layout.batch_stride);
            functions.layout_set(*handle, BATCH_STRIDE, value, bytes)?;
        }
    }
    Ok(())
}

/// The library on one device: its handle and plans, made when they are first needed.
#[derive(Default)]
pub struct CublasLt {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    handle: Option<Result<Opened, CudaError>>,
    /// None: the library refused the product.
    plans: HashMap<Matmul, Option<Plan>>,
}

struct Opened {
    functions: &'static Functions,
    handle: Handle,
}

// SAFETY: the library's handles and descriptors may be used from any thread, one at a time; a mutex holds them.
unsafe impl Send for State {}

impl State {
    fn open(&mut self) -> Result<(&'static Functions, Handle), CudaError> {
        let opened = self.handle.get_or_insert_with(|| {
            let functions = Functions::of_machine().map_err(|message| CudaError {
                library: Library::CublasLt,
                code: NOT_SUPPORTED,
                call: "cublasLtCreate",
                message: message.to_owned(),
            })?;
            let mut handle = std::ptr::null_mut();
            // SAFETY: writes one handle.
            unsafe { functions.create(&mut handle) }?;
            Ok(Opened { functions, handle })
        });
        opened.as_ref().map(|opened| (opened.functions, opened.handle)).map_err(Clone::clone)
    }

    /// The plan for a product, or none if the library refuses it.
    fn plan(&mut self, matmul: &Matmul, operands: &Operands) -> Result<Option<&Plan>, CudaError> {
        let (functions, handle) = self.open()?;
        if !self.plans.contains_key(matmul) {
            let plan = Plan::new(functions, handle, matmul, operands);
            // A layout or combination that it does not take is an invalid value, or not supported.
            let plan = match plan {
                Ok(plan) => Some(plan),
                Err(error) if [INVALID_VALUE, ARCHITECTURE_MISMATCH, NOT_SUPPORTED].contains(&error.code) => None,
                Err(error) => return Err(error),
            };
            if self.plans.len() == MOST_PLANS {
                self.plans.clear();
            }
            self.plans.insert(*matmul, plan);
        }
        Ok(self.plans[matmul].as_ref())
    }
}

impl CublasLt {
    /// Runs `body` on the state while this thread may call what a capture on another stream would forbid.
    fn with<R>(&self, driver: &Driver, body: impl FnOnce(&mut State) -> Result<R, CudaError>) -> Result<R, CudaError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        driver.relaxed(|| body(&mut state))
    }

    /// Why the library cannot be used on this device, whose context is current.
    pub fn check(&self, driver: &Driver) -> Result<(), CudaError> {
        self.with(driver, |state| state.open().map(|_| ()))
    }

    /// Whether the library takes this product, for operands at such addresses.
    pub fn takes(&self, driver: &Driver, matmul: &Matmul, operands: &Operands) -> Result<bool, CudaError> {
        self.with(driver, |state| state.plan(matmul, operands).map(|plan| plan.is_some()))
    }

    /// Enqueues the product; false, and nothing is enqueued, if the library refuses it.
    ///
    /// # Safety
    /// The operands are device memory of these layouts, valid until the work is done; nothing else uses d, the stored
    /// arguments if they are written, or the workspace until then.
    pub unsafe fn enqueue(
        &self,
        driver: &Driver,
        matmul: &Matmul,
        operands: &Operands,
        stream: Handle,
    ) -> Result<bool, CudaError> {
        self.with(driver, |state| {
            let (functions, handle) = state.open()?;
            let Some(plan) = state.plan(matmul, operands)? else { return Ok(false) };
            plan.set_pointers(operands)?;
            let factors: [*const c_void; 2] = if matmul.device_factors {
                let address = |offset| std::ptr::with_exposed_provenance((operands.factors + offset) as usize);
                [address(0), address(size_of::<f32>() as u64)]
            } else {
                [(&raw const operands.alpha).cast(), (&raw const operands.beta).cast()]
            };
            // SAFETY: the caller's promise. Factors of the host are read before the call returns.
            let enqueued = unsafe {
                functions.matmul(
                    handle,
                    plan.desc,
                    factors[0],
                    operands.a,
                    plan.a,
                    operands.b,
                    plan.b,
                    factors[1],
                    operands.d,
                    plan.d,
                    operands.d,
                    plan.d,
                    &plan.algorithm,
                    operands.workspace,
                    plan.workspace_bytes,
                    stream,
                )
            };
            match enqueued {
                Ok(()) => Ok(true),
                // Refused before anything was enqueued, as if there were no algorithm.
                Err(error) if [ARCHITECTURE_MISMATCH, NOT_SUPPORTED].contains(&error.code) => {
                    state.plans.insert(*matmul, None);
                    Ok(false)
                }
                Err(error) => Err(error),
            }
        })
    }

    /// Destroys what was made. In a context that is gone, it is gone with it.
    pub fn destroy(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.plans.clear();
        if let Some(Ok(opened)) = state.handle.take() {
            // SAFETY: a handle that the library made, used no more. Nothing can be done about a failure.
            let _ = unsafe { opened.functions.destroy(opened.handle) };
        }
    }
}
