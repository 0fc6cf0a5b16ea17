//! DLPack 1.x in and out. Source of the layout: the DLPack specification, `include/dlpack/dlpack.h`, version 1.1.

use crate::argument::{Argument, Flag, Live, Many, Out, expect_pointer};
use crate::tensor::{Tensor, TensorView, contiguous_strides, dimensions, extents};
use scalert_runtime::device::DeviceKind;
use scalert_runtime::{DType, Error, MAX_DIMS, Runtime, View};
use std::ffi::c_void;

/// The version that is written, and whose major is read.
const MAJOR: u32 = 1;
const MINOR: u32 = 1;

/// `DLPACK_FLAG_BITMASK_READ_ONLY`.
const READ_ONLY: u64 = 1;

/// `DLDeviceType` of host memory and of CUDA memory.
const CPU: i32 = 1;
const CUDA: i32 = 2;

/// `DLDataTypeCode`.
const INT: u8 = 0;
const UINT: u8 = 1;
const FLOAT: u8 = 2;
const BFLOAT: u8 = 4;

/// `DLPackVersion`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Version {
    major: u32,
    minor: u32,
}

/// `DLDevice`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Device {
    kind: i32,
    ordinal: i32,
}

/// `DLDataType`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

/// `DLTensor`.
#[repr(C)]
#[derive(Clone, Copy)]
struct DlTensor {
    data: *mut c_void,
    device: Device,
    ndim: i32,
    dtype: DataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// `DLManagedTensorVersioned`.
#[repr(C)]
pub struct Managed {
    version: Version,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
    flags: u64,
    tensor: DlTensor,
}

fn data_type(dtype: DType) -> DataType {
    let (code, bits) = match dtype {
        DType::F32 => (FLOAT, 32),
        DType::BF16 => (BFLOAT, 16),
        DType::F16 => (FLOAT, 16),
        DType::I32 => (INT, 32),
        DType::I64 => (INT, 64),
        DType::I16 => (INT, 16),
        DType::U8 => (UINT, 8),
    };
    DataType { code, bits, lanes: 1 }
}

fn device_of(runtime: &Runtime) -> Device {
    match runtime.device() {
        DeviceKind::Cpu => Device { kind: CPU, ordinal: 0 },
        DeviceKind::Cuda => Device { kind: CUDA, ordinal: runtime.ordinal() },
    }
}

/// A managed tensor of another framework. Beyond its version, nothing is read before the version is known.
pub enum ManagedIn {}

impl Argument for ManagedIn {
    type Raw = *const Managed;
    type Value<'a> = &'a Managed;
    unsafe fn accept<'a>(name: &'static str, raw: *const Managed) -> Result<Self::Value<'a>, Error> {
        expect_pointer(name, raw)?;
        // SAFETY: checked; every version of the struct begins with this field.
        let version = unsafe { (&raw const (*raw).version).read() };
        if version.major != MAJOR {
            return Err(Error::invalid(
                name,
                format_args!("DLPack version {}.{} must be {MAJOR}.x", version.major, version.minor),
            ));
        }
        // SAFETY: checked, and laid out as this major version says.
        Ok(unsafe { &*raw })
    }
}

/// A managed tensor that this library made: what the consumer sees, and what its deleter needs.
struct Lent {
    managed: Managed,
    shape: [i64; MAX_DIMS],
    strides: [i64; MAX_DIMS],
    owner: *mut c_void,
    release: Option<unsafe extern "C" fn(*mut c_void)>,
}

unsafe extern "C" fn delete(managed: *mut Managed) {
    if managed.is_null() {
        return;
    }
    // SAFETY: only `scalert_tensor_to_dlpack` sets this deleter, on a managed tensor whose context is its box, and a
    // consumer calls it once.
    let lent = unsafe { Box::from_raw((*managed).context.cast::<Lent>()) };
    let (owner, release) = (lent.owner, lent.release);
    drop(lent);
    if let Some(release) = release {
        // SAFETY: the host gave both together.
        unsafe { release(owner) };
    }
}

export! {
    /// A view of another framework's tensor.
    fn scalert_tensor_from_dlpack(runtime: Live<Runtime>, managed: ManagedIn, writable: Flag, out: Out<Tensor>) {
        let invalid = |message: std::fmt::Arguments<'_>| Error::invalid("managed", message);
        let tensor = &managed.tensor;
        let device = device_of(runtime);
        if tensor.device != device {
            return Err(invalid(format_args!(
                "DLPack device {}:{} must be {}:{}, the runtime's",
                tensor.device.kind, tensor.device.ordinal, device.kind, device.ordinal
            )));
        }
        if writable && managed.flags & READ_ONLY != 0 {
            return Err(invalid(format_args!("is read-only, but writable is 1")));
        }
        let dtype = [DType::F32, DType::BF16, DType::F16, DType::I32, DType::I64, DType::I16, DType::U8]
            .into_iter()
            .find(|d| data_type(*d) == tensor.dtype)
            .ok_or_else(|| {
                let DataType { code, bits, lanes } = tensor.dtype;
                invalid(format_args!(
                    "DLPack dtype (code {code}, {bits} bits, {lanes} lanes) must be f32, bf16, f16, i64, i32, i16 or u8"
                ))
            })?;
        let ndim = dimensions("managed", "ndim ", tensor.ndim)?;
        // SAFETY: a DLPack tensor has `ndim` extents, and as many strides or NULL.
        let (shape, strides) = unsafe {
            let shape = Many::accept("managed", tensor.shape.cast_const())?.first(ndim)?;
            let strides = match tensor.strides.is_null() {
                true => None,
                false => Some(Many::accept("managed", tensor.strides.cast_const())?.first(ndim)?),
            };
            (extents("managed", "shape", shape)?, strides)
        };
        let contiguous = contiguous_strides(shape);
        let strides = match strides {
            Some(strides) => extents("managed", "strides", strides)?,
            None => &contiguous[..ndim],
        };
        let offset = usize::try_from(tensor.byte_offset)
            .ok()
            .filter(|offset| (tensor.data as usize).checked_add(*offset).is_some())
            .ok_or_else(|| invalid(format_args!("byte_offset {} overflows memory", tensor.byte_offset)))?;
        let data = if tensor.data.is_null() { tensor.data } else { tensor.data.wrapping_byte_add(offset) };
        // SAFETY: nothing is read or written through this view; it only checks the description.
        let view = unsafe { View::new("managed", data.cast(), dtype, shape, strides)? };
        out.write(Tensor::from(&view));
        Ok(())
    }

    /// A managed tensor over a view, for another framework.
    fn scalert_tensor_to_dlpack(
        runtime: Live<Runtime>,
        tensor: TensorView,
        read_only: Flag,
        owner: *mut c_void,
        release: Option<unsafe extern "C" fn(*mut c_void)>,
        out: Out<*mut Managed>,
    ) {
        runtime.expect_reachable("tensor", &tensor)?;
        let description = Tensor::from(&tensor);
        let lent = Box::into_raw(Box::new(Lent {
            managed: Managed {
                version: Version { major: MAJOR, minor: MINOR },
                context: std::ptr::null_mut(),
                deleter: Some(delete),
                flags: if read_only { READ_ONLY } else { 0 },
                tensor: DlTensor {
                    data: description.data,
                    device: device_of(runtime),
                    ndim: description.ndim,
                    dtype: data_type(tensor.dtype()),
                    shape: std::ptr::null_mut(),
                    strides: std::ptr::null_mut(),
                    byte_offset: 0,
                },
            },
            shape: description.shape,
            strides: description.stride,
            owner,
            release,
        }));
        // SAFETY: the box was made above and is nobody else's yet; pointers into it stay valid until `delete`.
        unsafe {
            (*lent).managed.context = lent.cast();
            (*lent).managed.tensor.shape = (&raw mut (*lent).shape).cast();
            (*lent).managed.tensor.strides = (&raw mut (*lent).strides).cast();
            out.write(&raw mut (*lent).managed);
        }
        Ok(())
    }
}
