//! The forward pass of attention as one operation of the library, and the plan that runs it.
//!
//! Scores are f32 and never stored. The softmax is described apart, since it carries the statistics: a row's natural
//! logarithm of the sum of exponentials, of scores that are scaled. A causal mask is a graph of its own that leads from
//! the scores to those that the softmax sees.

use super::descriptor::{Descriptor, Enumeration, Kind};
use super::functions::{Functions, NOT_SUPPORTED};
use crate::backend::cuda::driver::{CudaError, DevicePointer, Handle, Library};
use crate::dtype::DType;
use std::ffi::c_int;

/// Most workspace of a plan. What schedules blocks fits; partial results of rows whose keys are divided among blocks do
/// not, and so the sums of a row are never divided.
pub const WORKSPACE_BYTES: usize = 4096;
/// What addresses and strides are aligned to, in bytes.
pub const ALIGNMENT: usize = 16;

/// Elements from one to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Strides {
    /// Matrices of the batch.
    pub batch: i64,
    /// Heads.
    pub head: i64,
    /// Rows of a head.
    pub token: i64,
}

/// A forward pass, apart from addresses and the scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sdpa {
    /// Dtype of q, k, v and the result: bf16 or f16.
    pub dtype: DType,
    /// Matrices in the batch.
    pub batch: i64,
    /// Heads of q.
    pub query_heads: i64,
    /// Heads of k and v, which divide those of q.
    pub key_heads: i64,
    /// Rows of a head of q.
    pub queries: i32,
    /// Rows of a head of k and v.
    pub keys: i32,
    /// Elements of a row.
    pub width: i64,
    /// Layout of q.
    pub q: Strides,
    /// Layout of k.
    pub k: Strides,
    /// Layout of v.
    pub v: Strides,
    /// Layout of the result.
    pub out: Strides,
    /// Layout of the statistics, if they are wanted; their rows are single elements.
    pub statistics: Option<Strides>,
    /// Whether the last query sees all keys, and each one before it one less.
    pub causal: bool,
}

/// Addresses, and the scale.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// Queries.
    pub q: DevicePointer,
    /// Keys.
    pub k: DevicePointer,
    /// Values.
    pub v: DevicePointer,
    /// Result.
    pub out: DevicePointer,
    /// Statistics, if the operation has them.
    pub statistics: DevicePointer,
    /// Factor of the scores.
    pub scale: f32,
    /// [`WORKSPACE_BYTES`], aligned to 256.
    pub workspace: DevicePointer,
}

/// Tensors of the graph, by their unique numbers.
mod uid {
    pub(super) const Q: i64 = 1;
    pub(super) const K: i64 = 2;
    pub(super) const V: i64 = 3;
    pub(super) const OUT: i64 = 4;
    pub(super) const STATISTICS: i64 = 5;
    pub(super) const SCALE: i64 = 6;
    pub(super) const SCORES: i64 = 7;
    pub(super) const MASKED: i64 = 8;
    pub(super) const MINUS_INFINITY: i64 = 9;
    pub(super) const QUERIES: i64 = 10;
    pub(super) const KEYS: i64 = 11;
    pub(super) const SOFTMAX_IN: i64 = 12;
    pub(super) const SOFTMAX_OUT: i64 = 13;
}

/// Numbers of cudnnBackendAttributeName_t.
mod attribute {
    pub(super) const HEURISTIC_MODE: i32 = 200;
    pub(super) const HEURISTIC_GRAPH: i32 = 201;
    pub(super) const HEURISTIC_RESULTS: i32 = 202;
    pub(super) const CONFIG_ENGINE: i32 = 300;
    pub(super) const PLAN_HANDLE: i32 = 400;
    pub(super) const PLAN_CONFIG: i32 = 401;
    pub(super) const PLAN_WORKSPACE: i32 = 402;
    pub(super) const GRAPH_HANDLE: i32 = 800;
    pub(super) const GRAPH_OPERATIONS: i32 = 801;
    pub(super) const TENSOR_ALIGNMENT: i32 = 900;
    pub(super) const TENSOR_DTYPE: i32 = 901;
    pub(super) const TENSOR_SHAPE: i32 = 902;
    pub(super) const TENSOR_STRIDES: i32 = 903;
    pub(super) const TENSOR_UID: i32 = 906;
    pub(super) const TENSOR_VIRTUAL: i32 = 907;
    pub(super) const TENSOR_BY_VALUE: i32 = 908;
    pub(super) const PACK_UIDS: i32 = 1000;
    pub(super) const PACK_ADDRESSES: i32 = 1001;
    pub(super) const PACK_WORKSPACE: i32 = 1003;
    pub(super) const ENGINE_NOTES: i32 = 1303;
    pub(super) const SDPA_Q: i32 = 2800;
    pub(super) const SDPA_K: i32 = 2801;
    pub(super) const SDPA_V: i32 = 2802;
    pub(super) const SDPA_OUT: i32 = 2803;
    pub(super) const SDPA_SCALE: i32 = 2805;
    pub(super) const SDPA_GRAPH: i32 = 2811;
    pub(super) const SDPA_GRAPH_IN: i32 = 2812;
    pub(super) const SDPA_GRAPH_OUT: i32 = 2813;
    pub(super) const SDPA_SOFTMAX: i32 = 2814;
    pub(super) const MASK_IN: i32 = 3000;
    pub(super) const MASK_KEYS: i32 = 3001;
    pub(super) const MASK_QUERIES: i32 = 3002;
    pub(super) const MASK_ELSE: i32 = 3005;
    pub(super) const MASK_OUT: i32 = 3006;
    pub(super) const MASK_COMPARISON: i32 = 3007;
    pub(super) const SOFTMAX_IN: i32 = 3100;
    pub(super) const SOFTMAX_OUT: i32 = 3101;
    pub(super) const SOFTMAX_STATISTICS: i32 = 3102;
}

/// Where a tensor is.
enum Place {
    /// On the device, aligned to [`ALIGNMENT`].
    Device,
    /// Nowhere: between two parts of the operation.
    Virtual,
    /// With the caller, who gives its address.
    Host,
}

/// Descriptors, each made of those before it.
struct Builder {
    functions: &'static Functions,
    made: Vec<Descriptor>,
}

impl Drop for Builder {
    fn drop(&mut self) {
        // What was made of others goes before them.
        while self.made.pop().is_some() {}
    }
}

/// Index of a descriptor that was made.
#[derive(Clone, Copy)]
struct Made(usize);

impl Builder {
    /// A descriptor of a kind, with the attributes that `describe` gives it, finalized.
    fn make(
        &mut self,
        kind: Kind,
        describe: impl FnOnce(&Descriptor, &dyn Fn(c_int, Made) -> Result<(), CudaError>) -> Result<(), CudaError>,
    ) -> Result<Made, CudaError> {
        let descriptor = Descriptor::new(self.functions, kind)?;
        describe(&descriptor, &|attribute, Made(other)| descriptor.set_descriptor(attribute, &self.made[other]))?;
        descriptor.finalize()?;
        self.made.push(descriptor);
        Ok(Made(self.made.len() - 1))
    }

    fn tensor(
        &mut self,
        uid: i64,
        dtype: Enumeration,
        shape: [i64; 4],
        strides: [i64; 4],
        place: Place,
    ) -> Result<Made, CudaError> {
        self.make(Kind::Tensor, |tensor, _| {
            tensor.set_int64s(attribute::TENSOR_UID, &[uid])?;
            tensor.set_enumeration(attribute::TENSOR_DTYPE, dtype)?;
            tensor.set_int64s(attribute::TENSOR_SHAPE, &shape)?;
            tensor.set_int64s(attribute::TENSOR_STRIDES, &strides)?;
            tensor.set_int64s(attribute::TENSOR_ALIGNMENT, &[ALIGNMENT as i64])?;
            match place {
                Place::Device => Ok(()),
                Place::Virtual => tensor.set_true(attribute::TENSOR_VIRTUAL),
                Place::Host => tensor.set_true(attribute::TENSOR_BY_VALUE),
            }
        })
    }

    fn scalar(&mut self, uid: i64, dtype: Enumeration) -> Result<Made, CudaError> {
        self.tensor(uid, dtype, [1; 4], [1; 4], Place::Host)
    }

    /// Rows of a head on the device.
    fn heads(&mut self, uid: i64, sdpa: &Sdpa, heads: i64, rows: i32, strides: Strides) -> Result<Made, CudaError> {
        let dtype = if sdpa.dtype == DType::BF16 { Enumeration::BFLOAT16 } else { Enumeration::HALF };
        let shape = [sdpa.batch, heads, rows.into(), sdpa.width];
        self.tensor(uid, dtype, shape, strides.of_rows(), Place::Device)
    }

    /// Scores, which are never stored.
    fn scores(&mut self, uid: i64, sdpa: &Sdpa) -> Result<Made, CudaError> {
        let &Sdpa { batch, query_heads, .. } = sdpa;
        let (queries, keys) = (i64::from(sdpa.queries), i64::from(sdpa.keys));
        let strides = [query_heads * queries * keys, queries * keys, keys, 1];
        self.tensor(uid, Enumeration::FLOAT, [batch, query_heads, queries, keys], strides, Place::Virtual)
    }

    fn graph(&mut self, operation: Made, handle: Option<Handle>) -> Result<Made, CudaError> {
        self.make(Kind::OperationGraph, |graph, set| {
            if let Some(handle) = handle {
                graph.set_handle(attribute::GRAPH_HANDLE, handle)?;
            }
            set(attribute::GRAPH_OPERATIONS, operation)
        })
    }

    /// The graph that keeps score (i, j) if i + keys - queries >= j, and replaces others.
    fn causal_mask(&mut self, sdpa: &Sdpa) -> Result<Made, CudaError> {
        let scores = self.scores(uid::SCORES, sdpa)?;
        let masked = self.scores(uid::MASKED, sdpa)?;
        let minus_infinity = self.scalar(uid::MINUS_INFINITY, Enumeration::FLOAT)?;
        let lengths = if sdpa.is_shifted() {
            Some((self.scalar(uid::QUERIES, Enumeration::INT32)?, self.scalar(uid::KEYS, Enumeration::INT32)?))
        } else {
            None
        };
        let mask = self.make(Kind::DiagonalBandMask, |mask, set| {
            set(attribute::MASK_IN, scores)?;
            set(attribute::MASK_OUT, masked)?;
            set(attribute::MASK_ELSE, minus_infinity)?;
            if let Some((queries, keys)) = lengths {
                set(attribute::MASK_QUERIES, queries)?;
                set(attribute::MASK_KEYS, keys)?;
            }
            mask.set_enumeration(attribute::MASK_COMPARISON, Enumeration::CMP_GE)
        })?;
        self.graph(mask, None)
    }

    fn softmax(&mut self, sdpa: &Sdpa, statistics: Strides) -> Result<Made, CudaError> {
        let (seen, weights) = (self.scores(uid::SOFTMAX_IN, sdpa)?, self.scores(uid::SOFTMAX_OUT, sdpa)?);
        let shape = [sdpa.batch, sdpa.query_heads, sdpa.queries.into(), 1];
        let place = Place::Device;
        let statistics = self.tensor(uid::STATISTICS, Enumeration::FLOAT, shape, statistics.of_rows(), place)?;
        self.make(Kind::Softmax, |_, set| {
            set(attribute::SOFTMAX_IN, seen)?;
            set(attribute::SOFTMAX_OUT, weights)?;
            set(attribute::SOFTMAX_STATISTICS, statistics)
        })
    }

    /// The graph of the whole operation.
    fn sdpa(&mut self, sdpa: &Sdpa, handle: Handle) -> Result<Made, CudaError> {
        let q = self.heads(uid::Q, sdpa, sdpa.query_heads, sdpa.queries, sdpa.q)?;
        let k = self.heads(uid::K, sdpa, sdpa.key_heads, sdpa.keys, sdpa.k)?;
        let v = self.heads(uid::V, sdpa, sdpa.key_heads, sdpa.keys, sdpa.v)?;
        let out = self.heads(uid::OUT, sdpa, sdpa.query_heads, sdpa.queries, sdpa.out)?;
        let scale = self.scalar(uid::SCALE, Enumeration::FLOAT)?;
        let mask = if sdpa.causal { Some(self.causal_mask(sdpa)?) } else { None };
        let softmax = sdpa.statistics.map(|strides| self.softmax(sdpa, strides)).transpose()?;
        let operation = self.make(Kind::SdpaForward, |operation, set| {
            set(attribute::SDPA_Q, q)?;
            set(attribute::SDPA_K, k)?;
            set(attribute::SDPA_V, v)?;
            set(attribute::SDPA_OUT, out)?;
            set(attribute::SDPA_SCALE, scale)?;
            if let Some(softmax) = softmax {
                set(attribute::SDPA_SOFTMAX, softmax)?;
            }
            if let Some(mask) = mask {
                set(attribute::SDPA_GRAPH, mask)?;
                operation.set_int64s(attribute::SDPA_GRAPH_IN, &[uid::SCORES])?;
                operation.set_int64s(attribute::SDPA_GRAPH_OUT, &[uid::MASKED])?;
            }
            Ok(())
        })?;
        self.graph(operation, Some(handle))
    }
}

impl Strides {
    /// In the order of shapes; rows are contiguous.
    fn of_rows(self) -> [i64; 4] {
        [self.batch, self.head, self.token, 1]
    }
}

impl Sdpa {
    /// Whether the mask must know how many more keys than queries there are.
    fn is_shifted(&self) -> bool {
        self.queries != self.keys
    }
}

/// An operation made ready.
pub(super) struct Plan {
    plan: Descriptor,
    /// What the plan was made of, which goes after it.
    _builder: Builder,
}

impl Plan {
    /// The first plan, as the library ranks them, that keeps to this library's promises; an error of NOT_SUPPORTED if
    /// there is none.
    pub(super) fn new(functions: &'static Functions, handle: Handle, sdpa: &Sdpa) -> Result<Plan, CudaError> {
        let mut builder = Builder { functions, made: Vec::new() };
        let graph = builder.sdpa(sdpa, handle)?;
        let heuristic = builder.make(Kind::EngineHeuristic, |heuristic, set| {
            set(attribute::HEURISTIC_GRAPH, graph)?;
            heuristic.set_enumeration(attribute::HEURISTIC_MODE, Enumeration::HEURISTIC_A)
        })?;
        let configs = builder.made[heuristic.0].get_descriptors(attribute::HEURISTIC_RESULTS, Kind::EngineConfig)?;
        let mut refusal = None;
        for config in configs {
            match Plan::with(functions, handle, &config) {
                Ok(Some(plan)) => {
                    builder.made.push(config);
                    return Ok(Plan { plan, _builder: builder });
                }
                Ok(None) => {}
                Err(error) => refusal = Some(error),
            }
        }
        Err(refusal.unwrap_or_else(|| CudaError {
            library: Library::Cudnn,
            code: NOT_SUPPORTED,
            call: "cudnnBackendFinalize",
            message: "cuDNN has no engine for this attention".to_owned(),
        }))
    }

    /// The plan of a configuration, or none if this library does not want it.
    fn with(
        functions: &'static Functions,
        handle: Handle,
        config: &Descriptor,
    ) -> Result<Option<Descriptor>, CudaError> {
        const DOWN_CONVERT_INPUTS: c_int = 1;
        const REDUCED_PRECISION_REDUCTION: c_int = 2;
        const NONDETERMINISTIC: c_int = 4;
        let unwanted = [DOWN_CONVERT_INPUTS, REDUCED_PRECISION_REDUCTION, NONDETERMINISTIC];
        for engine in config.get_descriptors(attribute::CONFIG_ENGINE, Kind::Engine)? {
            let notes = engine.get_notes(attribute::ENGINE_NOTES)?;
            if notes.iter().any(|note| unwanted.contains(note)) {
                return Ok(None);
            }
        }
        let plan = Descriptor::new(functions, Kind::ExecutionPlan)?;
        plan.set_handle(attribute::PLAN_HANDLE, handle)?;
        plan.set_descriptor(attribute::PLAN_CONFIG, config)?;
        plan.finalize()?;
        let bytes = plan.get_int64(attribute::PLAN_WORKSPACE)?;
        Ok((0..=WORKSPACE_BYTES as i64).contains(&bytes).then_some(plan))
    }

    /// Enqueues the operation on the handle's stream.
    ///
    /// # Safety
    /// The operands are device memory of the operation's layouts, valid until the work is done; nothing else uses the
    /// results and the workspace until then.
    pub(super) unsafe fn enqueue(
        &self,
        functions: &'static Functions,
        handle: Handle,
        sdpa: &Sdpa,
        operands: &Operands,
    ) -> Result<(), CudaError> {
        let minus_infinity = f32::NEG_INFINITY;
        fn address<T>(value: &T) -> u64 {
            (value as *const T).expose_provenance() as u64
        }
        let mut tensors = vec![
            (uid::Q, operands.q),
            (uid::K, operands.k),
            (uid::V, operands.v),
            (uid::OUT, operands.out),
            (uid::SCALE, address(&operands.scale)),
        ];
        if sdpa.statistics.is_some() {
            tensors.push((uid::STATISTICS, operands.statistics));
        }
        if sdpa.causal {
            tensors.push((uid::MINUS_INFINITY, address(&minus_infinity)));
            if sdpa.is_shifted() {
                tensors.extend([(uid::QUERIES, address(&sdpa.queries)), (uid::KEYS, address(&sdpa.keys))]);
            }
        }
        let (uids, addresses): (Vec<i64>, Vec<u64>) = tensors.into_iter().unzip();
        let pack = Descriptor::new(functions, Kind::VariantPack)?;
        pack.set_int64s(attribute::PACK_UIDS, &uids)?;
        pack.set_addresses(attribute::PACK_ADDRESSES, &addresses)?;
        pack.set_addresses(attribute::PACK_WORKSPACE, &[operands.workspace])?;
        pack.finalize()?;
        // SAFETY: the caller's promise. What is passed by value is read before the call returns.
        unsafe { functions.execute(handle, self.plan.handle(), pack.handle()) }
    }
}
