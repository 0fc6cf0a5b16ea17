//! Master weights rounded into weights: the reference's bits, and those of an optimizer's step of length zero.

use crate::harness::*;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::optimizer::Master;
use scalert_kernels::ops::sgd::Sgd;
use scalert_kernels::ops::write_back::{WriteBack, reference};

#[test]
fn has_the_bits_of_the_reference_and_of_the_optimizers() {
    let mut rng = Rng(5);
    for dtype in DType::FLOATS {
        for (shape, padding, offset) in [
            (&[][..], 0, 1),
            (&[1], 0, 0),
            (&[4, 0], 0, 0),
            (&[5, 33], 3, 1),
            (&[2, 2, 3, 2, 17], 1, 1),
            (&[50_003], 0, 3),
            (&[3, 20_001], 1, 0),
        ] {
            // Half of the elements are ties between two bf16 or f16, with a last bit of either parity.
            let master = Tensor::with_layout(DType::F32, shape, padding, offset).fill(|i| match i % 4 {
                0 => f64::from(f32::from_bits(((rng.normal() as f32).to_bits() & 0xffff_0000) | 0x8000)),
                1 => f64::from(f32::from_bits(((rng.normal() as f32).to_bits() & 0xffff_e000) | 0x1000)),
                2 => hostile(&mut rng),
                _ => rng.normal() * 2f64.powi(rng.below(200) as i32 - 140),
            });
            let values = master.values();
            let expected = Tensor::new(dtype, shape).fill(|i| reference::write_back(values[i], dtype));
            let outputs = run_identically(|level, threads| {
                let weight = Tensor::with_layout(dtype, shape, 2, 1);
                run_with(&WriteBack { master: master.view(), weight: weight.view() }, level, threads);
                vec![weight]
            });
            assert_same(&format!("{dtype} {shape:?}"), &outputs[0], &expected);

            let (gradient, copy) = (Tensor::new(DType::F32, shape).fill(|_| 0.0), master.clone());
            let stepped = Tensor::new(dtype, shape);
            let step = Sgd {
                gradient: gradient.view(),
                gradient_scale: 1.0,
                learning_rate: 0.0,
                momentum: 0.0,
                dampening: 0.0,
                nesterov: false,
                weight_decay: 0.0,
                first_step: true,
                master: Master::F32 { master: copy.view(), weight: Some(stepped.view()) },
                momentum_buffer: None,
                random: None,
                control: None,
            };
            run_with(&step, levels()[0], 1);
            for i in 0..stepped.numel() {
                let (got, want) = (outputs[0].get(i), stepped.get(i));
                assert!(got == want || (got.is_nan() && want.is_nan()), "{dtype} {i}: {got:e}, stepped {want:e}");
            }
        }
    }
}

#[test]
fn refuses_bad_arguments() {
    let (f32s, f16s, i32s) = (DType::F32, DType::F16, DType::I32);
    let tensor = |dtype| Tensor::new(dtype, &[2, 3]);
    let (master, weight, half, integers) = (tensor(f32s), tensor(DType::BF16), tensor(f16s), tensor(i32s));
    let other = Tensor::new(DType::BF16, &[3, 2]);
    let refused = |master: &Tensor, weight: &Tensor| {
        WriteBack { master: master.view(), weight: weight.view() }.check().unwrap_err().argument
    };
    assert_eq!(refused(&half, &weight), "master");
    assert_eq!(refused(&master, &integers), "weight");
    assert_eq!(refused(&master, &other), "weight");
    assert_eq!(refused(&master, &master), "weight");
}
