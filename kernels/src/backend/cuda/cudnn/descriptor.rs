//! Descriptors of the library: typed attributes, set once, then finalized.

use super::functions::Functions;
use crate::backend::cuda::driver::{CudaError, Handle};
use std::ffi::{c_int, c_void};

/// Numbers of cudnnBackendDescriptorType_t.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(super) enum Kind {
    Engine = 2,
    EngineConfig = 3,
    EngineHeuristic = 4,
    ExecutionPlan = 5,
    OperationGraph = 15,
    VariantPack = 16,
    Tensor = 17,
    SdpaForward = 41,
    DiagonalBandMask = 44,
    Softmax = 45,
}

/// Numbers of cudnnBackendAttributeType_t.
mod kind {
    pub(super) const HANDLE: i32 = 0;
    pub(super) const DATA_TYPE: i32 = 1;
    pub(super) const BOOLEAN: i32 = 2;
    pub(super) const INT64: i32 = 3;
    pub(super) const VOID_PTR: i32 = 6;
    pub(super) const HEUR_MODE: i32 = 8;
    pub(super) const NUMERICAL_NOTE: i32 = 11;
    pub(super) const POINTWISE_MODE: i32 = 14;
    pub(super) const BACKEND_DESCRIPTOR: i32 = 15;
}

/// An enumeration's type and value.
#[derive(Clone, Copy)]
pub(super) struct Enumeration {
    kind: c_int,
    value: c_int,
}

impl Enumeration {
    pub(super) const FLOAT: Enumeration = Enumeration { kind: kind::DATA_TYPE, value: 0 };
    pub(super) const HALF: Enumeration = Enumeration { kind: kind::DATA_TYPE, value: 2 };
    pub(super) const INT32: Enumeration = Enumeration { kind: kind::DATA_TYPE, value: 4 };
    pub(super) const BFLOAT16: Enumeration = Enumeration { kind: kind::DATA_TYPE, value: 9 };
    pub(super) const CMP_GE: Enumeration = Enumeration { kind: kind::POINTWISE_MODE, value: 303 };
    pub(super) const HEURISTIC_A: Enumeration = Enumeration { kind: kind::HEUR_MODE, value: 3 };
}

/// A descriptor, destroyed when this is dropped.
pub(super) struct Descriptor {
    functions: &'static Functions,
    handle: Handle,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: a descriptor that the library made, destroyed once. Nothing can be done about a failure.
        let _ = unsafe { self.functions.descriptor_destroy(self.handle) };
    }
}

impl Descriptor {
    pub(super) fn new(functions: &'static Functions, kind: Kind) -> Result<Descriptor, CudaError> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        unsafe { functions.descriptor_create(kind as c_int, &mut handle) }?;
        Ok(Descriptor { functions, handle })
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    pub(super) fn finalize(&self) -> Result<(), CudaError> {
        // SAFETY: a descriptor that the library made.
        unsafe { self.functions.descriptor_finalize(self.handle) }
    }

    /// # Safety
    /// `T` is what `kind` stands for.
    unsafe fn set<T>(&self, attribute: c_int, kind: c_int, values: &[T]) -> Result<(), CudaError> {
        let elements: *const c_void = values.as_ptr().cast();
        // SAFETY: the caller's promise; the library copies the values.
        unsafe { self.functions.descriptor_set(self.handle, attribute, kind, values.len() as i64, elements) }
    }

    pub(super) fn set_int64s(&self, attribute: c_int, values: &[i64]) -> Result<(), CudaError> {
        // SAFETY: the type's.
        unsafe { self.set(attribute, kind::INT64, values) }
    }

    pub(super) fn set_true(&self, attribute: c_int) -> Result<(), CudaError> {
        // SAFETY: the type is C's bool.
        unsafe { self.set(attribute, kind::BOOLEAN, &[true]) }
    }

    pub(super) fn set_enumeration(&self, attribute: c_int, enumeration: Enumeration) -> Result<(), CudaError> {
        // SAFETY: C's enumerations are integers.
        unsafe { self.set(attribute, enumeration.kind, &[enumeration.value]) }
    }

    /// `other` must outlive what is made of this one.
    pub(super) fn set_descriptor(&self, attribute: c_int, other: &Descriptor) -> Result<(), CudaError> {
        // SAFETY: the type's.
        unsafe { self.set(attribute, kind::BACKEND_DESCRIPTOR, &[other.handle]) }
    }

    pub(super) fn set_handle(&self, attribute: c_int, handle: Handle) -> Result<(), CudaError> {
        // SAFETY: the type's.
        unsafe { self.set(attribute, kind::HANDLE, &[handle]) }
    }

    pub(super) fn set_addresses(&self, attribute: c_int, addresses: &[u64]) -> Result<(), CudaError> {
        // SAFETY: an address is as wide as a pointer.
        unsafe { self.set(attribute, kind::VOID_PTR, addresses) }
    }

    /// Reads elements into `room`, and gives how many there are.
    ///
    /// # Safety
    /// `T` is what `kind` stands for.
    unsafe fn get<T>(&self, attribute: c_int, kind: c_int, room: &mut [T]) -> Result<usize, CudaError> {
        let mut count = 0;
        let elements: *mut c_void = if room.is_empty() { std::ptr::null_mut() } else { room.as_mut_ptr().cast() };
        // SAFETY: the caller's promise; the library writes no more elements than there is room for.
        unsafe {
            self.functions.descriptor_get(self.handle, attribute, kind, room.len() as i64, &mut count, elements)
        }?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    pub(super) fn get_int64(&self, attribute: c_int) -> Result<i64, CudaError> {
        let mut value = [0];
        // SAFETY: the type's.
        unsafe { self.get(attribute, kind::INT64, &mut value) }?;
        Ok(value[0])
    }

    /// The numbers of the numerical notes, as many as there are.
    pub(super) fn get_notes(&self, attribute: c_int) -> Result<Vec<c_int>, CudaError> {
        let mut notes = [0; 32];
        // SAFETY: C's enumerations are integers.
        let count = unsafe { self.get(attribute, kind::NUMERICAL_NOTE, &mut notes) }?;
        Ok(notes[..count.min(notes.len())].to_vec())
    }

    /// The descriptors that an attribute gives, of this kind.
    pub(super) fn get_descriptors(&self, attribute: c_int, of: Kind) -> Result<Vec<Descriptor>, CudaError> {
        // SAFETY: nothing is written, without room for it.
        let count = unsafe { self.get::<Handle>(attribute, kind::BACKEND_DESCRIPTOR, &mut []) }?;
        let mut found = (0..count).map(|_| Descriptor::new(self.functions, of)).collect::<Result<Vec<_>, _>>()?;
        let mut handles: Vec<Handle> = found.iter().map(Descriptor::handle).collect();
        // SAFETY: the library fills in the descriptors that it is given.
        let filled = unsafe { self.get(attribute, kind::BACKEND_DESCRIPTOR, &mut handles) }?;
        found.truncate(filled);
        Ok(found)
    }
}
