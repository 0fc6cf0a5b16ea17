//! Products whose operands a device reads in whole pieces, in large and small tiles and in parts of k.

use crate::gemm::{Case, TRANSPOSES};
use crate::harness::{Rng, Tensor, run_with, targets};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::gemm::{Activation, Gemm, Implementation};

/// More tiles of 128 by 128 than the emulated device has multiprocessors, with some left over on each side.
const LARGE: [usize; 3] = [260, 269, 74];

#[test]
fn large_tiles_of_aligned_operands() {
    let mut rng = Rng(1);
    for transposes in TRANSPOSES {
        for (dtype, c_dtype) in [(DType::F32, DType::F32), (DType::BF16, DType::BF16), (DType::F16, DType::F32)] {
            let mut case = Case::aligned(&mut rng, LARGE, transposes, dtype, c_dtype);
            case.implementation = Implementation::Own;
            case.check("aligned");
        }
    }
}

#[test]
fn parts_of_k_and_what_follows_them() {
    let mut rng = Rng(2);
    for transposes in TRANSPOSES {
        for (dtype, c_dtype) in [(DType::F32, DType::F32), (DType::BF16, DType::F32), (DType::F16, DType::F16)] {
            let dims @ [m, n, _] = [20, 71, 1601];
            let mut case = Case::aligned(&mut rng, dims, transposes, dtype, c_dtype);
            (case.alpha, case.beta, case.activation) = (0.25, -0.5, Activation::GeluTanh);
            case.c = Tensor::with_layout(c_dtype, &[m, n], 1, 0).normal(&mut rng, 1.0);
            case.pre_activation = Some(Tensor::with_layout(c_dtype, &[m, n], 1, 0));
            case.bias = Some(Tensor::new(dtype, &[n]).normal(&mut rng, 1.0));
            case.implementation = Implementation::Own;
            case.check("parts");
        }
    }
}

#[test]
fn tiles_of_any_size_give_the_same_bits() {
    let mut rng = Rng(3);
    let [_, n, k] = LARGE;
    for dtype in DType::FLOATS {
        let mut case = Case::aligned(&mut rng, LARGE, [false, true], dtype, DType::F32);
        case.implementation = Implementation::Own;
        for target in targets() {
            let all = case.run_by(|op| run_with(op, target, 1)).remove(0).bits();
            for row in [0, 130, 259] {
                let a = Tensor::new(dtype, &[1, k]).fill(|i| case.a.get(row * k + i));
                let c = Tensor::new(DType::F32, &[1, n]);
                let op = Gemm {
                    implementation: case.implementation,
                    ..Gemm::new(false, true, a.view(), case.b.view(), c.view())
                };
                run_with(&op, target, 1);
                assert!(c.bits() == all[row * n..][..n], "{dtype} {} row {row}", target.name());
            }
        }
    }
}
