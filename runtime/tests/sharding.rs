//! ZeRO: the ranks of a group train as one, at every stage with the same bits, in the bytes that the formulas say.

mod harness;

use harness::small_state::{self, PARAMETERS, numel, shape};
use harness::{Rng, Tensor, bits, elements};
use scalert_runtime::comm::{Comm, CommDesc};
use scalert_runtime::optim::Optimizer;
use scalert_runtime::{
    Arena, DType, Error, GradientReduction, GroupDesc, MasterFormat, MomentFormat, Part, Runtime, RuntimeDesc, Scaler,
    ScalerDesc, Stage, State, StateDesc, Status, StepDesc, StepResult, Stream, Tier, TierReport,
};
use std::ffi::CString;
use std::sync::Barrier;
use std::time::Duration;

const STAGES: [Stage; 4] = [Stage::Replicated, Stage::Optimizer, Stage::Gradients, Stage::Parameters];

/// Bytes of the device tier that each rank may take.
const BUDGET: u64 = 64 << 20;

/// A rank of a group, in its thread.
struct Rank {
    rank: u32,
    runtime: Runtime,
    stream: Stream,
    comm: Comm,
}

/// Runs `body` as each rank of a group; the outcomes are in order of ranks.
fn ranks_with<T: Send>(world: u32, desc: &CommDesc, body: impl Fn(Rank) -> T + Sync) -> Vec<T> {
    let runtime = || RuntimeDesc { threads: 1, budgets: [BUDGET, 0, 0, 0], ..Default::default() };
    let runtimes: Vec<Runtime> = (0..world).map(|_| Runtime::new(&runtime()).unwrap()).collect();
    let comms = Comm::local(&runtimes, desc).unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = runtimes
            .into_iter()
            .zip(comms)
            .zip(0..)
            .map(|((runtime, comm), rank)| {
                let body = &body;
                scope.spawn(move || {
                    let stream = Stream::new(&runtime).unwrap();
                    body(Rank { rank, runtime, stream, comm })
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn ranks<T: Send>(world: u32, body: impl Fn(Rank) -> T + Sync) -> Vec<T> {
    ranks_with(world, &CommDesc::default(), body)
}

/// How a run is divided.
#[derive(Clone, Copy, Debug)]
struct Run {
    stage: Stage,
    reduction: GradientReduction,
    bucket_bytes: u64,
    gradient_dtype: DType,
    overlap: bool,
    gather_bytes: u64,
    reduction_dtype: Option<DType>,
    master: MasterFormat,
    moments: MomentFormat,
}

impl Run {
    fn new(stage: Stage) -> Run {
        Run {
            stage,
            reduction: GradientReduction::Auto,
            bucket_bytes: 0,
            gradient_dtype: DType::F32,
            overlap: false,
            gather_bytes: 0,
            reduction_dtype: None,
            master: MasterFormat::F32,
            moments: MomentFormat::F32,
        }
    }

    fn desc<'a>(&self, comm: &'a Comm) -> StateDesc<'a> {
        StateDesc {
            comm: Some(comm),
            stage: self.stage,
            gradient_reduction: self.reduction,
            bucket_bytes: self.bucket_bytes,
            gradient_dtype: Some(self.gradient_dtype),
            overlap: self.overlap,
            reduction_dtype: self.reduction_dtype,
            gather_bytes: self.gather_bytes,
        }
    }
}

/// The small state with a frozen group and a large parameter, that is divided over ranks and buckets.
const EXTRA: [(u32, &[i64]); 3] = [(4, &[33, 9]), (0, &[40, 101]), (1, &[3, 300])];

fn all_parameters() -> Vec<(u32, &'static [i64])> {
    PARAMETERS.iter().chain(&EXTRA).copied().collect()
}

fn shape_of(p: usize) -> Vec<usize> {
    all_parameters()[p].1.iter().map(|n| *n as usize).collect()
}

fn frozen(p: usize) -> bool {
    all_parameters()[p].0 == 4
}

fn sealed(runtime: &Runtime, desc: &StateDesc<'_>) -> State {
    sealed_with(runtime, desc, MasterFormat::F32, MomentFormat::F32)
}

fn sealed_with(runtime: &Runtime, desc: &StateDesc<'_>, master: MasterFormat, moments: MomentFormat) -> State {
    let state = State::new(runtime, desc).unwrap();
    for group in small_state::groups() {
        // Only bf16 weights can be halves of master weights.
        let split = master == MasterFormat::Split16 && group.weight_dtype.is_some();
        let master = if split { MasterFormat::F32 } else { master };
        state.add_group(&GroupDesc { master, moments, seed: 5, ..group }).unwrap();
    }
    state.add_group(&GroupDesc { frozen: true, ..GroupDesc::default() }).unwrap();
    for (p, (group, shape)) in all_parameters().iter().enumerate() {
        state.add_parameter(*group, &CString::new(format!("layer.{p}")).unwrap(), shape).unwrap();
    }
    state.seal().unwrap();
    state
}

fn initialise(state: &State, stream: &Stream) {
    let mut rng = Rng(7);
    for p in 0..all_parameters().len() {
        let start = Tensor::new(DType::F32, &shape_of(p)).fill(|_| rng.normal());
        state.write(stream, p as u32, Part::Master, start.view()).unwrap();
    }
}

/// The bits of all that a state has of its parameters.
fn contents(state: &State, stream: &Stream) -> Vec<Vec<u64>> {
    let mut all = Vec::new();
    for p in 0..all_parameters().len() {
        for part in [Part::Master, Part::Moment1, Part::Moment2] {
            let copy = Tensor::new(DType::F32, &shape_of(p));
            match state.read(stream, p as u32, part, copy.view()) {
                Ok(()) => all.push(bits(&copy.values())),
                Err(error) => assert_eq!(error.status, Status::InvalidArgument, "{error}"),
            }
        }
        let weight = state.acquire(p as u32, stream).unwrap();
        all.push(bits(&elements(&weight)));
        state.release(p as u32, stream).unwrap();
    }
    all
}

fn result(state: &State) -> StepResult {
    state.step_result_wait().unwrap().0
}

/// The gradient of a parameter in a micro-batch of one rank: of any dtype.
fn gradient(step: usize, micro: usize, rank: u32, p: usize) -> Tensor {
    let mut rng = Rng((((step * 31 + micro) * 17 + rank as usize) * 1009 + p) as u64);
    Tensor::new(DType::FLOATS[(step + p) % 3], &shape_of(p)).fill(|_| rng.normal())
}

fn micro_batch(state: &State, stream: &Stream, order: usize, gradient: impl Fn(usize) -> Tensor) {
    let count = all_parameters().len();
    state.begin_micro().unwrap();
    for k in 0..count {
        // From the last to the first, or in an order of the step's own.
        let p = if order.is_multiple_of(2) { count - 1 - k } else { (k * 3 + order) % count };
        if !frozen(p) {
            state.gradient_ready(stream, p as u32, gradient(p).view(), None).unwrap();
        }
    }
    state.end_micro().unwrap();
}

/// A forward and a backward pass over the weights, whose order changes at times.
fn use_weights(state: &State, stream: &Stream, step: usize) {
    let count = all_parameters().len();
    let swap = if step % 10 == 9 { 3 } else { 0 };
    for k in (0..count).chain((0..count).rev()) {
        let p = ((k + swap) % count) as u32;
        let weight = state.acquire(p, stream).unwrap();
        assert!(elements(&weight).iter().all(|x| x.is_finite()));
        state.release(p, stream).unwrap();
    }
}

/// Fifty steps of a run; the bits at the end, and of every norm.
fn train(rank: &Rank, run: Run, micros: usize) -> (Vec<Vec<u64>>, Vec<u64>) {
    let state = sealed_with(&rank.runtime, &run.desc(&rank.comm), run.master, run.moments);
    initialise(&state, &rank.stream);
    let mut norms = Vec::new();
    for step in 0..50 {
        state.begin_step().unwrap();
        for micro in 0..micros {
            use_weights(&state, &rank.stream, step);
            micro_batch(&state, &rank.stream, step, |p| gradient(step, micro, rank.rank, p));
        }
        let desc =
            StepDesc { learning_rate: 0.01, max_norm: 3.0, gradient_scale: 1.0 / micros as f32, ..StepDesc::default() };
        state.step(&rank.stream, &desc).unwrap();
        norms.push(result(&state).gradient_norm.to_bits());
        assert!(!result(&state).skipped);
    }
    (contents(&state, &rank.stream), norms)
}

#[test]
fn stages_and_buckets_have_the_same_bits_after_fifty_steps() {
    for world in [1, 2, 3, 4] {
        for gradient_dtype in [DType::F32, DType::BF16] {
            let base = Run { gradient_dtype, ..Run::new(Stage::Replicated) };
            let expected = ranks(world, |rank| train(&rank, base, 2));
            assert!(expected.iter().all(|outcome| *outcome == expected[0]), "world {world}: the ranks agree");
            for stage in STAGES {
                for bucket_bytes in [0, 1024, 4000] {
                    // A bucket of one block takes long.
                    if bucket_bytes == 1024 && (gradient_dtype == DType::BF16 || world > 3) {
                        continue;
                    }
                    let run = Run { stage, bucket_bytes, ..base };
                    let got = ranks(world, |rank| train(&rank, run, 2));
                    assert!(got.iter().all(|outcome| *outcome == expected[0]), "world {world} {run:?}");
                }
                // Little room for weights in use, so that what is fetched ahead takes the place of others.
                let run = Run { stage, bucket_bytes: 4000, overlap: true, gather_bytes: 20_000, ..base };
                let got = ranks(world, |rank| train(&rank, run, 2));
                assert!(got.iter().all(|outcome| *outcome == expected[0]), "world {world} {run:?}");
            }
        }
    }
}

#[test]
fn formats_have_the_same_bits_at_every_stage() {
    for (master, moments) in [
        (MasterFormat::F32, MomentFormat::Int8),
        (MasterFormat::Split16, MomentFormat::F32),
        (MasterFormat::Split16, MomentFormat::Int8),
        (MasterFormat::None, MomentFormat::Bf16),
        (MasterFormat::None, MomentFormat::Int8),
    ] {
        let base = Run { master, moments, ..Run::new(Stage::Replicated) };
        let expected = ranks(1, |rank| train(&rank, base, 1));
        let plain = ranks(1, |rank| train(&rank, Run { master: MasterFormat::F32, ..base }, 1));
        assert_eq!(plain[0] == expected[0], master != MasterFormat::None, "SPLIT16 has the bits of F32");
        for world in [2, 3] {
            let expected = ranks(world, |rank| train(&rank, base, 1));
            for stage in STAGES {
                let got = ranks(world, |rank| train(&rank, Run { stage, ..base }, 1));
                assert!(
                    got.iter().all(|outcome| *outcome == expected[0]),
                    "world {world} {master:?} {moments:?} {stage:?}"
                );
            }
        }
    }
}

#[test]
fn one_micro_batch_may_be_summed_at_the_step_with_the_same_bits() {
    for world in [2, 3] {
        let expected = ranks(world, |rank| train(&rank, Run::new(Stage::Gradients), 1));
        for stage in [Stage::Replicated, Stage::Optimizer] {
            let run = Run { reduction: GradientReduction::AtStep, ..Run::new(stage) };
            let got = ranks(world, |rank| train(&rank, run, 1));
            assert!(got.iter().all(|outcome| *outcome == expected[0]), "world {world} {run:?}");
        }
    }
}

#[test]
fn gradients_go_between_ranks_in_bf16_if_asked_to() {
    let narrow = Run { reduction_dtype: Some(DType::BF16), ..Run::new(Stage::Replicated) };
    let expected = ranks(3, |rank| train(&rank, narrow, 2));
    assert!(expected.iter().all(|outcome| *outcome == expected[0]));
    for stage in STAGES {
        let run = Run { stage, bucket_bytes: 4000, overlap: stage == Stage::Parameters, ..narrow };
        let got = ranks(3, |rank| train(&rank, run, 2));
        assert!(got.iter().all(|outcome| *outcome == expected[0]), "{run:?}");
    }
    let wide = ranks(3, |rank| train(&rank, Run::new(Stage::Replicated), 2));
    assert!(wide[0].1 != expected[0].1, "it is not the same");
    // Each gradient is rounded by at most 2^-9 of itself, and its sum once more.
    assert!((f64::from_bits(wide[0].1[0]) / f64::from_bits(expected[0].1[0]) - 1.0).abs() < 0.004);
}

/// A gradient whose sums are exact in f32 in any order.
fn exact(step: usize, number: usize, p: usize) -> Tensor {
    let mut rng = Rng(((step * 64 + number) * 1009 + p) as u64);
    Tensor::new(DType::BF16, &shape_of(p)).fill(|_| ((rng.next() % 129) as f64 - 64.0) / 32.0)
}

#[test]
fn micro_batches_on_ranks_are_as_good_as_on_one() {
    let run = |world: u32, stage: Stage, reduction: GradientReduction| {
        let outcomes = ranks(world, |rank| {
            let run = Run { reduction, ..Run::new(stage) };
            let state = sealed(&rank.runtime, &run.desc(&rank.comm));
            initialise(&state, &rank.stream);
            let micros = 4 / world as usize;
            let mut norms = Vec::new();
            for step in 0..10 {
                state.begin_step().unwrap();
                for micro in 0..micros {
                    let number = micro * world as usize + rank.rank as usize;
                    micro_batch(&state, &rank.stream, 0, |p| exact(step, number, p));
                }
                let sum = Tensor::new(DType::F32, &shape_of(8));
                state.read(&rank.stream, 8, Part::Gradient, sum.view()).unwrap();
                // What a rank has added up is its own until the step, where that sums over the ranks.
                if reduction != GradientReduction::AtStep {
                    norms.extend(bits(&sum.values()));
                }
                let gradient_scale = 1.0 / micros as f32;
                let desc = StepDesc { learning_rate: 0.02, max_norm: 2.0, gradient_scale, ..StepDesc::default() };
                state.step(&rank.stream, &desc).unwrap();
                norms.extend([result(&state).gradient_norm.to_bits(), result(&state).clip_factor.to_bits()]);
            }
            (contents(&state, &rank.stream), norms)
        });
        assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]));
        outcomes.into_iter().next().unwrap()
    };
    let expected = run(1, Stage::Replicated, GradientReduction::Auto);
    for world in [2, 4] {
        for stage in STAGES {
            assert!(run(world, stage, GradientReduction::EachMicro) == expected, "world {world} {stage:?}");
        }
        let late = run(world, Stage::Replicated, GradientReduction::AtStep);
        assert!(late.0 == expected.0, "world {world} at the step");
    }
}

/// Bytes of (weights, master, moments, gradients) that each rank is to hold.
fn held(desc: GroupDesc, stage: Stage, world: u64, gradient_dtype: DType, numel: u64) -> [u64; 4] {
    let outcomes = ranks(world as u32, |rank| {
        let run = Run { gradient_dtype, ..Run::new(stage) };
        let state = State::new(&rank.runtime, &run.desc(&rank.comm)).unwrap();
        let group = state.add_group(&desc).unwrap();
        state.add_parameter(group, c"w", &[numel as i64]).unwrap();
        let planned = state.memory().unwrap();
        state.seal().unwrap();
        assert_eq!(state.memory().unwrap(), planned, "what seal takes is what was said");
        // But for the budget, and the workspace of a stream that an overlap would have.
        let report = rank.runtime.memory_report().tier;
        assert_eq!(TierReport { limit: u64::MAX, ..report[0] }, planned.tier[0]);
        assert_eq!(report[1..], planned.tier[1..]);
        let device = planned.tier[0];
        [device.weights, device.master, device.moments, device.gradients]
    });
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]));
    outcomes[0]
}

#[test]
fn each_stage_costs_what_the_formula_says() {
    let n = 4 * 3 * 256 * 5;
    for world in [1, 2, 3, 4] {
        for (stage, gradient) in STAGES.into_iter().flat_map(|stage| [(stage, DType::F32), (stage, DType::BF16)]) {
            let wide = if gradient == DType::F32 { 2 } else { 0 };
            // Bytes per parameter times the world: 16, 4 + 12/N, 2 + 14/N, 16/N, and f32 accumulation.
            let expected = match stage {
                Stage::Replicated => (16 + wide) * world,
                Stage::Optimizer => 4 * world + 12 + wide * world,
                Stage::Gradients => 2 * world + 14 + wide,
                Stage::Parameters => 16 + wide,
            };
            let bytes = held(GroupDesc::default(), stage, world, gradient, n);
            assert_eq!(bytes.iter().sum::<u64>() * world, expected * n, "stage {stage:?} of {world}: {bytes:?}");
        }
        // f32 weights are the master weights.
        let f32_weights =
            GroupDesc { weight_dtype: Some(DType::F32), optimizer: Optimizer::Lion, ..GroupDesc::default() };
        let bytes = held(f32_weights, Stage::Gradients, world, DType::F32, n);
        assert_eq!(bytes, [0, 4 * n, 4 * n / world, 4 * n / world]);
        // 2 + 2 + 2.03, and the gradient.
        let (master, moments) = (MasterFormat::Split16, MomentFormat::Int8);
        let compact = GroupDesc { master, moments, ..GroupDesc::default() };
        let bytes = held(compact, Stage::Parameters, world, DType::BF16, n);
        assert_eq!(bytes, [2 * n / world, 2 * n / world, (2 * n + n / 32) / world, 2 * n / world]);
        let frozen = GroupDesc { frozen: true, ..GroupDesc::default() };
        assert_eq!(held(frozen, Stage::Gradients, world, DType::F32, n), [2 * n, 0, 0, 0]);
        assert_eq!(held(frozen, Stage::Parameters, world, DType::F32, n), [2 * n / world, 0, 0, 0]);
    }
}

#[test]
fn an_overflow_on_one_rank_skips_the_step_on_all() {
    for stage in STAGES {
        let outcomes = ranks(3, |rank| {
            let state = sealed(&rank.runtime, &Run::new(stage).desc(&rank.comm));
            let scaler = Scaler::new(&rank.runtime, &ScalerDesc::default()).unwrap();
            initialise(&state, &rank.stream);
            let before = contents(&state, &rank.stream);
            state.begin_step().unwrap();
            for micro in 0..2 {
                micro_batch(&state, &rank.stream, 0, |p| {
                    let mut gradient = gradient(0, micro, rank.rank, p);
                    // The first is that of micro-batch 0, parameter 2, on the ranks 1 and 2.
                    if (micro, rank.rank, p) == (1, 0, 0)
                        || micro == 0 && rank.rank > 0 && p >= 2 && p != 5 && !frozen(p)
                    {
                        gradient.set(0, f64::INFINITY);
                    }
                    gradient
                });
            }
            let desc = StepDesc { learning_rate: 0.1, scaler: Some(&scaler), ..StepDesc::default() };
            state.step(&rank.stream, &desc).unwrap();
            assert!(contents(&state, &rank.stream) == before, "nothing has changed");
            let skipped = result(&state);
            // Finite gradients whose sum over ranks overflows: found in what each rank has of the sums.
            state.begin_step().unwrap();
            micro_batch(&state, &rank.stream, 0, |p| {
                let large = if p == 8 || p == 4 { 3e38 } else { 1.0 };
                Tensor::new(DType::F32, &shape_of(p)).fill(|_| large)
            });
            state.step(&rank.stream, &StepDesc { learning_rate: 0.1, ..StepDesc::default() }).unwrap();
            assert!(contents(&state, &rank.stream) == before, "nothing has changed");
            (
                format!("{skipped:?}"),
                format!("{:?}", result(&state)),
                skipped,
                result(&state),
                scaler.read_wait().unwrap().scale,
            )
        });
        assert!(outcomes.iter().all(|o| (&o.0, &o.1, o.4) == (&outcomes[0].0, &outcomes[0].1, outcomes[0].4)));
        let (_, _, first, second, scale) = outcomes[0];
        assert!(first.skipped && second.skipped && first.gradient_norm.is_nan());
        assert_eq!((first.overflow_parameter, first.overflow_rank, first.overflow_micro), (Some(2), Some(1), Some(0)));
        assert_eq!((second.overflow_parameter, second.overflow_micro), (Some(4), Some(0)), "{stage:?}");
        assert_eq!(scale, 32768.0);
    }
}

fn message(outcome: Result<(), Error>) -> String {
    let error = outcome.unwrap_err();
    assert_eq!(error.status, Status::FailedPrecondition, "{error}");
    error.message
}

#[test]
fn ranks_that_differ_are_told_so_before_anything_is_taken() {
    let differ = |change: fn(u32, &State)| {
        let messages = ranks(3, |rank| {
            let state = State::new(&rank.runtime, &Run::new(Stage::Gradients).desc(&rank.comm)).unwrap();
            state.add_group(&GroupDesc::default()).unwrap();
            state.add_parameter(0, c"first", &[300]).unwrap();
            change(rank.rank, &state);
            let message = message(state.seal());
            assert_eq!(rank.runtime.memory_report().tier[0].used, 0);
            message
        });
        assert!(messages.iter().all(|message| *message == messages[0]), "{messages:?}");
        messages.into_iter().next().unwrap()
    };
    let shapes = differ(|rank, state| {
        state.add_parameter(0, c"second", &[3, if rank == 2 { 5 } else { 4 }]).unwrap();
    });
    assert!(shapes.contains("'second' [3, 4]") && shapes.contains("'second' [3, 5]"), "{shapes}");
    assert!(shapes.contains("rank 0") && shapes.contains("rank 2"), "{shapes}");
    let more = differ(|rank, state| {
        if rank == 1 {
            state.add_parameter(0, c"more", &[1]).unwrap();
        }
    });
    assert!(more.contains("'more'") && more.contains("rank 1"), "{more}");
    let groups = differ(|rank, state| {
        state.add_group(&GroupDesc { weight_decay: rank as f32, ..GroupDesc::default() }).unwrap();
    });
    assert!(groups.contains("weight_decay"), "{groups}");
}

#[test]
fn ranks_that_give_gradients_in_different_orders_are_told_so() {
    for stage in [Stage::Replicated, Stage::Gradients] {
        let messages = ranks(2, |rank| {
            let state = sealed(&rank.runtime, &Run::new(stage).desc(&rank.comm));
            initialise(&state, &rank.stream);
            state.begin_step().unwrap();
            state.begin_micro().unwrap();
            // Two of one shape: their sums would be wrong, and nothing else would notice.
            let order: &[u32] =
                if rank.rank == 0 { &[0, 1, 2, 3, 4, 5, 6, 8, 9] } else { &[0, 1, 2, 4, 3, 5, 6, 8, 9] };
            for p in order {
                state.gradient_ready(&rank.stream, *p, gradient(0, 0, 0, *p as usize).view(), None).unwrap();
            }
            state.end_micro().unwrap();
            message(state.step(&rank.stream, &StepDesc { learning_rate: 0.1, ..StepDesc::default() }))
        });
        assert_eq!(messages[0], messages[1]);
        let what = "gradients of 0..4 6 8..9";
        assert!(messages[0].contains(what) && messages[0].contains("gradients of 0..2 4..3 6 8..9"), "{}", messages[0]);
    }
}

#[test]
fn a_rank_without_the_memory_stops_all_and_they_may_try_again() {
    let runtimes: Vec<Runtime> = [0u64, 50_000]
        .map(|device| {
            Runtime::new(&RuntimeDesc { threads: 1, budgets: [device, 0, 0, 0], ..Default::default() }).unwrap()
        })
        .into();
    let comms = Comm::local(&runtimes, &CommDesc::default()).unwrap();
    std::thread::scope(|scope| {
        for (rank, (runtime, comm)) in runtimes.iter().zip(&comms).enumerate() {
            scope.spawn(move || {
                let state = State::new(runtime, &Run::new(Stage::Optimizer).desc(comm)).unwrap();
                state.add_group(&GroupDesc::default()).unwrap();
                state.add_parameter(0, c"large", &[100_000]).unwrap();
                let error = state.seal().unwrap_err();
                assert_eq!(error.status, Status::OutOfBudget, "{error}");
                assert_eq!(error.message.contains("rank 1"), rank == 0, "{error}");
                assert_eq!(runtime.memory_report().tier[0].used, 0);
                let state = State::new(runtime, &Run::new(Stage::Parameters).desc(comm)).unwrap();
                state.add_group(&GroupDesc::default()).unwrap();
                state.add_parameter(0, c"small", &[1000]).unwrap();
                state.seal().unwrap();
            });
        }
    });
}

#[test]
fn a_gradient_that_is_refused_leaves_nothing_behind() {
    [false, true].into_iter().for_each(refused_for_want_of_memory);
}

fn refused_for_want_of_memory(overlap: bool) {
    ranks(2, |rank| {
        let plan = |runtime: &Runtime, comm: &Comm| {
            let state = State::new(runtime, &Run { overlap, ..Run::new(Stage::Gradients) }.desc(comm)).unwrap();
            state.add_group(&GroupDesc::default()).unwrap();
            state.add_parameter(0, c"w", &[5000]).unwrap();
            state
        };
        let state = plan(&rank.runtime, &rank.comm);
        state.seal().unwrap();
        let give = |stream: &Stream, value: f64| {
            let gradient = Tensor::new(DType::F32, &[5000]).fill(|_| value);
            state.gradient_ready(stream, 0, gradient.view(), None)
        };
        state.begin_step().unwrap();
        state.begin_micro().unwrap();
        give(&rank.stream, 1.0).unwrap();
        state.end_micro().unwrap();
        state.begin_micro().unwrap();
        // All of the budget that is left is taken: a new stream has no workspace and gets none.
        let held = rank.runtime.memory_report().tier[0].used;
        let arena = Arena::new(&rank.runtime, Tier::Device, BUDGET - held).unwrap();
        let stream = Stream::new(&rank.runtime).unwrap();
        for _ in 0..2 {
            assert_eq!(give(&stream, 7.0).unwrap_err().status, Status::OutOfBudget);
        }
        drop(arena);
        give(&stream, 3.0).unwrap();
        state.end_micro().unwrap();
        // What goes between ranks has its memory already.
        let held = rank.runtime.memory_report().tier[0].used;
        let _arena = Arena::new(&rank.runtime, Tier::Device, BUDGET - held).unwrap();
        let sum = Tensor::new(DType::F32, &[5000]);
        state.read(&rank.stream, 0, Part::Gradient, sum.view()).unwrap();
        assert!(sum.values().iter().all(|x| *x == 8.0));
    });
}

#[test]
fn a_step_without_gradients_after_one_that_was_abandoned_has_none() {
    for stage in STAGES {
        ranks(2, |rank| {
            let run = Run { overlap: true, bucket_bytes: 1024, ..Run::new(stage) };
            let state = sealed(&rank.runtime, &run.desc(&rank.comm));
            initialise(&state, &rank.stream);
            let step = StepDesc { learning_rate: 0.1, ..StepDesc::default() };
            for round in 0..10 {
                state.begin_step().unwrap();
                micro_batch(&state, &rank.stream, round, |p| gradient(round, 0, rank.rank, p));
                state.abandon_step().unwrap();
                state.begin_step().unwrap();
                state.step(&rank.stream, &step).unwrap();
                assert_eq!(result(&state).gradient_norm, 0.0, "{stage:?}");
            }
        });
    }
}

#[test]
fn ranks_that_step_differently_are_told_so() {
    let messages = ranks(2, |rank| {
        let state = sealed(&rank.runtime, &Run::new(Stage::Optimizer).desc(&rank.comm));
        state.begin_step().unwrap();
        let learning_rate = if rank.rank == 0 { 0.25 } else { 0.5 };
        message(state.step(&rank.stream, &StepDesc { learning_rate, ..StepDesc::default() }))
    });
    assert_eq!(messages[0], messages[1]);
    assert!(messages[0].contains("step 0.25") && messages[0].contains("step 0.5"), "{}", messages[0]);
}

#[test]
fn weights_in_use_have_a_memory_of_their_own() {
    ranks(2, |rank| {
        let desc = StateDesc { gather_bytes: 3 * 2048, ..Run::new(Stage::Parameters).desc(&rank.comm) };
        let state = State::new(&rank.runtime, &desc).unwrap();
        state.add_group(&GroupDesc::default()).unwrap();
        for p in 0..6 {
            state.add_parameter(0, &CString::new(format!("w{p}")).unwrap(), &[1000]).unwrap();
        }
        state.seal().unwrap();
        let stream = &rank.stream;
        let value = |p: u32| f64::from(p) + 1.0;
        for p in 0..6 {
            state.write(stream, p, Part::Master, Tensor::new(DType::BF16, &[1000]).fill(|_| value(p)).view()).unwrap();
        }
        let check = |p: u32| {
            let weight = state.acquire(p, stream).unwrap();
            assert!(elements(&weight).iter().all(|x| *x == value(p)), "parameter {p}");
            weight.data()
        };
        for p in [0, 1, 2] {
            check(p);
        }
        let error = state.acquire(3, stream).map(|_| ()).unwrap_err();
        assert_eq!(error.status, Status::OutOfBudget);
        assert!(
            error.message.contains("'w3' need 2000 bytes") && error.message.contains("hold 6144 of 6144"),
            "{error}"
        );
        assert_eq!(check(0), check(0), "what is there stays");
        for p in [0, 0, 0, 1] {
            state.release(p, stream).unwrap();
        }
        // Any order; what is acquired stays where it is.
        for p in [5, 0, 3, 1, 4, 0, 5, 2] {
            check(p);
            assert!(elements(&state.acquire(2, stream).unwrap()).iter().all(|x| *x == 3.0));
            state.release(2, stream).unwrap();
            state.release(p, stream).unwrap();
        }
        state.release(2, stream).unwrap();
    });
}

#[test]
fn a_rank_that_leaves_fails_the_others_soon() {
    let desc = CommDesc { timeout: Duration::from_secs(5), ..CommDesc::default() };
    let barrier = Barrier::new(3);
    for stage in STAGES {
        ranks_with(3, &desc, |rank| {
            let state = sealed(&rank.runtime, &Run::new(stage).desc(&rank.comm));
            initialise(&state, &rank.stream);
            barrier.wait();
            state.begin_step().unwrap();
            if rank.rank == 1 {
                return;
            }
            let begun = std::time::Instant::now();
            state.begin_micro().unwrap();
            let mut outcome = Ok(());
            for p in (0..all_parameters().len()).filter(|p| !frozen(*p)) {
                outcome = outcome.and(state.gradient_ready(&rank.stream, p as u32, gradient(0, 0, 0, p).view(), None));
            }
            let outcome = outcome.and_then(|()| state.end_micro());
            let step = StepDesc { learning_rate: 0.1, ..StepDesc::default() };
            let error = outcome.and_then(|()| state.step(&rank.stream, &step)).unwrap_err();
            assert!(matches!(error.status, Status::CommError | Status::Timeout), "{error}");
            assert!(error.message.contains("has left the group"), "{error}");
            assert!(begun.elapsed() < Duration::from_secs(30));
            drop(state);
        });
    }
}

#[test]
fn bad_descriptions_are_named() {
    ranks(2, |rank| {
        let refused = |desc: StateDesc<'_>| {
            let error = State::new(&rank.runtime, &desc).map(|_| ()).unwrap_err();
            assert_eq!(error.status, Status::InvalidArgument);
            error.message
        };
        let good = Run::new(Stage::Gradients).desc(&rank.comm);
        assert!(refused(StateDesc { bucket_bytes: 1023, ..good }).contains("bucket_bytes: 1023"));
        let at_step = StateDesc { gradient_reduction: GradientReduction::AtStep, ..good };
        assert!(refused(at_step).contains("gradient_reduction"));
        assert!(refused(StateDesc { reduction_dtype: Some(DType::F16), ..good }).contains("reduction_dtype"));
        let late = StateDesc { stage: Stage::Optimizer, reduction_dtype: Some(DType::BF16), ..at_step };
        assert!(refused(late).contains("reduction_dtype"));
        assert!(refused(StateDesc { gradient_dtype: Some(DType::F16), ..good }).contains("gradient_dtype"));
        let other = harness::runtime(1);
        assert!(State::new(&other, &good).map(|_| ()).unwrap_err().message.contains("comm"));
        // A gradient that does not fit a bucket is divided, which takes it to be contiguous.
        let state = sealed(&rank.runtime, &StateDesc { bucket_bytes: 1024, ..good });
        state.begin_step().unwrap();
        state.begin_micro().unwrap();
        let mut wide = Tensor::new(DType::F32, &[40, 102]);
        wide = wide.fill(|_| 1.0);
        let data = wide.view().data();
        // SAFETY: 40 rows of 101 elements inside the tensor.
        let view = unsafe { scalert_runtime::View::new("wide", data, DType::F32, &[40, 101], &[102, 1]) }.unwrap();
        let error = state.gradient_ready(&rank.stream, 8, view, None).unwrap_err();
        assert!(error.message.contains("contiguous"), "{error}");
        let frozen = state.gradient_ready(&rank.stream, 7, Tensor::new(DType::F32, &shape_of(7)).view(), None);
        assert!(message(frozen).contains("'layer.7' is frozen"));
        assert!(numel(0) > 0 && shape(0) == shape_of(0));
    });
}
