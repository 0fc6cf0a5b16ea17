//! A sealed state of seven small parameters in four groups, one of each optimizer and weight dtype.

use scalert_runtime::optim::Optimizer;
use scalert_runtime::{DType, GroupDesc, Runtime, State, StateDesc};

pub fn groups() -> [GroupDesc; 4] {
    let zero = GroupDesc::default();
    [
        GroupDesc { weight_decay: 0.1, beta2: 0.95, ..zero },
        GroupDesc {
            optimizer: Optimizer::Sgd,
            momentum: 0.9,
            nesterov: true,
            weight_decay: 0.01,
            weight_dtype: Some(DType::F32),
            learning_rate_scale: 0.5,
            ..zero
        },
        GroupDesc {
            optimizer: Optimizer::Lion,
            weight_decay: 0.2,
            weight_dtype: Some(DType::F16),
            learning_rate_scale: 0.25,
            ..zero
        },
        GroupDesc { optimizer: Optimizer::Sgd, ..zero },
    ]
}

/// Group and shape of each parameter; the groups alternate.
pub const PARAMETERS: [(u32, &[i64]); 7] =
    [(0, &[11, 7]), (1, &[5]), (2, &[300]), (0, &[]), (3, &[2, 2]), (1, &[0]), (0, &[257])];

pub fn shape(p: usize) -> Vec<usize> {
    PARAMETERS[p].1.iter().map(|n| *n as usize).collect()
}

pub fn numel(p: usize) -> usize {
    shape(p).iter().product()
}

pub fn sealed(runtime: &Runtime) -> State {
    let state = State::new(runtime, &StateDesc::default()).unwrap();
    groups().iter().for_each(|desc| {
        state.add_group(desc).unwrap();
    });
    for (p, (group, shape)) in PARAMETERS.iter().enumerate() {
        let name = std::ffi::CString::new(format!("layer.{p}")).unwrap();
        state.add_parameter(*group, &name, shape).unwrap();
    }
    state.seal().unwrap();
    state
}
