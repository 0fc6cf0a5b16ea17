//! Random sequences of legal and illegal calls on a state against a model of it that holds integers: the same calls
//! are refused, a refused call changes nothing, and what is computed is exact.

mod harness;

use harness::{Tensor, elements, runtime};
use proptest::prelude::*;
use scalert_runtime::comm::{Comm, CommDesc};
use scalert_runtime::optim::Optimizer;
use scalert_runtime::{DType, Event, GroupDesc, Part, Runtime, Stage, State, StateDesc, Status, StepDesc, Stream};

const SHAPES: [&[i64]; 4] = [&[3], &[0, 2], &[], &[2, 150]];
const PARAMETERS: usize = SHAPES.len();

#[derive(Clone, Copy, Debug)]
enum Call {
    AddGroup,
    AddParameter,
    Seal,
    BeginStep,
    BeginMicro,
    Gradient(usize, i8),
    EndMicro,
    /// With this learning rate.
    Step(u8),
    Abandon,
    Result,
    Acquire(usize),
    Release(usize),
    Write(usize, i8),
    Read(usize),
    ReadGradient(usize),
    SetStep(u8),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let p = 0..PARAMETERS;
    let call = prop_oneof![
        1 => Just(Call::AddGroup),
        1 => Just(Call::AddParameter),
        1 => Just(Call::Seal),
        3 => Just(Call::BeginStep),
        4 => Just(Call::BeginMicro),
        16 => (p.clone(), any::<i8>()).prop_map(|(p, x)| Call::Gradient(p, x)),
        4 => Just(Call::EndMicro),
        3 => (0u8..3).prop_map(Call::Step),
        1 => Just(Call::Abandon),
        1 => Just(Call::Result),
        1 => p.clone().prop_map(Call::Acquire),
        2 => p.clone().prop_map(Call::Release),
        1 => (p.clone(), any::<i8>()).prop_map(|(p, x)| Call::Write(p, x)),
        1 => p.clone().prop_map(Call::Read),
        2 => p.prop_map(Call::ReadGradient),
        1 => any::<u8>().prop_map(Call::SetStep),
    ];
    // Whole steps in between, which chance would hardly ever complete.
    let step = (1usize..3, 0u8..3).prop_map(|(micros, rate)| {
        let micro = |m: usize| {
            let gradients = (0..PARAMETERS).map(move |p| Call::Gradient((p + m) % PARAMETERS, (7 * m + p) as i8));
            [Call::BeginMicro].into_iter().chain(gradients).chain([Call::EndMicro])
        };
        [Call::BeginStep].into_iter().chain((0..micros).flat_map(micro)).chain([Call::Step(rate)]).collect::<Vec<_>>()
    });
    let piece = prop_oneof![12 => call.prop_map(|c| vec![c]), 1 => step];
    prop::collection::vec(piece, 0..150).prop_map(|pieces| pieces.concat())
}

/// The model. Every element of a parameter has the same value.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    /// Ranks, all of which make the same calls with the same values.
    world: u32,
    sealed: bool,
    in_step: bool,
    in_micro: bool,
    micros: u32,
    ready: [bool; PARAMETERS],
    acquired: [u32; PARAMETERS],
    master: [f64; PARAMETERS],
    gradient: [f64; PARAMETERS],
    steps: u64,
    /// The number of steps that the last step reported.
    last: Option<u64>,
}

impl Model {
    fn new(world: u32, sealed: bool) -> Model {
        Model {
            world,
            sealed,
            in_step: false,
            in_micro: false,
            micros: 0,
            ready: [false; PARAMETERS],
            acquired: [0; PARAMETERS],
            master: [0.0; PARAMETERS],
            gradient: [0.0; PARAMETERS],
            steps: 0,
            last: None,
        }
    }

    fn shows_gradients(&self) -> bool {
        self.in_step && (self.world == 1 || !self.in_micro)
    }

    /// Whether the call is legal; if so, it is done.
    fn apply(&mut self, call: Call) -> bool {
        let acquired = self.acquired.iter().any(|n| *n > 0);
        let legal = match call {
            Call::AddGroup | Call::AddParameter | Call::Seal => !self.sealed,
            Call::BeginStep | Call::SetStep(_) => self.sealed && !self.in_step,
            Call::BeginMicro => self.in_step && !self.in_micro,
            Call::Gradient(p, _) => self.in_micro && !self.ready[p],
            Call::EndMicro => self.in_micro && self.ready.iter().all(|r| *r),
            Call::Step(_) => self.in_step && !self.in_micro && !acquired,
            Call::Abandon => self.in_step,
            Call::Result => self.last.is_some(),
            Call::Acquire(_) | Call::Read(_) => self.sealed,
            Call::Release(p) => self.acquired[p] > 0,
            Call::Write(p, _) => self.sealed && !self.in_step && self.acquired[p] == 0,
            Call::ReadGradient(_) => self.shows_gradients(),
        };
        if !legal {
            return false;
        }
        match call {
            Call::AddGroup | Call::AddParameter | Call::Result | Call::Read(_) | Call::ReadGradient(_) => {}
            Call::Seal => self.sealed = true,
            Call::BeginStep => {
                (self.in_step, self.micros, self.gradient) = (true, 0, [0.0; PARAMETERS]);
            }
            Call::BeginMicro => (self.in_micro, self.ready) = (true, [false; PARAMETERS]),
            Call::Gradient(p, x) => {
                self.ready[p] = true;
                self.gradient[p] += f64::from(x);
            }
            Call::EndMicro => (self.in_micro, self.micros) = (false, self.micros + 1),
            Call::Step(rate) => {
                (0..PARAMETERS).for_each(|p| self.master[p] -= f64::from(rate) * self.gradient[p]);
                (self.in_step, self.steps) = (false, self.steps + 1);
                self.last = Some(self.steps);
            }
            Call::Abandon => (self.in_step, self.in_micro) = (false, false),
            Call::Acquire(p) => self.acquired[p] += 1,
            Call::Release(p) => self.acquired[p] -= 1,
            Call::Write(p, x) => self.master[p] = x.into(),
            Call::SetStep(n) => self.steps = n.into(),
        }
        true
    }
}

struct Real {
    state: State,
    stream: Stream,
    event: Event,
}

fn shape(p: usize) -> Vec<usize> {
    SHAPES[p].iter().map(|n| *n as usize).collect()
}

impl Real {
    fn new(runtime: &Runtime, desc: &StateDesc<'_>) -> Real {
        let state = State::new(runtime, desc).unwrap();
        for dtype in [DType::F32, DType::BF16] {
            let desc = GroupDesc { optimizer: Optimizer::Sgd, weight_dtype: Some(dtype), ..Default::default() };
            state.add_group(&desc).unwrap();
        }
        for (p, shape) in SHAPES.iter().enumerate() {
            let name = std::ffi::CString::new(format!("parameter {p}")).unwrap();
            assert_eq!(state.add_parameter(p as u32 % 2, &name, shape).unwrap(), p as u32);
        }
        Real { state, stream: Stream::new(runtime).unwrap(), event: Event::new(runtime).unwrap() }
    }

    fn read(&self, p: usize, part: Part) -> scalert_runtime::Result<Vec<f64>> {
        let copy = Tensor::new(DType::F32, &shape(p)).fill(|_| f64::NAN);
        self.state.read(&self.stream, p as u32, part, copy.view())?;
        Ok(copy.values())
    }

    fn apply(&mut self, call: Call, model: &Model) -> scalert_runtime::Result<()> {
        let constant = |p: usize, x: i8| Tensor::new(DType::BF16, &shape(p)).fill(|_| x.into());
        let same = |values: Vec<f64>, p: usize, x: f64| {
            assert_eq!(values, vec![x; shape(p).iter().product()]);
        };
        let (state, stream) = (&self.state, &self.stream);
        match call {
            Call::AddGroup => state.add_group(&GroupDesc::default()).map(|_| ()),
            // To a group that does not exist: the order of calls is what is asked about.
            Call::AddParameter => match state.add_parameter(99, c"more", &[1]) {
                Err(error) if error.status == Status::InvalidArgument => Ok(()),
                outcome => outcome.map(|_| ()),
            },
            Call::Seal => state.seal(),
            Call::BeginStep => state.begin_step(),
            Call::BeginMicro => state.begin_micro(),
            Call::Gradient(p, x) => state.gradient_ready(stream, p as u32, constant(p, x).view(), Some(&self.event)),
            Call::EndMicro => state.end_micro(),
            Call::Step(rate) => state.step(stream, &StepDesc { learning_rate: rate.into(), ..Default::default() }),
            Call::Abandon => state.abandon_step(),
            Call::Result => {
                let (result, verdict) = state.step_result_wait()?;
                assert_eq!((Some(result.step), result.skipped, verdict), (model.last, false, Ok(())));
                Ok(())
            }
            Call::Acquire(p) => {
                same(elements(&state.acquire(p as u32, stream)?), p, f64::from(rounded(model.master[p], p)));
                Ok(())
            }
            Call::Release(p) => state.release(p as u32, stream),
            Call::Write(p, x) => state.write(stream, p as u32, Part::Master, constant(p, x).view()),
            Call::Read(p) => {
                same(self.read(p, Part::Master)?, p, model.master[p]);
                Ok(())
            }
            Call::ReadGradient(p) => {
                same(self.read(p, Part::Gradient)?, p, f64::from(model.world) * model.gradient[p]);
                Ok(())
            }
            Call::SetStep(n) => state.set_step(n.into()),
        }
    }

    /// Compares all that can be seen.
    fn assert_is(&self, model: &Model) {
        if !model.sealed {
            return;
        }
        for p in 0..PARAMETERS {
            let n = shape(p).iter().product();
            assert_eq!(self.read(p, Part::Master).unwrap(), vec![model.master[p]; n]);
            if model.shows_gradients() {
                let sum = f64::from(model.world) * model.gradient[p];
                assert_eq!(self.read(p, Part::Gradient).unwrap(), vec![sum; n]);
            }
        }
        assert_eq!(self.state.step_result_wait().ok().map(|(result, _)| result.step), model.last);
    }
}

/// The weight of a master weight.
fn rounded(x: f64, p: usize) -> f32 {
    if p.is_multiple_of(2) {
        return x as f32;
    }
    f32::from_bits(u32::from(scalert_runtime::dtype::bf16_bits_nearest_away((x as f32).to_bits())) << 16)
}

fn run(runtime: &Runtime, desc: &StateDesc<'_>, calls: &[Call], sealed: bool) {
    let mut real = Real::new(runtime, desc);
    let mut model = Model::new(desc.comm.map_or(1, Comm::world), false);
    let first = if sealed { vec![Call::Seal] } else { Vec::new() };
    for call in first.into_iter().chain(calls.iter().copied()) {
        let before = model.clone();
        let legal = model.apply(call);
        match real.apply(call, &model) {
            Ok(()) => assert!(legal, "{call:?} went through in {before:?}"),
            Err(error) => {
                assert!(!legal, "{call:?} was refused in {before:?}: {error}");
                assert_eq!(error.status, Status::FailedPrecondition, "{call:?} in {before:?}: {error}");
            }
        }
        real.assert_is(&model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..Default::default() })]

    #[test]
    fn a_state_is_its_model(calls in calls(), sealed in prop::bool::weighted(0.9)) {
        run(&runtime(2), &StateDesc::default(), &calls, sealed);
    }

    #[test]
    fn a_state_of_two_ranks_is_its_model(
        calls in calls(),
        stage in prop::sample::select(vec![Stage::Replicated, Stage::Optimizer, Stage::Gradients, Stage::Parameters]),
        overlap: bool,
    ) {
        let runtimes = [runtime(1), runtime(1)];
        let comms = Comm::local(&runtimes, &CommDesc::default()).unwrap();
        std::thread::scope(|scope| {
            for (runtime, comm) in runtimes.iter().zip(&comms) {
                let desc = StateDesc { comm: Some(comm), stage, overlap, bucket_bytes: 1024, ..StateDesc::default() };
                let calls = &calls;
                scope.spawn(move || run(runtime, &desc, calls, true));
            }
        });
    }
}

#[test]
fn refusals_say_what_is_the_matter() {
    let runtime = runtime(1);
    let mut real = Real::new(&runtime, &StateDesc::default());
    let model = Model::new(1, true);
    let mut refused = |call: Call| real.apply(call, &model).unwrap_err().message;
    assert_eq!(refused(Call::BeginStep), "the state is not sealed");
    assert_eq!(refused(Call::Acquire(0)), "the state is not sealed");
    let mut good = |calls: &[Call]| calls.iter().for_each(|call| real.apply(*call, &model).unwrap());
    good(&[
        Call::Seal,
        Call::Acquire(2),
        Call::BeginStep,
        Call::BeginMicro,
        Call::Gradient(0, 1),
        Call::Gradient(1, 1),
    ]);
    let mut refused = |call: Call| real.apply(call, &model).unwrap_err().message;
    assert_eq!(refused(Call::Seal), "the state is sealed already");
    assert_eq!(refused(Call::BeginStep), "a step has been begun; take or abandon it first");
    assert_eq!(refused(Call::Step(1)), "a micro-batch has been begun; end it first");
    assert_eq!(refused(Call::EndMicro), "parameter 2 'parameter 2' has had no gradient in this micro-batch");
    assert_eq!(refused(Call::Gradient(1, 1)), "parameter 1 'parameter 1' has had its gradient in this micro-batch");
    let mut good = |calls: &[Call]| calls.iter().for_each(|call| real.apply(*call, &model).unwrap());
    good(&[Call::Gradient(3, 0), Call::Gradient(2, 0), Call::EndMicro]);
    let mut refused = |call: Call| real.apply(call, &model).unwrap_err().message;
    assert_eq!(refused(Call::Step(1)), "parameter 2 'parameter 2' is acquired; release it first");
    assert_eq!(refused(Call::Release(1)), "parameter 1 'parameter 1' is not acquired");
    assert_eq!(refused(Call::Result), "no step has been taken");
}
