//! A stand-in for cuBLASLt that multiplies on the host, one element after the other, and refuses what the documentation
//! of the real one does not allow: with it, the way from row-major products to the library's column-major ones is
//! tested on a machine without either.

use scalert_kernels::dtype::{bf16, f16};
use scalert_kernels::ops::gelu::GeluKind;
use scalert_kernels::ops::gelu::reference::{gelu, gelu_gradient};
use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

const INVALID_VALUE: c_int = 7;
const NOT_SUPPORTED: c_int = 15;
/// Addresses aligned to less than this are refused, as the real library does for many layouts.
const LEAST_ALIGNMENT: u32 = 8;
const WORKSPACE_BYTES: usize = 512;
const TOKEN: u64 = 0x5ca1_e127;

/// Products computed so far.
pub static PRODUCTS: AtomicUsize = AtomicUsize::new(0);

/// Attributes by their number, as they were set.
#[derive(Default)]
struct Attributes(HashMap<c_int, Vec<u8>>);

impl Attributes {
    fn number(&self, attribute: c_int) -> Option<i64> {
        self.0.get(&attribute).map(|bytes| match bytes.len() {
            4 => i32::from_ne_bytes(bytes[..].try_into().unwrap()).into(),
            8 => i64::from_ne_bytes(bytes[..].try_into().unwrap()),
            size => panic!("attribute {attribute} has {size} bytes"),
        })
    }
}

struct Layout {
    dtype: c_int,
    rows: usize,
    columns: usize,
    leading: usize,
    attributes: Attributes,
}

impl Layout {
    fn batch(&self) -> (usize, usize) {
        let number = |attribute| self.attributes.number(attribute).unwrap_or(0) as usize;
        (number(5).max(1), number(6))
    }
}

struct Desc {
    compute: c_int,
    scale: c_int,
    attributes: Attributes,
}

impl Desc {
    fn number(&self, attribute: c_int) -> i64 {
        self.attributes.number(attribute).unwrap_or(0)
    }
}

#[repr(C)]
struct HeuristicResult {
    algorithm: [u64; 8],
    workspace_bytes: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

/// # Safety
/// `place` can hold a pointer.
unsafe fn give<T>(place: *mut *mut T, value: T) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { place.write(Box::into_raw(Box::new(value))) };
    0
}

/// # Safety
/// `object` came from [`give`], and is used no more.
unsafe extern "C" fn drop_of<T>(object: *mut T) -> c_int {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(object) });
    0
}

/// # Safety
/// `value` has `bytes` bytes.
unsafe fn set(attributes: &mut Attributes, attribute: c_int, value: *const c_void, bytes: usize) -> c_int {
    // SAFETY: the caller's promise.
    let value = unsafe { std::slice::from_raw_parts(value.cast::<u8>(), bytes) };
    attributes.0.insert(attribute, value.to_vec());
    0
}

unsafe extern "C" fn create(handle: *mut *mut u64) -> c_int {
    // SAFETY: the caller passes a place for a handle.
    unsafe { give(handle, TOKEN) }
}

unsafe extern "C" fn desc_create(desc: *mut *mut Desc, compute: c_int, scale: c_int) -> c_int {
    // SAFETY: the caller passes a place for a descriptor.
    unsafe { give(desc, Desc { compute, scale, attributes: Attributes::default() }) }
}

unsafe extern "C" fn desc_set(desc: *mut Desc, attribute: c_int, value: *const c_void, bytes: usize) -> c_int {
    // SAFETY: a descriptor and a value of the caller's.
    unsafe { set(&mut (*desc).attributes, attribute, value, bytes) }
}

unsafe extern "C" fn layout_create(
    layout: *mut *mut Layout,
    dtype: c_int,
    rows: u64,
    columns: u64,
    leading: i64,
) -> c_int {
    let [rows, columns, leading] = [rows as usize, columns as usize, leading as usize];
    // SAFETY: the caller passes a place for a layout.
    unsafe { give(layout, Layout { dtype, rows, columns, leading, attributes: Attributes::default() }) }
}

unsafe extern "C" fn layout_set(layout: *mut Layout, attribute: c_int, value: *const c_void, bytes: usize) -> c_int {
    // SAFETY: a layout and a value of the caller's.
    unsafe { set(&mut (*layout).attributes, attribute, value, bytes) }
}

unsafe extern "C" fn preference_create(preference: *mut *mut Attributes) -> c_int {
    // SAFETY: the caller passes a place for a preference.
    unsafe { give(preference, Attributes::default()) }
}

unsafe extern "C" fn preference_set(
    preference: *mut Attributes,
    attribute: c_int,
    value: *const c_void,
    bytes: usize,
) -> c_int {
    // SAFETY: a preference and a value of the caller's.
    unsafe { set(&mut *preference, attribute, value, bytes) }
}

/// What the documentation requires of a product; [rows, columns, k] of d.
fn dimensions(desc: &Desc, a: &Layout, b: &Layout, d: &Layout) -> Result<[usize; 3], c_int> {
    let turned = |layout: &Layout, transposed: i64| match transposed {
        0 => Ok((layout.rows, layout.columns)),
        1 => Ok((layout.columns, layout.rows)),
        _ => Err(INVALID_VALUE),
    };
    let ((m, k), (k_of_b, n)) = (turned(a, desc.number(3))?, turned(b, desc.number(4))?);
    let (batch, _) = d.batch();
    let fits = [a, b, d].iter().all(|layout| layout.leading >= layout.rows && layout.batch().0 == batch)
        && (m, n, k) == (d.rows, d.columns, k_of_b)
        && a.dtype == b.dtype
        && [a.dtype, 0].contains(&d.dtype)
        && (desc.compute, desc.scale) == (68, 0);
    let (epilogue, has) = (desc.number(7), |attribute| desc.number(attribute) != 0);
    let saves = [160, 164, 192].contains(&epilogue);
    let saved_fits = desc.number(11) % 16 == 0
        && desc.number(12) % 8 == 0
        && desc.number(12) >= d.rows as i64
        && (batch == 1 || desc.number(13) % 8 == 0);
    let known = [1, 4, 32, 36, 160, 164, 192].contains(&epilogue)
        && [4, 36, 164].contains(&epilogue) == has(8)
        && saves == has(11)
        && (!saves || saved_fits);
    if fits && known { Ok([m, n, k]) } else { Err(INVALID_VALUE) }
}

unsafe extern "C" fn heuristic(
    handle: *const u64,
    desc: *const Desc,
    a: *const Layout,
    b: *const Layout,
    c: *const Layout,
    d: *const Layout,
    preference: *const Attributes,
    wanted: c_int,
    results: *mut HeuristicResult,
    found: *mut c_int,
) -> c_int {
    // SAFETY: objects of the caller's, and places for what is found.
    unsafe {
        found.write(0);
        let preference = &*preference;
        let workspace = preference.number(1).unwrap_or(0) as usize;
        // No atomic reductions, and none that round.
        if *handle != TOKEN || c != d || wanted < 1 || preference.number(3) != Some(2) {
            return INVALID_VALUE;
        }
        if let Err(code) = dimensions(&*desc, &*a, &*b, &*d) {
            return code;
        }
        let aligned = |attribute| preference.number(attribute).unwrap_or(256) >= LEAST_ALIGNMENT.into();
        let gelu_of_f32 = (*desc).number(7) >= 32 && (*d).dtype == 0;
        if gelu_of_f32 || workspace < WORKSPACE_BYTES || ![5, 6, 7, 8].into_iter().all(aligned) {
            return NOT_SUPPORTED;
        }
        let mut algorithm = [0; 8];
        algorithm[0] = TOKEN;
        results.write(HeuristicResult {
            algorithm,
            workspace_bytes: WORKSPACE_BYTES,
            state: 0,
            waves: 1.0,
            reserved: [0; 4],
        });
        found.write(1);
    }
    0
}

/// Elements of a dtype at an address.
#[derive(Clone, Copy)]
struct Elements {
    address: u64,
    dtype: c_int,
}

impl Elements {
    /// # Safety
    /// The element is there.
    unsafe fn get(self, i: usize) -> f64 {
        // SAFETY: the caller's promise.
        unsafe {
            match self.dtype {
                14 => (*(self.address as *const bf16).add(i)).into(),
                2 => (*(self.address as *const f16).add(i)).into(),
                _ => (*(self.address as *const f32).add(i)).into(),
            }
        }
    }

    /// # Safety
    /// The element is there, and the caller's to write.
    unsafe fn put(self, i: usize, x: f64) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.dtype {
                14 => *(self.address as *mut bf16).add(i) = bf16::from_f32(x as f32),
                2 => *(self.address as *mut f16).add(i) = f16::from_f64(x),
                _ => *(self.address as *mut f32).add(i) = x as f32,
            }
        }
    }
}

unsafe extern "C" fn matmul(
    handle: *const u64,
    desc: *const Desc,
    alpha: *const f32,
    a: u64,
    a_layout: *const Layout,
    b: u64,
    b_layout: *const Layout,
    beta: *const f32,
    c: u64,
    c_layout: *const Layout,
    d: u64,
    d_layout: *const Layout,
    algorithm: *const [u64; 8],
    workspace: u64,
    workspace_bytes: usize,
    _stream: *mut c_void,
) -> c_int {
    // SAFETY: objects and memory of the caller's.
    unsafe {
        let (desc, a_layout, b_layout, d_layout) = (&*desc, &*a_layout, &*b_layout, &*d_layout);
        let (alpha, beta) = (f64::from(*alpha), f64::from(*beta));
        let [m, n, k] = match dimensions(desc, a_layout, b_layout, d_layout) {
            Ok(dimensions) => dimensions,
            Err(code) => return code,
        };
        let aligned = [a, b, d].iter().all(|address| address.is_multiple_of(u64::from(LEAST_ALIGNMENT)));
        let workspace_fits = workspace.is_multiple_of(256) && workspace_bytes == WORKSPACE_BYTES;
        if *handle != TOKEN || (*algorithm)[0] != TOKEN || c != d || c_layout != d_layout || !aligned || !workspace_fits
        {
            return INVALID_VALUE;
        }
        // It is the library's to use.
        std::ptr::write_bytes(workspace as *mut u8, 0xEE, workspace_bytes);
        let epilogue = desc.number(7);
        let bias = (desc.number(8) != 0).then_some(Elements { address: desc.number(8) as u64, dtype: d_layout.dtype });
        let saved = Elements { address: desc.number(11) as u64, dtype: d_layout.dtype };
        let at = |address, layout: &Layout| Elements { address, dtype: layout.dtype };
        let (a, b, d) = (at(a, a_layout), at(b, b_layout), at(d, d_layout));
        let (batch, d_stride) = d_layout.batch();
        let place = |layout: &Layout, transposed: i64, batch: usize, i: usize, j: usize| {
            let (row, column) = if transposed == 1 { (j, i) } else { (i, j) };
            batch * layout.batch().1 + column * layout.leading + row
        };
        for index in 0..batch {
            for j in 0..n {
                for i in 0..m {
                    let sum: f64 = (0..k)
                        .map(|l| {
                            a.get(place(a_layout, desc.number(3), index, i, l))
                                * b.get(place(b_layout, desc.number(4), index, l, j))
                        })
                        .sum();
                    let to = index * d_stride + j * d_layout.leading + i;
                    let saved_at = index * desc.number(13) as usize + j * desc.number(12) as usize + i;
                    let mut x = alpha * sum;
                    if beta != 0.0 {
                        x += beta * d.get(to);
                    }
                    if let Some(bias) = bias {
                        x += bias.get(i);
                    }
                    if [160, 164].contains(&epilogue) {
                        saved.put(saved_at, x);
                    }
                    if [32, 36, 160, 164].contains(&epilogue) {
                        x = gelu(GeluKind::Tanh, x);
                    }
                    if epilogue == 192 {
                        x *= gelu_gradient(GeluKind::Tanh, saved.get(saved_at));
                    }
                    d.put(to, x);
                }
            }
        }
    }
    PRODUCTS.fetch_add(1, Ordering::Relaxed);
    0
}

/// The function of a name, or null.
pub fn symbol(name: &CStr) -> *const c_void {
    let functions = [
        ("cublasLtCreate", create as *const c_void),
        ("cublasLtDestroy", drop_of::<u64> as *const c_void),
        ("cublasLtMatmulDescCreate", desc_create as *const c_void),
        ("cublasLtMatmulDescDestroy", drop_of::<Desc> as *const c_void),
        ("cublasLtMatmulDescSetAttribute", desc_set as *const c_void),
        ("cublasLtMatrixLayoutCreate", layout_create as *const c_void),
        ("cublasLtMatrixLayoutDestroy", drop_of::<Layout> as *const c_void),
        ("cublasLtMatrixLayoutSetAttribute", layout_set as *const c_void),
        ("cublasLtMatmulPreferenceCreate", preference_create as *const c_void),
        ("cublasLtMatmulPreferenceDestroy", drop_of::<Attributes> as *const c_void),
        ("cublasLtMatmulPreferenceSetAttribute", preference_set as *const c_void),
        ("cublasLtMatmulAlgoGetHeuristic", heuristic as *const c_void),
        ("cublasLtMatmul", matmul as *const c_void),
    ];
    let found = functions.iter().find(|(function, _)| name.to_bytes() == function.as_bytes());
    found.map_or(std::ptr::null(), |(_, address)| *address)
}
