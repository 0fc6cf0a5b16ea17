//! A stand-in for cuDNN that attends on the host, one row after the other, and refuses what the real one does not
//! document: with it, the way to its attention operation is tested on a machine without either.
//!
//! It ranks four configurations, of which the first three are not to be taken: results that differ from run to run,
//! more workspace than there is, and one without a plan.

use scalert_kernels::dtype::{bf16, f16};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

const BAD_PARAM: c_int = 2000;
const NOT_SUPPORTED: c_int = 3000;
/// Heads that are wider are refused.
pub const MOST_WIDTH: usize = 128;
const CONFIGS: usize = 4;
const GOOD_CONFIG: usize = 3;
const WORKSPACE_BYTES: usize = 256;
const HANDLE: usize = 0x5ca1_e128;

/// Operations executed so far.
pub static EXECUTED: AtomicUsize = AtomicUsize::new(0);
/// The stream that was set last.
static STREAM: AtomicUsize = AtomicUsize::new(0);

const ENGINE: c_int = 2;
const CONFIG: c_int = 3;
const HEURISTIC: c_int = 4;
const PLAN: c_int = 5;
const GRAPH: c_int = 15;
const PACK: c_int = 16;
const TENSOR: c_int = 17;
const SDPA: c_int = 41;
const MASK: c_int = 44;
const SOFTMAX: c_int = 45;

/// Types of attributes.
const OF_HANDLE: c_int = 0;
const OF_DTYPE: c_int = 1;
const OF_BOOLEAN: c_int = 2;
const OF_INT64: c_int = 3;
const OF_POINTER: c_int = 6;
const OF_HEURISTIC_MODE: c_int = 8;
const OF_NOTE: c_int = 11;
const OF_POINTWISE_MODE: c_int = 14;
const OF_DESCRIPTOR: c_int = 15;

/// What may be set: kind of descriptor, attribute, its type, elements (0 for any number), and whether it must be.
const ATTRIBUTES: [(c_int, c_int, c_int, i64, bool); 38] = [
    (HEURISTIC, 200, OF_HEURISTIC_MODE, 1, true),
    (HEURISTIC, 201, OF_DESCRIPTOR, 1, true),
    (PLAN, 400, OF_HANDLE, 1, true),
    (PLAN, 401, OF_DESCRIPTOR, 1, true),
    (GRAPH, 800, OF_HANDLE, 1, false),
    (GRAPH, 801, OF_DESCRIPTOR, 1, true),
    (TENSOR, 900, OF_INT64, 1, true),
    (TENSOR, 901, OF_DTYPE, 1, true),
    (TENSOR, 902, OF_INT64, 4, true),
    (TENSOR, 903, OF_INT64, 4, true),
    (TENSOR, 906, OF_INT64, 1, true),
    (TENSOR, 907, OF_BOOLEAN, 1, false),
    (TENSOR, 908, OF_BOOLEAN, 1, false),
    (PACK, 1000, OF_INT64, 0, true),
    (PACK, 1001, OF_POINTER, 0, true),
    (PACK, 1003, OF_POINTER, 1, true),
    (SDPA, 2800, OF_DESCRIPTOR, 1, true),
    (SDPA, 2801, OF_DESCRIPTOR, 1, true),
    (SDPA, 2802, OF_DESCRIPTOR, 1, true),
    (SDPA, 2803, OF_DESCRIPTOR, 1, true),
    (SDPA, 2805, OF_DESCRIPTOR, 1, false),
    (SDPA, 2811, OF_DESCRIPTOR, 1, false),
    (SDPA, 2812, OF_INT64, 1, false),
    (SDPA, 2813, OF_INT64, 1, false),
    (SDPA, 2814, OF_DESCRIPTOR, 1, false),
    (MASK, 3000, OF_DESCRIPTOR, 1, true),
    (MASK, 3001, OF_DESCRIPTOR, 1, false),
    (MASK, 3002, OF_DESCRIPTOR, 1, false),
    (MASK, 3005, OF_DESCRIPTOR, 1, true),
    (MASK, 3006, OF_DESCRIPTOR, 1, true),
    (MASK, 3007, OF_POINTWISE_MODE, 1, true),
    (SOFTMAX, 3100, OF_DESCRIPTOR, 1, true),
    (SOFTMAX, 3101, OF_DESCRIPTOR, 1, true),
    (SOFTMAX, 3102, OF_DESCRIPTOR, 1, true),
    // What is got, not set.
    (HEURISTIC, 202, OF_DESCRIPTOR, -1, false),
    (CONFIG, 300, OF_DESCRIPTOR, -1, false),
    (PLAN, 402, OF_INT64, -1, false),
    (ENGINE, 1303, OF_NOTE, -1, false),
];

/// The element type of an attribute, in bytes.
fn bytes_of(kind: c_int) -> usize {
    match kind {
        OF_BOOLEAN => 1,
        OF_DTYPE | OF_HEURISTIC_MODE | OF_NOTE | OF_POINTWISE_MODE => 4,
        _ => 8,
    }
}

/// A descriptor: words of each attribute, sign-extended; and its place among the configurations.
struct Object {
    kind: c_int,
    attributes: HashMap<c_int, Vec<i64>>,
    config: usize,
    finalized: bool,
}

impl Object {
    fn has(&self, attribute: c_int) -> bool {
        self.attributes.contains_key(&attribute)
    }
    fn words(&self, attribute: c_int) -> &[i64] {
        &self.attributes[&attribute]
    }
    fn word(&self, attribute: c_int) -> i64 {
        self.words(attribute)[0]
    }
    /// The descriptor that an attribute holds, which lives as long as what was made of it.
    fn object(&self, attribute: c_int) -> &Object {
        // SAFETY: set to a live descriptor; the real library requires that it stays one too.
        unsafe { &*(self.word(attribute) as *const Object) }
    }
    fn of(&self, attribute: c_int, kind: c_int) -> bool {
        self.object(attribute).finalized && self.object(attribute).kind == kind
    }
}

unsafe extern "C" fn version() -> usize {
    92_801
}
unsafe extern "C" fn cudart_version() -> usize {
    13_000
}
unsafe extern "C" fn error_string(code: c_int) -> *const c_char {
    if code == NOT_SUPPORTED { c"CUDNN_STATUS_NOT_SUPPORTED".as_ptr() } else { c"CUDNN_STATUS_BAD_PARAM".as_ptr() }
}
unsafe extern "C" fn last_error_string(message: *mut c_char, room: usize) {
    assert!(room > 1);
    // SAFETY: there is room.
    unsafe { message.write(0) };
}
unsafe extern "C" fn create(handle: *mut usize) -> c_int {
    // SAFETY: the caller passes a place for a handle.
    unsafe { handle.write(HANDLE) };
    0
}
unsafe extern "C" fn destroy(handle: usize) -> c_int {
    if handle == HANDLE { 0 } else { BAD_PARAM }
}
unsafe extern "C" fn set_stream(handle: usize, stream: usize) -> c_int {
    STREAM.store(stream, Ordering::Relaxed);
    if handle == HANDLE { 0 } else { BAD_PARAM }
}

unsafe extern "C" fn descriptor_create(kind: c_int, place: *mut *mut Object) -> c_int {
    if !ATTRIBUTES.iter().any(|known| known.0 == kind) {
        return BAD_PARAM;
    }
    let object = Object { kind, attributes: HashMap::new(), config: 0, finalized: false };
    // SAFETY: the caller passes a place for a descriptor.
    unsafe { place.write(Box::into_raw(Box::new(object))) };
    0
}

unsafe extern "C" fn descriptor_destroy(object: *mut Object) -> c_int {
    // SAFETY: it came from `descriptor_create`, and is used no more.
    drop(unsafe { Box::from_raw(object) });
    0
}

unsafe extern "C" fn descriptor_set(
    object: *mut Object,
    attribute: c_int,
    kind: c_int,
    count: i64,
    elements: *const u8,
) -> c_int {
    // SAFETY: a descriptor of the caller's.
    let object = unsafe { &mut *object };
    let known = ATTRIBUTES.iter().find(|known| (known.0, known.1, known.2) == (object.kind, attribute, kind));
    let Some((_, _, _, expected, _)) = known else { return BAD_PARAM };
    if object.finalized || count < 1 || ![0, count].contains(expected) {
        return BAD_PARAM;
    }
    let size = bytes_of(kind);
    let word = |i: usize| {
        // SAFETY: the caller passes this many elements of the attribute's type.
        let bytes = unsafe { std::slice::from_raw_parts(elements.add(i * size), size) };
        match size {
            1 => bytes[0].into(),
            4 => i32::from_ne_bytes(bytes.try_into().unwrap()).into(),
            _ => i64::from_ne_bytes(bytes.try_into().unwrap()),
        }
    };
    object.attributes.insert(attribute, (0..count as usize).map(word).collect());
    0
}

/// Whether the tensors, and what is set of the parts, are those of an attention.
fn is_attention(sdpa: &Object) -> bool {
    let tensors = [2800, 2801, 2802, 2803];
    if !tensors.iter().all(|attribute| sdpa.of(*attribute, TENSOR)) {
        return false;
    }
    let [q, k, v, out] = tensors.map(|attribute| sdpa.object(attribute));
    let (shape, keys) = (q.words(902), k.words(902));
    let scores = [shape[0], shape[1], shape[2], keys[2]];
    let are_scores = |tensor: &Object| tensor.words(902) == scores && tensor.word(901) == 0 && tensor.has(907);
    let by_value = |tensor: &Object, dtype: i64| {
        tensor.words(902) == [1; 4] && tensor.word(901) == dtype && tensor.has(908) && !tensor.has(907)
    };
    let on_device = |tensor: &Object| !tensor.has(907) && !tensor.has(908) && tensor.word(900) == 16;
    let aligned = |tensor: &&Object| {
        on_device(tensor) && tensor.words(903)[..3].iter().all(|stride| stride % 8 == 0) && tensor.words(903)[3] == 1
    };
    let fits = [2, 9].contains(&q.word(901))
        && [k, v, out].iter().all(|tensor| tensor.word(901) == q.word(901))
        && [q, k, v, out].iter().all(aligned)
        && out.words(902) == shape
        && v.words(902) == keys
        && [keys[0], keys[3]] == [shape[0], shape[3]]
        && shape[1] % keys[1] == 0
        && sdpa.has(2805)
        && by_value(sdpa.object(2805), 0);
    let softmax_fits = !sdpa.has(2814) || {
        let statistics = sdpa.object(2814).object(3102);
        sdpa.of(2814, SOFTMAX)
            && are_scores(sdpa.object(2814).object(3100))
            && are_scores(sdpa.object(2814).object(3101))
            && on_device(statistics)
            && statistics.words(902) == [shape[0], shape[1], shape[2], 1]
            && statistics.word(901) == 0
    };
    let mask_fits = !sdpa.has(2811) || {
        let mask = sdpa.object(2811).object(801);
        sdpa.of(2811, GRAPH)
            && mask.kind == MASK
            && are_scores(mask.object(3000))
            && are_scores(mask.object(3006))
            && by_value(mask.object(3005), 0)
            && mask.has(3001) == mask.has(3002)
            && (!mask.has(3001) || by_value(mask.object(3001), 4) && by_value(mask.object(3002), 4))
            && mask.word(3007) == 303
            && sdpa.words(2812) == mask.object(3000).words(906)
            && sdpa.words(2813) == mask.object(3006).words(906)
    };
    fits && softmax_fits && mask_fits && sdpa.has(2811) == sdpa.has(2812)
}

unsafe extern "C" fn descriptor_finalize(object: *mut Object) -> c_int {
    // SAFETY: a descriptor of the caller's.
    let object = unsafe { &mut *object };
    let complete = ATTRIBUTES
        .iter()
        .filter(|known| known.0 == object.kind)
        .all(|(_, attribute, _, _, required)| !required || object.has(*attribute));
    let fits = complete
        && !object.finalized
        && match object.kind {
            TENSOR => [0, 2, 4, 9].contains(&object.word(901)),
            GRAPH => {
                let whole = object.of(801, SDPA) && object.has(800) && object.word(800) == HANDLE as i64;
                whole || object.of(801, MASK) && !object.has(800)
            }
            SDPA => is_attention(object),
            HEURISTIC => object.of(201, GRAPH) && object.word(200) == 3,
            PLAN => object.object(401).kind == CONFIG && object.word(400) == HANDLE as i64,
            PACK => object.words(1000).len() == object.words(1001).len(),
            _ => true,
        };
    if !fits {
        return BAD_PARAM;
    }
    if object.kind == PLAN {
        object.config = object.object(401).config;
        if object.config == 2 {
            return NOT_SUPPORTED;
        }
    }
    object.finalized = true;
    0
}

unsafe extern "C" fn descriptor_get(
    object: *mut Object,
    attribute: c_int,
    kind: c_int,
    room: i64,
    count: *mut i64,
    elements: *mut c_void,
) -> c_int {
    // SAFETY: a descriptor of the caller's, and room for as many elements as the caller says.
    unsafe {
        let object = &*object;
        if !ATTRIBUTES.contains(&(object.kind, attribute, kind, -1, false)) {
            return BAD_PARAM;
        }
        let found = match attribute {
            202 if object.object(201).object(801).object(2800).words(902)[3] > MOST_WIDTH as i64 => 0,
            202 => CONFIGS,
            1303 => 1 + usize::from(object.config == 0),
            _ => 1,
        };
        count.write(found as i64);
        let given = found.min(room as usize);
        for i in 0..given {
            match attribute {
                202 | 300 => {
                    let into = &mut **elements.cast::<*mut Object>().add(i);
                    into.config = if attribute == 202 { i } else { object.config };
                    into.finalized = true;
                    if attribute == 202 {
                        into.attributes.insert(201, object.words(201).to_vec());
                    }
                }
                402 => {
                    let bytes = if object.config == 1 { 1 << 20 } else { WORKSPACE_BYTES };
                    elements.cast::<i64>().write(bytes as i64);
                }
                // Tensor cores; and that results differ from run to run.
                _ => elements.cast::<c_int>().add(i).write([0, 4][i]),
            }
        }
    }
    0
}

/// A tensor and where it is.
#[derive(Clone, Copy)]
struct Placed<'a> {
    tensor: &'a Object,
    address: u64,
}

impl Placed<'_> {
    fn at(&self, index: [usize; 4]) -> usize {
        index.iter().zip(self.tensor.words(903)).map(|(i, stride)| i * *stride as usize).sum()
    }

    /// # Safety
    /// The element is there.
    unsafe fn get(&self, index: [usize; 4]) -> f64 {
        let i = self.at(index);
        // SAFETY: the caller's promise.
        unsafe {
            match self.tensor.word(901) {
                9 => (*(self.address as *const bf16).add(i)).into(),
                2 => (*(self.address as *const f16).add(i)).into(),
                4 => (*(self.address as *const i32).add(i)).into(),
                _ => (*(self.address as *const f32).add(i)).into(),
            }
        }
    }

    /// # Safety
    /// The element is there, and the caller's to write.
    unsafe fn put(&self, index: [usize; 4], x: f64) {
        let i = self.at(index);
        // SAFETY: the caller's promise.
        unsafe {
            match self.tensor.word(901) {
                9 => *(self.address as *mut bf16).add(i) = bf16::from_f32(x as f32),
                2 => *(self.address as *mut f16).add(i) = f16::from_f64(x),
                _ => *(self.address as *mut f32).add(i) = x as f32,
            }
        }
    }
}

unsafe extern "C" fn execute(handle: usize, plan: *const Object, pack: *const Object) -> c_int {
    // SAFETY: descriptors of the caller's, and memory where the tensors are said to be.
    unsafe {
        let (plan, pack) = (&*plan, &*pack);
        let workspace = pack.word(1003) as u64;
        let ready = plan.finalized && pack.finalized && plan.config == GOOD_CONFIG && handle == HANDLE;
        if !ready || !workspace.is_multiple_of(256) || STREAM.load(Ordering::Relaxed) == 0 {
            return BAD_PARAM;
        }
        // It is the library's to use.
        std::ptr::write_bytes(workspace as *mut u8, 0xEE, WORKSPACE_BYTES);
        let sdpa = plan.object(401).object(201).object(801);
        let mut used = 0;
        let mut place = |tensor| {
            let uid = Object::word(tensor, 906);
            let at = pack.words(1000).iter().position(|given| *given == uid).expect("every tensor has an address");
            used += 1;
            Placed { tensor, address: pack.words(1001)[at] as u64 }
        };
        let [q, k, v, out] = [2800, 2801, 2802, 2803].map(|attribute| place(sdpa.object(attribute)));
        let scale = place(sdpa.object(2805)).get([0; 4]);
        let statistics = sdpa.has(2814).then(|| place(sdpa.object(2814).object(3102)));
        let mask = sdpa.has(2811).then(|| {
            let mask = sdpa.object(2811).object(801);
            let lengths = mask.has(3001).then(|| [3001, 3002].map(|length| place(mask.object(length)).get([0; 4])));
            (place(mask.object(3005)).get([0; 4]), lengths.map_or(0.0, |[keys, queries]| keys - queries))
        });
        if used != pack.words(1000).len() || [q, k, v, out].iter().any(|placed| !placed.address.is_multiple_of(16)) {
            return BAD_PARAM;
        }
        let &[batch, heads, queries, width] = q.tensor.words(902) else { return BAD_PARAM };
        let (key_heads, keys) = (k.tensor.words(902)[1], k.tensor.words(902)[2]);
        let [batch, heads, queries, width, keys] = [batch, heads, queries, width, keys].map(|size| size as usize);
        for (b, h, i) in (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..queries).map(move |i| (b, h, i)))) {
            let key_head = h / (heads / key_heads as usize);
            let score = |j: usize| {
                let dot: f64 = (0..width).map(|c| q.get([b, h, i, c]) * k.get([b, key_head, j, c])).sum();
                match mask {
                    Some((otherwise, shift)) if i as f64 + shift < j as f64 => otherwise,
                    _ => scale * dot,
                }
            };
            let scores: Vec<f64> = (0..keys).map(score).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_sum = largest + scores.iter().map(|score| (score - largest).exp()).sum::<f64>().ln();
            for c in 0..width {
                let terms = scores.iter().enumerate();
                out.put([b, h, i, c], terms.map(|(j, s)| (s - log_sum).exp() * v.get([b, key_head, j, c])).sum());
            }
            if let Some(statistics) = statistics {
                statistics.put([b, h, i, 0], log_sum);
            }
        }
    }
    EXECUTED.fetch_add(1, Ordering::Relaxed);
    0
}

/// The function of a name, or null.
pub fn symbol(name: &CStr) -> *const c_void {
    let functions = [
        ("cudnnGetVersion", version as *const c_void),
        ("cudnnGetCudartVersion", cudart_version as *const c_void),
        ("cudnnGetErrorString", error_string as *const c_void),
        ("cudnnGetLastErrorString", last_error_string as *const c_void),
        ("cudnnCreate", create as *const c_void),
        ("cudnnDestroy", destroy as *const c_void),
        ("cudnnSetStream", set_stream as *const c_void),
        ("cudnnBackendCreateDescriptor", descriptor_create as *const c_void),
        ("cudnnBackendDestroyDescriptor", descriptor_destroy as *const c_void),
        ("cudnnBackendFinalize", descriptor_finalize as *const c_void),
        ("cudnnBackendSetAttribute", descriptor_set as *const c_void),
        ("cudnnBackendGetAttribute", descriptor_get as *const c_void),
        ("cudnnBackendExecute", execute as *const c_void),
    ];
    let found = functions.iter().find(|(function, _)| name.to_bytes() == function.as_bytes());
    found.map_or(std::ptr::null(), |(_, address)| *address)
}
