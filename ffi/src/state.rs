//! The training state.

use crate::argument::{Argument, boolean, enumeration};
use crate::argument::{Doomed, Enum, In, Live, Many, Optional, Out, OutHandle, OutStruct, Text};
use crate::handle::{Handle, Kind};
use crate::layout::CStruct;
use crate::runtime::Memory;
use crate::tensor::{Tensor, TensorView, shape_arguments};
use scalert_runtime::comm::Comm;
use scalert_runtime::optim::Optimizer;
use scalert_runtime::{
    DType, Error, Event, GradientReduction, GroupDesc, MAX_DIMS, MasterFormat, MomentFormat, Part, Runtime, Scaler,
    Stage, State, StateDesc, StepDesc, StepResult, Stream,
};
use std::ffi::c_char;

/// `SCALERT_NONE`.
pub const NONE: u32 = u32::MAX;

c_enum! {
    Optimizer as "scalert_optimizer_t" {
        SCALERT_OPTIMIZER_ADAMW = 0 => Optimizer::AdamW,
        SCALERT_OPTIMIZER_SGD = 1 => Optimizer::Sgd,
        SCALERT_OPTIMIZER_LION = 2 => Optimizer::Lion,
    }
}

c_enum! {
    MasterFormat as "scalert_master_format_t" {
        SCALERT_MASTER_F32 = 0 => MasterFormat::F32,
        SCALERT_MASTER_SPLIT16 = 1 => MasterFormat::Split16,
        SCALERT_MASTER_NONE = 2 => MasterFormat::None,
    }
}

c_enum! {
    MomentFormat as "scalert_moment_format_t" {
        SCALERT_MOMENTS_F32 = 0 => MomentFormat::F32,
        SCALERT_MOMENTS_BF16 = 1 => MomentFormat::Bf16,
        SCALERT_MOMENTS_INT8 = 2 => MomentFormat::Int8,
    }
}

c_enum! {
    Stage as "scalert_stage_t" {
        SCALERT_STAGE_REPLICATED = 0 => Stage::Replicated,
        SCALERT_STAGE_OPTIMIZER = 1 => Stage::Optimizer,
        SCALERT_STAGE_GRADIENTS = 2 => Stage::Gradients,
        SCALERT_STAGE_PARAMETERS = 3 => Stage::Parameters,
    }
}

c_enum! {
    GradientReduction as "scalert_gradient_reduction_t" {
        SCALERT_GRADIENT_REDUCTION_AUTO = 0 => GradientReduction::Auto,
        SCALERT_GRADIENT_REDUCTION_EACH_MICRO = 1 => GradientReduction::EachMicro,
        SCALERT_GRADIENT_REDUCTION_AT_STEP = 2 => GradientReduction::AtStep,
    }
}

c_enum! {
    Part as "scalert_part_t" {
        SCALERT_PART_MASTER = 0 => Part::Master,
        SCALERT_PART_MOMENT1 = 1 => Part::Moment1,
        SCALERT_PART_MOMENT2 = 2 => Part::Moment2,
        SCALERT_PART_GRADIENT = 3 => Part::Gradient,
    }
}

c_struct! {
    Desc as "scalert_state_desc_t" {
        struct_size: usize,
        gradient_dtype: i32,
        comm: *const Handle<Comm>,
        bucket_bytes: u64,
        gather_bytes: u64,
        stage: i32,
        gradient_reduction: i32,
        reduction_dtype: i32,
        overlap: u8,
    }
}

c_struct! {
    Group as "scalert_group_desc_t" {
        struct_size: usize,
        optimizer: i32,
        weight_dtype: i32,
        learning_rate_scale: f32,
        beta1: f32,
        beta2: f32,
        epsilon: f32,
        weight_decay: f32,
        momentum: f32,
        nesterov: u8,
        seed: u64,
        master: i32,
        moments: i32,
        frozen: u8,
    }
}

c_struct! {
    ParameterInfo as "scalert_parameter_info_t" {
        struct_size: usize,
        name: *const c_char,
        group: u32,
        dtype: i32,
        ndim: i32,
        shape: [i64; MAX_DIMS],
    }
}

c_struct! {
    Step as "scalert_step_desc_t" {
        struct_size: usize,
        learning_rate: f32,
        max_norm: f32,
        gradient_scale: f32,
        loss_scale: f32,
        scaler: *const Handle<Scaler>,
    }
}

c_struct! {
    Figures as "scalert_step_result_t" {
        struct_size: usize,
        step: u64,
        gradient_norm: f64,
        clip_factor: f64,
        loss_scale: f32,
        skipped: u8,
        overflow_parameter: u32,
        overflow_rank: u32,
        overflow_micro: u32,
    }
}

impl Kind for State {
    const MAGIC: u64 = u64::from_le_bytes(*b"rtSTATE.");
    const NAME: &'static str = "state";
}

/// A dtype field whose 0 stands for a default.
fn dtype_or_default(name: &str, raw: i32) -> Result<Option<DType>, Error> {
    if raw == 0 { Ok(None) } else { enumeration(name, raw).map(Some) }
}

fn figures(result: StepResult) -> Figures {
    Figures {
        struct_size: 0,
        step: result.step,
        gradient_norm: result.gradient_norm,
        clip_factor: result.clip_factor,
        loss_scale: result.loss_scale,
        skipped: result.skipped as u8,
        overflow_parameter: result.overflow_parameter.unwrap_or(NONE),
        overflow_rank: result.overflow_rank.unwrap_or(NONE),
        overflow_micro: result.overflow_micro.unwrap_or(NONE),
    }
}

export! {
    /// Creates an empty state.
    fn scalert_state_create(runtime: Live<Runtime>, desc: In<Desc>, out: OutHandle<State>) {
        // SAFETY: the header asks the caller for a live communicator, or NULL.
        let comm = unsafe { Optional::<Live<Comm>>::accept("comm", desc.comm)? };
        let desc = StateDesc {
            gradient_dtype: dtype_or_default("gradient_dtype", desc.gradient_dtype)?,
            comm,
            stage: enumeration("stage", desc.stage)?,
            gradient_reduction: enumeration("gradient_reduction", desc.gradient_reduction)?,
            reduction_dtype: dtype_or_default("reduction_dtype", desc.reduction_dtype)?,
            bucket_bytes: desc.bucket_bytes,
            gather_bytes: desc.gather_bytes,
            overlap: boolean("overlap", desc.overlap)?,
        };
        out.give(State::new(runtime, &desc)?);
        Ok(())
    }

    /// Drops a state.
    fn scalert_state_destroy(state: Doomed<State>) -> (), else (); {
        drop(state);
        Ok(())
    }

    /// Adds a group.
    fn scalert_state_add_group(state: Live<State>, desc: In<Group>, group: Out<u32>) {
        group.write(state.add_group(&GroupDesc {
            optimizer: enumeration("optimizer", desc.optimizer)?,
            weight_dtype: dtype_or_default("weight_dtype", desc.weight_dtype)?,
            learning_rate_scale: desc.learning_rate_scale,
            beta1: desc.beta1,
            beta2: desc.beta2,
            epsilon: desc.epsilon,
            weight_decay: desc.weight_decay,
            momentum: desc.momentum,
            nesterov: boolean("nesterov", desc.nesterov)?,
            master: enumeration("master", desc.master)?,
            moments: enumeration("moments", desc.moments)?,
            seed: desc.seed,
            frozen: boolean("frozen", desc.frozen)?,
        })?);
        Ok(())
    }

    /// Adds a parameter.
    fn scalert_state_add_parameter(
        state: Live<State>,
        group: u32,
        name: Text,
        ndim: i32,
        shape: Many<i64>,
        parameter: Out<u32>,
    ) {
        parameter.write(state.add_parameter(group, name, shape_arguments(ndim, shape)?)?);
        Ok(())
    }

    /// Bytes that the state takes.
    fn scalert_state_memory(state: Live<State>, out: OutStruct<Memory>) {
        out.write(state.memory()?.into());
        Ok(())
    }

    /// Fixes the layout and allocates.
    fn scalert_state_seal(state: Live<State>) {
        state.seal()
    }

    /// Number of parameters.
    fn scalert_state_parameter_count(state: Live<State>, count: Out<u32>) {
        count.write(state.parameter_count()?);
        Ok(())
    }

    /// What a parameter is.
    fn scalert_state_parameter_info(state: Live<State>, parameter: u32, out: OutStruct<ParameterInfo>) {
        let info = state.parameter_info(parameter)?;
        let mut c = ParameterInfo {
            name: info.name.as_ptr(),
            group: info.group,
            dtype: info.dtype as i32,
            ndim: info.shape.len() as i32,
            ..ParameterInfo::zeroed()
        };
        for (to, from) in c.shape.iter_mut().zip(&info.shape) {
            *to = *from as i64;
        }
        out.write(c);
        Ok(())
    }

    /// Copies a part of a parameter out.
    fn scalert_state_read(
        state: Live<State>,
        stream: Live<Stream>,
        parameter: u32,
        part: Enum<Part>,
        destination: TensorView,
    ) {
        state.runtime().expect_reachable("destination", &destination)?;
        state.read(stream, parameter, part, destination)
    }

    /// Copies a part of a parameter in.
    fn scalert_state_write(
        state: Live<State>,
        stream: Live<Stream>,
        parameter: u32,
        part: Enum<Part>,
        source: TensorView,
    ) {
        state.runtime().expect_reachable("source", &source)?;
        state.write(stream, parameter, part, source)
    }

    /// Sets the number of steps taken.
    fn scalert_state_set_step(state: Live<State>, step: u64) {
        state.set_step(step)
    }

    /// The current weights of a parameter.
    fn scalert_state_acquire(state: Live<State>, parameter: u32, stream: Live<Stream>, weight: Out<Tensor>) {
        weight.write(Tensor::from(&state.acquire(parameter, stream)?));
        Ok(())
    }

    /// Gives an acquisition back.
    fn scalert_state_release(state: Live<State>, parameter: u32, stream: Live<Stream>) {
        state.release(parameter, stream)
    }

    /// Begins a step.
    fn scalert_state_begin_step(state: Live<State>) {
        state.begin_step()
    }

    /// Begins a micro-batch.
    fn scalert_state_begin_micro(state: Live<State>) {
        state.begin_micro()
    }

    /// Takes the gradient of one parameter.
    fn scalert_state_gradient_ready(
        state: Live<State>,
        stream: Live<Stream>,
        parameter: u32,
        gradient: TensorView,
        consumed: Optional<Live<Event>>,
    ) {
        state.runtime().expect_reachable("gradient", &gradient)?;
        state.gradient_ready(stream, parameter, gradient, consumed)
    }

    /// Ends a micro-batch.
    fn scalert_state_end_micro(state: Live<State>) {
        state.end_micro()
    }

    /// Updates all parameters.
    fn scalert_state_step(state: Live<State>, stream: Live<Stream>, desc: In<Step>) {
        // SAFETY: the header asks the caller for a live scaler, or NULL.
        let scaler = unsafe { Optional::<Live<Scaler>>::accept("scaler", desc.scaler)? };
        state.step(
            stream,
            &StepDesc {
                learning_rate: desc.learning_rate,
                max_norm: desc.max_norm,
                gradient_scale: desc.gradient_scale,
                loss_scale: desc.loss_scale,
                scaler,
            },
        )
    }

    /// Drops a begun step.
    fn scalert_state_abandon_step(state: Live<State>) {
        state.abandon_step()
    }

    /// The figures of the last step.
    fn scalert_state_step_result_wait(state: Live<State>, out: OutStruct<Figures>) {
        let (result, verdict) = state.step_result_wait()?;
        out.write(figures(result));
        verdict
    }
}
