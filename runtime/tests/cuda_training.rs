//! Training on the emulated CUDA device: the bits of the CPU, eagerly and as a graph that is replayed.

mod harness;

use harness::Rng;
use scalert_kernels::backend::cuda::{Driver, image};
use scalert_ptx_emulator::symbol;
use scalert_runtime::device::DeviceKind;
use scalert_runtime::optim::Optimizer;
use scalert_runtime::{
    Arena, DType, GroupDesc, Part, Runtime, RuntimeDesc, Scaler, ScalerDesc, ScalerReport, State, StateDesc, Status,
    StepDesc, StepResult, Stream, Tier, View,
};
use std::ffi::{CStr, c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, Once, PoisonError};

/// Calls a function of the emulated driver by its name.
macro_rules! driver {
    ($name:literal, $($value:expr => $type:ty),*) => {{
        let address = symbol($name).expect("the emulator has it");
        // SAFETY: the function has this signature, and takes these arguments.
        let status = unsafe {
            let function: unsafe extern "C" fn($($type),*) -> c_int = std::mem::transmute(address);
            function($($value),*)
        };
        assert_eq!(status, 0, "{:?}", scalert_ptx_emulator::last_fault());
    }};
}

/// Whether there is device code; provides the emulated driver.
fn emulated() -> bool {
    static ONCE: Once = Once::new();
    if image::built().is_err() {
        return false;
    }
    ONCE.call_once(|| {
        let find = |name: &CStr| symbol(name.to_str().unwrap()).unwrap_or(std::ptr::null());
        // SAFETY: the emulator's symbols are functions of the driver API.
        let driver = unsafe { Driver::from_symbols(&find) }.expect("the emulator is complete");
        driver.start().expect("the emulated driver starts");
        scalert_runtime::cuda::provide_driver(Box::leak(Box::new(driver)));
    });
    true
}

/// Memory that the host and the device reach alike.
struct Shared {
    arena: Arena,
}

impl Shared {
    fn new(runtime: &Runtime) -> Shared {
        let tier = if runtime.device() == DeviceKind::Cpu { Tier::Host } else { Tier::Pinned };
        Shared { arena: Arena::new(runtime, tier, 1 << 16).unwrap() }
    }

    fn tensor(&self, dtype: DType, shape: &[usize]) -> View<'_> {
        let bytes = (shape.iter().product::<usize>() * dtype.size()) as u64;
        let data = self.arena.alloc(bytes).unwrap();
        let mut stride = vec![1; shape.len()];
        for d in (1..shape.len()).rev() {
            stride[d - 1] = stride[d] * shape[d];
        }
        // SAFETY: the arena has these bytes, which the tests use one call at a time.
        unsafe { View::new("tensor", data.as_ptr().cast(), dtype, shape, &stride) }.unwrap()
    }
}

/// The elements of an f32 tensor that the host reaches.
fn elements<'a>(view: &View<'a>) -> &'a mut [f32] {
    assert_eq!(view.dtype(), DType::F32);
    // SAFETY: the tests wait for the stream before they use a tensor.
    unsafe { std::slice::from_raw_parts_mut(view.ptr::<f32>(), view.numel()) }
}

/// Two layers: y = w2 relu(w1 x + b1) + b2, the smallest that has a gradient of each kind of shape.
const SHAPES: [(u32, &CStr, &[i64]); 4] =
    [(0, c"w1", &[37, 9]), (1, c"b1", &[37]), (2, c"w2", &[5, 37]), (1, c"b2", &[5])];

struct Model {
    state: State,
    stream: Stream,
    scaler: Scaler,
    runtime: Runtime,
}

impl Model {
    fn new(runtime: Runtime, stream: Stream) -> Model {
        let state = State::new(&runtime, &StateDesc::default()).unwrap();
        let group = |optimizer, weight_dtype, momentum| GroupDesc {
            optimizer,
            weight_dtype,
            momentum,
            weight_decay: 0.01,
            nesterov: momentum > 0.0,
            ..Default::default()
        };
        state.add_group(&group(Optimizer::AdamW, None, 0.0)).unwrap();
        state.add_group(&group(Optimizer::Sgd, Some(DType::F32), 0.9)).unwrap();
        state.add_group(&group(Optimizer::Lion, Some(DType::F16), 0.0)).unwrap();
        for (group, name, shape) in SHAPES {
            state.add_parameter(group, name, shape).unwrap();
        }
        state.seal().unwrap();
        let scaler = ScalerDesc { initial_scale: 4.0, growth_interval: 3, maximum: 64.0, ..Default::default() };
        let scaler = Scaler::new(&runtime, &scaler).unwrap();
        let model = Model { state, stream, scaler, runtime };
        let mut rng = Rng(5);
        let shared = Shared::new(&model.runtime);
        for p in 0..SHAPES.len() {
            let start = shared.tensor(DType::F32, &model.shape(p));
            elements(&start).iter_mut().for_each(|x| *x = 0.3 * rng.normal() as f32);
            model.state.write(&model.stream, p as u32, Part::Master, start).unwrap();
        }
        model.stream.wait().unwrap();
        model
    }

    fn shape(&self, p: usize) -> Vec<usize> {
        self.state.parameter_info(p as u32).unwrap().shape
    }

    fn read(&self, shared: &Shared, p: usize, part: Part) -> Option<Vec<f32>> {
        let copy = shared.tensor(DType::F32, &self.shape(p));
        match self.state.read(&self.stream, p as u32, part, copy) {
            Err(error) => assert_eq!(error.status, Status::InvalidArgument, "{error}"),
            Ok(()) => {
                self.stream.wait().unwrap();
                return Some(elements(&copy).to_vec());
            }
        }
        None
    }

    /// Masters and moments, and weights as bits.
    fn snapshot(&self) -> Vec<u32> {
        let shared = Shared::new(&self.runtime);
        let mut all = Vec::new();
        for p in 0..SHAPES.len() {
            for part in [Part::Master, Part::Moment1, Part::Moment2] {
                all.extend(self.read(&shared, p, part).into_iter().flatten().map(f32::to_bits));
            }
            let weight = self.state.acquire(p as u32, &self.stream).unwrap();
            let mut bytes = vec![0u8; weight.numel() * weight.dtype().size()];
            // SAFETY: both have this many bytes, and the stream is waited for.
            unsafe { self.stream.copy(bytes.as_mut_ptr(), weight.data(), bytes.len()) }.unwrap();
            self.stream.wait().unwrap();
            self.state.release(p as u32, &self.stream).unwrap();
            all.extend(bytes.into_iter().map(u32::from));
        }
        all
    }

    /// The gradients of |y - target|^2 on a point, times `scale`.
    fn gradients(&self, weights: &[Vec<f32>], rng: &mut Rng, scale: f32) -> [Vec<f32>; 4] {
        let [w1, b1, w2, b2] = weights else { unreachable!() };
        let (hidden, inputs, outputs) = (b1.len(), w1.len() / b1.len(), b2.len());
        let x: Vec<f32> = (0..inputs).map(|_| rng.normal() as f32).collect();
        let h: Vec<f32> =
            (0..hidden).map(|i| (0..inputs).fold(b1[i], |s, j| s + w1[i * inputs + j] * x[j]).max(0.0)).collect();
        let dy: Vec<f32> = (0..outputs)
            .map(|o| {
                2.0 * scale * ((0..hidden).fold(b2[o], |s, i| s + w2[o * hidden + i] * h[i]) - rng.normal() as f32)
            })
            .collect();
        let dh: Vec<f32> = (0..hidden)
            .map(|i| if h[i] > 0.0 { (0..outputs).fold(0.0, |s, o| s + dy[o] * w2[o * hidden + i]) } else { 0.0 })
            .collect();
        let outer = |a: &[f32], b: &[f32]| a.iter().flat_map(|a| b.iter().map(move |b| a * b)).collect::<Vec<f32>>();
        [outer(&dh, &x), dh.clone(), outer(&dy, &h), dy]
    }

    fn give(&self, tensors: &[View<'_>; 4]) {
        self.state.begin_micro().unwrap();
        for (p, tensor) in tensors.iter().enumerate().rev() {
            self.state.gradient_ready(&self.stream, p as u32, *tensor, None).unwrap();
        }
        self.state.end_micro().unwrap();
    }

    fn step_desc(&self) -> StepDesc<'_> {
        StepDesc {
            learning_rate: 0.01,
            max_norm: 1.5,
            gradient_scale: 0.5,
            scaler: Some(&self.scaler),
            ..Default::default()
        }
    }
}

fn cpu() -> Model {
    let runtime = Runtime::new(&RuntimeDesc { threads: 1, ..Default::default() }).unwrap();
    let stream = Stream::new(&runtime).unwrap();
    Model::new(runtime, stream)
}

fn cuda() -> Runtime {
    Runtime::new(&RuntimeDesc { device: DeviceKind::Cuda, threads: 1, ..Default::default() }).unwrap()
}

/// What a step came to, without NaN, which equals nothing.
type Figures = (u64, u64, u64, f32, bool, Option<u32>, Option<u32>, ScalerReport, Option<Status>);

fn figures(model: &Model) -> Figures {
    let (result, verdict) = model.state.step_result_wait().unwrap();
    let StepResult {
        step, gradient_norm, clip_factor, loss_scale, skipped, overflow_parameter, overflow_micro, ..
    } = result;
    let (norm, clip) = (gradient_norm.to_bits(), clip_factor.to_bits());
    let report = model.scaler.read_wait().unwrap();
    (step, norm, clip, loss_scale, skipped, overflow_parameter, overflow_micro, report, verdict.err().map(|e| e.status))
}

/// Nine steps: plain ones, overflows of single gradients, one of their sums, a step without gradients, and a restart.
fn trajectory(model: &Model) -> Vec<(Figures, Vec<u32>)> {
    let mut rng = Rng(17);
    let mut all = Vec::new();
    for step in 0..9 {
        let shared = Shared::new(&model.runtime);
        let weights: Vec<Vec<f32>> = (0..4).map(|p| model.read(&shared, p, Part::Master).unwrap()).collect();
        let scale = model.scaler.read_wait().unwrap().scale;
        if step == 7 {
            model.state.set_step(1000).unwrap();
        }
        if step == 5 {
            // What an abandoned step has seen is forgotten.
            model.state.begin_step().unwrap();
            let bad = [0, 1, 2, 3].map(|p| {
                let tensor = shared.tensor(DType::F32, &model.shape(p));
                elements(&tensor).fill(f32::NAN);
                tensor
            });
            model.give(&bad);
            model.stream.wait().unwrap();
            model.state.abandon_step().unwrap();
        }
        model.state.begin_step().unwrap();
        for micro in 0..if step == 6 { 0 } else { 2 } {
            let mut gradients = model.gradients(&weights, &mut rng, scale);
            match (step, micro) {
                (2, 1) => (gradients[1][3], gradients[3][0]) = (f32::NAN, f32::INFINITY),
                (3, 0) => gradients[3][4] = f32::NEG_INFINITY,
                (3, 1) => gradients[0][0] = f32::NAN,
                (4, _) => gradients[2][7] = 3e38,
                _ => {}
            }
            let tensors = [0, 1, 2, 3].map(|p| {
                let tensor = shared.tensor(DType::F32, &model.shape(p));
                elements(&tensor).copy_from_slice(&gradients[p]);
                tensor
            });
            model.give(&tensors);
        }
        model.state.step(&model.stream, &model.step_desc()).unwrap();
        model.stream.wait().unwrap();
        all.push((figures(model), model.snapshot()));
    }
    all
}

/// A test at a time: a capture in global mode is invalidated by a thread that allocates meanwhile.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_trajectory_has_the_bits_of_the_cpu() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !emulated() {
        return;
    }
    let runtime = cuda();
    let stream = Stream::new(&runtime).unwrap();
    let (expected, got) = (trajectory(&cpu()), trajectory(&Model::new(runtime, stream)));
    for (step, (expected, got)) in expected.iter().zip(&got).enumerate() {
        assert_eq!(got.0, expected.0, "step {step}");
        assert!(got.1 == expected.1, "step {step}: weights, masters or moments differ");
    }
    let skipped: Vec<bool> = expected.iter().map(|(figures, _)| figures.4).collect();
    assert_eq!(skipped, [false, false, true, true, true, false, false, false, false]);
    let blamed: Vec<_> = expected[2..5].iter().map(|(figures, _)| (figures.6, figures.5)).collect();
    assert_eq!(blamed, [(Some(1), Some(1)), (Some(0), Some(3)), (Some(1), Some(2))]);
    assert_eq!((expected[5].0.0, expected[7].0.0), (3, 1001));
}

#[test]
fn a_graph_goes_on_as_calls_do() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !emulated() {
        return;
    }
    let (mut context, mut native) = (null_mut::<c_void>(), null_mut::<c_void>());
    driver!("cuDevicePrimaryCtxRetain", &mut context => *mut *mut c_void, 0 => c_int);
    driver!("cuCtxSetCurrent", context => *mut c_void);
    driver!("cuStreamCreate", &mut native => *mut *mut c_void, 1 => u32);
    {
        let runtime = cuda();
        let stream = Stream::wrap(&runtime, native).unwrap();
        stream.reserve(1 << 16).unwrap();
        let (eager, replayed) = (cpu(), Model::new(runtime, stream));
        let memory = [Shared::new(&eager.runtime), Shared::new(&replayed.runtime)];
        let tensors = [(&eager, &memory[0]), (&replayed, &memory[1])]
            .map(|(model, shared)| [0, 1, 2, 3].map(|p| shared.tensor(DType::F32, &model.shape(p))));
        let step = |model: &Model, tensors: &[View<'_>; 4]| {
            model.state.begin_step().unwrap();
            model.give(tensors);
            model.give(tensors);
            model.state.step(&model.stream, &model.step_desc()).unwrap();
        };
        tensors.iter().flatten().for_each(|tensor| elements(tensor).fill(0.25));
        // A restart is taken once, in the graph.
        step(&replayed, &tensors[1]);
        step(&eager, &tensors[0]);
        eager.state.set_step(10).unwrap();
        replayed.state.set_step(10).unwrap();
        let (mut graph, mut executable) = (null_mut::<c_void>(), null_mut::<c_void>());
        const GLOBAL: c_int = 0;
        driver!("cuStreamBeginCapture_v2", native => *mut c_void, GLOBAL => c_int);
        step(&replayed, &tensors[1]);
        driver!("cuStreamEndCapture", native => *mut c_void, &mut graph => *mut *mut c_void);
        driver!("cuGraphInstantiateWithFlags", &mut executable => *mut *mut c_void, graph => *mut c_void, 0 => u64);
        let mut rng = Rng(3);
        for replay in 0..6 {
            let skips = replay == 2;
            for p in 0..4 {
                let (to, from) = (elements(&tensors[1][p]), elements(&tensors[0][p]));
                from.iter_mut().for_each(|x| *x = rng.normal() as f32);
                from[0] = if skips { f32::INFINITY } else { from[0] };
                to.copy_from_slice(from);
            }
            step(&eager, &tensors[0]);
            driver!("cuGraphLaunch", executable => *mut c_void, native => *mut c_void);
            replayed.stream.wait().unwrap();
            assert_eq!(figures(&replayed), figures(&eager), "replay {replay}");
            assert!(replayed.snapshot() == eager.snapshot(), "replay {replay}");
        }
        assert_eq!(figures(&eager).0, 15);
        driver!("cuGraphExecDestroy", executable => *mut c_void);
        driver!("cuGraphDestroy", graph => *mut c_void);
    }
    driver!("cuStreamDestroy_v2", native => *mut c_void);
}
