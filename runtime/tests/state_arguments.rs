//! What a state refuses, by the name of the argument.

mod harness;

use harness::small_state::{PARAMETERS, sealed, shape};
use harness::{Tensor, runtime};
use scalert_runtime::optim::Optimizer;
use scalert_runtime::{DType, GroupDesc, Part, Scaler, ScalerDesc, State, StateDesc, Status, StepDesc, Stream};

#[test]
fn bad_arguments_are_named_and_change_nothing() {
    let runtime = runtime(1);
    let (state, stream) = (sealed(&runtime), Stream::new(&runtime).unwrap());
    let foreign = self::runtime(1);
    let (other_stream, other_scaler) =
        (Stream::new(&foreign).unwrap(), Scaler::new(&foreign, &ScalerDesc::default()).unwrap());
    let scaler = Scaler::new(&runtime, &ScalerDesc::default()).unwrap();
    let refused = |outcome: scalert_runtime::Result<()>, argument: &str| {
        let error = outcome.expect_err(argument);
        assert_eq!(error.status, Status::InvalidArgument, "{error}");
        assert!(error.message.starts_with(&format!("{argument}: ")), "{argument}: {error}");
    };
    let (wrong, right) = (Tensor::new(DType::F32, &[7, 11]), Tensor::new(DType::F32, &[11, 7]));
    let (half, integers) = (Tensor::new(DType::F16, &[11, 7]), Tensor::new(DType::I32, &[11, 7]));
    refused(state.read(&stream, 7, Part::Master, right.view()), "parameter");
    refused(state.read(&stream, 0, Part::Master, wrong.view()), "destination");
    refused(state.read(&stream, 0, Part::Master, half.view()), "destination");
    refused(state.read(&stream, 4, Part::Moment1, right.view()), "part");
    refused(state.read(&stream, 2, Part::Moment2, right.view()), "part");
    refused(state.read(&other_stream, 0, Part::Master, right.view()), "stream");
    refused(state.write(&stream, 0, Part::Gradient, right.view()), "part");
    refused(state.write(&stream, 0, Part::Master, wrong.view()), "source");
    refused(state.write(&stream, 0, Part::Master, integers.view()), "source");
    refused(state.acquire(9, &stream).map(|_| ()), "parameter");
    refused(state.acquire(0, &other_stream).map(|_| ()), "stream");
    state.begin_step().unwrap();
    state.begin_micro().unwrap();
    refused(state.gradient_ready(&stream, 0, wrong.view(), None), "gradient");
    refused(state.gradient_ready(&stream, 0, integers.view(), None), "gradient");
    refused(state.gradient_ready(&stream, 100, right.view(), None), "parameter");
    refused(state.gradient_ready(&other_stream, 0, right.view(), None), "stream");
    for p in 0..PARAMETERS.len() {
        state.gradient_ready(&stream, p as u32, Tensor::new(DType::F32, &shape(p)).view(), None).unwrap();
    }
    state.end_micro().unwrap();
    let zero = StepDesc::default();
    for (desc, argument) in [
        (StepDesc { learning_rate: -1.0, ..zero }, "learning_rate"),
        (StepDesc { learning_rate: f32::NAN, ..zero }, "learning_rate"),
        (StepDesc { max_norm: -1.0, ..zero }, "max_norm"),
        (StepDesc { max_norm: f32::INFINITY, ..zero }, "max_norm"),
        (StepDesc { gradient_scale: f32::NAN, ..zero }, "gradient_scale"),
        (StepDesc { gradient_scale: 1e30, loss_scale: 1e-30, ..zero }, "gradient_scale"),
        (StepDesc { gradient_scale: 1e-30, loss_scale: 1e30, ..zero }, "gradient_scale"),
        (StepDesc { loss_scale: -2.0, ..zero }, "loss_scale"),
        (StepDesc { loss_scale: 2.0, scaler: Some(&scaler), ..zero }, "loss_scale"),
        (StepDesc { scaler: Some(&other_scaler), ..zero }, "scaler"),
    ] {
        refused(state.step(&stream, &desc), argument);
    }
    refused(state.step(&other_stream, &zero), "stream");
    state.step(&stream, &zero).unwrap();

    let building =
        State::new(&runtime, &StateDesc { gradient_dtype: Some(DType::F32), ..StateDesc::default() }).unwrap();
    refused(
        State::new(&runtime, &StateDesc { gradient_dtype: Some(DType::F16), ..StateDesc::default() }).map(|_| ()),
        "gradient_dtype",
    );
    let zero = GroupDesc::default();
    for (desc, argument) in [
        (GroupDesc { weight_dtype: Some(DType::I32), ..zero }, "weight_dtype"),
        (GroupDesc { learning_rate_scale: -1.0, ..zero }, "learning_rate_scale"),
        (GroupDesc { beta1: 1.0, ..zero }, "beta1"),
        (GroupDesc { beta2: -0.1, ..zero }, "beta2"),
        (GroupDesc { epsilon: -1e-8, ..zero }, "epsilon"),
        (GroupDesc { weight_decay: f32::NAN, ..zero }, "weight_decay"),
        (GroupDesc { optimizer: Optimizer::Sgd, momentum: -0.5, ..zero }, "momentum"),
        (GroupDesc { optimizer: Optimizer::Sgd, nesterov: true, ..zero }, "nesterov"),
        (GroupDesc { optimizer: Optimizer::Lion, beta2: 1.5, ..zero }, "beta2"),
    ] {
        refused(building.add_group(&desc).map(|_| ()), argument);
    }
    refused(building.add_parameter(0, c"a", &[1]).map(|_| ()), "group");
    assert_eq!(building.add_group(&zero).unwrap(), 0);
    refused(building.add_parameter(0, c"", &[1]).map(|_| ()), "name");
    refused(building.add_parameter(0, c"\xff", &[1]).map(|_| ()), "name");
    refused(building.add_parameter(0, c"a", &[1; 6]).map(|_| ()), "ndim");
    refused(building.add_parameter(0, c"a", &[-1]).map(|_| ()), "shape");
    refused(building.add_parameter(0, c"a", &[i64::MAX, 2]).map(|_| ()), "shape");
    assert_eq!(building.add_parameter(0, c"a", &[4, 2]).unwrap(), 0);
    refused(building.add_parameter(0, c"a", &[1]).map(|_| ()), "name");
    assert_eq!(building.parameter_count().unwrap(), 1);
    let info = building.parameter_info(0).unwrap();
    assert_eq!((info.name.as_ref(), info.group, info.dtype, info.shape), (c"a", 0, DType::BF16, vec![4, 2]));
    refused(building.parameter_info(1).map(|_| ()), "parameter");
}

#[test]
fn a_refused_step_takes_no_workspace() {
    let runtime = runtime(2);
    let state = State::new(&runtime, &StateDesc::default()).unwrap();
    for learning_rate_scale in [1.0, 1e30] {
        let group = state.add_group(&GroupDesc { learning_rate_scale, ..Default::default() }).unwrap();
        state.add_parameter(group, &std::ffi::CString::new(format!("p{group}")).unwrap(), &[3]).unwrap();
    }
    state.seal().unwrap();
    state.begin_step().unwrap();
    let stream = Stream::new(&runtime).unwrap();
    let before = runtime.memory_report();
    let error = state.step(&stream, &StepDesc { learning_rate: 1e30, ..Default::default() }).unwrap_err();
    assert_eq!(error.status, Status::InvalidArgument);
    assert!(error.message.contains("learning_rate: inf"), "{error}");
    assert_eq!(runtime.memory_report(), before);
    state.step(&stream, &StepDesc { learning_rate: 1.0, ..Default::default() }).unwrap();
}
