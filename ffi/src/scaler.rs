//! The loss scaler.

use crate::argument::{Doomed, In, Live, Out, OutHandle, OutStruct};
use crate::handle::Kind;
use crate::layout::CStruct;
use crate::tensor::{Tensor, TensorView};
use scalert_runtime::{Runtime, Scaler, ScalerDesc, Stream};

c_struct! {
    Desc as "scalert_scaler_desc_t" {
        struct_size: usize,
        initial_scale: f32,
        growth_factor: f32,
        backoff_factor: f32,
        minimum: f32,
        maximum: f32,
        growth_interval: u32,
        hysteresis: u32,
    }
}

c_struct! {
    Report as "scalert_scaler_report_t" {
        struct_size: usize,
        scale: f32,
        overflows: u64,
        finite_steps: u32,
        collapsed: u8,
    }
}

impl Kind for Scaler {
    const MAGIC: u64 = u64::from_le_bytes(*b"rtSCALER");
    const NAME: &'static str = "scaler";
}

export! {
    /// Creates a scaler.
    fn scalert_scaler_create(runtime: Live<Runtime>, desc: In<Desc>, out: OutHandle<Scaler>) {
        out.give(Scaler::new(
            runtime,
            &ScalerDesc {
                initial_scale: desc.initial_scale,
                growth_factor: desc.growth_factor,
                backoff_factor: desc.backoff_factor,
                minimum: desc.minimum,
                maximum: desc.maximum,
                growth_interval: desc.growth_interval,
                hysteresis: desc.hysteresis,
            },
        )?);
        Ok(())
    }

    /// Drops a scaler.
    fn scalert_scaler_destroy(scaler: Doomed<Scaler>) -> (), else (); {
        drop(scaler);
        Ok(())
    }

    /// A view of the current scale.
    fn scalert_scaler_scale(scaler: Live<Scaler>, scale: Out<Tensor>) {
        scale.write(Tensor::from(&scaler.scale()));
        Ok(())
    }

    /// Updates the scale after a step.
    fn scalert_scaler_update(scaler: Live<Scaler>, stream: Live<Stream>, nonfinite: TensorView) {
        scaler.runtime().expect_reachable("nonfinite", &nonfinite)?;
        scaler.update(stream, nonfinite)
    }

    /// What the scaler has come to.
    fn scalert_scaler_read_wait(scaler: Live<Scaler>, out: OutStruct<Report>) {
        let report = scaler.read_wait()?;
        out.write(Report {
            scale: report.scale,
            overflows: report.overflows,
            finite_steps: report.finite_steps,
            collapsed: report.collapsed as u8,
            ..Report::zeroed()
        });
        Ok(())
    }
}
