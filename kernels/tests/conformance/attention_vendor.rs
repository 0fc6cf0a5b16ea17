//! Attention by cuDNN, or on a machine without a GPU by its stand-in: what is asked of it, and when this library's
//! kernels run instead.

use crate::attention::{Case, part, sizes};
use crate::cudnn::{EXECUTED, MOST_WIDTH};
use crate::device::{Cuda, cuda_with_cudnn};
use crate::harness::{Rng, Tensor};
use scalert_kernels::backend::cuda::{Gpu, Handle};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::attention::reference::Attention;
use scalert_kernels::ops::attention::{AttentionBackward, AttentionForward, Implementation};
use std::sync::atomic::Ordering;

/// Runs and checks a case whose forward pass cuDNN takes, and whose backward pass it does not.
fn check(cuda: &Cuda, case: &Case) {
    let what = format!("{:?}", case.sizes);
    let outputs = case.outputs(
        |forward| {
            forward.check().unwrap();
            assert_eq!(forward.implementation_on(cuda.device()).unwrap(), "cuDNN", "{what}");
            let before = EXECUTED.load(Ordering::Relaxed);
            cuda.run(forward);
            assert!(!cuda.emulated || EXECUTED.load(Ordering::Relaxed) > before, "{what}");
        },
        |backward| {
            assert_eq!(backward.implementation_on(cuda.device()).unwrap(), "own mma", "{what}");
            cuda.run(backward);
        },
    );
    outputs.iter().for_each(|output| output.assert_guards(&what));
    case.check_outputs(vec![(what, outputs)]);
}

fn case(sizes: Attention, dtype: DType, rng: &mut Rng) -> Case {
    let mut case = Case::new(sizes, dtype, 0, rng).align();
    case.implementation = Implementation::Vendor;
    case
}

#[test]
fn its_results_are_those_of_the_contract() {
    let Some(cuda) = cuda_with_cudnn() else { return };
    let mut rng = Rng(31);
    for dtype in [DType::BF16, DType::F16] {
        for causal in [false, true] {
            for (t, s) in [(1, 1), (1, 70), (2, 3), (17, 17), (65, 65), (63, 130)] {
                check(cuda, &case(sizes(1, t, s, 2, 1, 24, causal), dtype, &mut rng));
            }
            check(cuda, &case(sizes(2, 30, 41, 4, 2, 64, causal), dtype, &mut rng));
            check(cuda, &case(sizes(3, 9, 9, 6, 1, 128, causal), dtype, &mut rng));
        }
        check(cuda, &case(sizes(1, 40, 10, 3, 3, 32, false), dtype, &mut rng));
        for scale in [0.5, -0.25] {
            check(cuda, &case(Attention { scale, ..sizes(1, 33, 33, 2, 2, 16, true) }, dtype, &mut rng));
        }
    }
}

#[test]
fn it_is_the_first_choice() {
    let Some(cuda) = cuda_with_cudnn() else { return };
    let auto = Case::new(sizes(1, 20, 20, 2, 2, 32, true), DType::BF16, 0, &mut Rng(32)).align();
    assert_eq!(auto.implementation, Implementation::Auto);
    check(cuda, &auto);
}

#[test]
fn parts_of_packed_tensors_and_no_statistics() {
    let Some(cuda) = cuda_with_cudnn() else { return };
    let a = sizes(2, 19, 19, 2, 2, 24, true);
    let packed = Tensor::new(DType::BF16, &[a.b, a.t, 3, a.hq, a.d]).normal(&mut Rng(33), 1.0);
    let [q, k, v] = [0, 1, 2].map(|which| part(&packed, which, &a));
    let out = [Implementation::Vendor, Implementation::Own].map(|implementation| {
        let out = Tensor::new(DType::BF16, &[a.b, a.t, a.hq, a.d]);
        let (causal, scale) = (a.causal, 0.0);
        let op = AttentionForward { q, k, v, causal, scale, out: out.view(), log_sum_exp: None, implementation };
        cuda.run(&op);
        out
    });
    for (i, (vendor, own)) in out[0].values().into_iter().zip(out[1].values()).enumerate() {
        assert!((vendor - own).abs() <= 0.02 * own.abs().max(1.0), "element {i}: {vendor} and {own}");
    }
}

/// Requires that a forward pass is refused by cuDNN for a reason, and that it runs on the kernels named `own` unless
/// cuDNN is insisted upon.
fn refused(cuda: &Cuda, op: &AttentionForward<'_>, own: &str, reason: &str) {
    let auto = AttentionForward { implementation: Implementation::Auto, ..*op };
    assert_eq!(auto.implementation_on(cuda.device()).unwrap(), own, "{reason}");
    let vendor = AttentionForward { implementation: Implementation::Vendor, ..*op };
    let error = vendor.implementation_on(cuda.device()).unwrap_err();
    assert!(error.to_string().contains(reason), "{error}, expected {reason}");
    // SAFETY: the stream is the driver's own; nothing is enqueued, so the workspace is not used.
    let gpu = unsafe { Gpu::new(cuda.device(), 2 as Handle, 0, usize::MAX) };
    assert_eq!(vendor.cuda(&gpu).unwrap_err(), error, "{reason}");
}

#[test]
fn what_it_refuses_runs_on_the_own_kernels() {
    let Some(cuda) = cuda_with_cudnn() else { return };
    let mut rng = Rng(34);
    let mut refuse = |sizes: Attention, dtype: DType, align: bool, own: &str, reason: &str| {
        let case = Case::new(sizes, dtype, 0, &mut rng);
        let case = if align { case.align() } else { case };
        let [b, t, h, d] = [sizes.b, sizes.t, sizes.hq, sizes.d];
        let out = Tensor::new(dtype, &[b, t, h, d]);
        refused(cuda, &case.forward(&out, None), own, reason);
    };
    refuse(sizes(1, 8, 8, 2, 1, 32, true), DType::F32, true, "own simt", "f32");
    refuse(sizes(1, 8, 8, 2, 1, 32, true), DType::BF16, false, "own mma", "q to be aligned to 16 bytes");
    refuse(sizes(1, 8, 0, 2, 1, 32, false), DType::BF16, true, "own mma", "at least one key");
    if cuda.emulated {
        refuse(
            sizes(1, 8, 8, 2, 1, MOST_WIDTH + 8, true),
            DType::BF16,
            true,
            "own mma",
            "no engine for this attention",
        );
    }
    let aligned = Case::new(sizes(1, 8, 8, 2, 1, 32, true), DType::F16, 0, &mut rng).align();
    let out = Tensor::new(DType::F16, &[1, 8, 2, 32]);
    let odd = Tensor::with_layout(DType::F16, &[1, 8, 2, 32], 4, 0);
    refused(cuda, &aligned.forward(&odd, None), "own mma", "rows of out");
    let statistics = Tensor::with_layout(DType::F32, &[1, 2, 8], 0, 1);
    refused(cuda, &aligned.forward(&out, Some(&statistics)), "own mma", "log_sum_exp");
    let own = AttentionForward { implementation: Implementation::Own, ..aligned.forward(&out, None) };
    assert_eq!(own.implementation_on(cuda.device()).unwrap(), "own mma");
    assert_eq!(own.cuda_workspace(cuda.properties()), 0);
}

#[test]
fn its_backward_pass_is_not_used() {
    let Some(cuda) = cuda_with_cudnn() else { return };
    let case = Case::new(sizes(1, 8, 8, 1, 1, 16, true), DType::BF16, 0, &mut Rng(35)).align();
    case.outputs(
        |forward| cuda.run(forward),
        |backward| {
            let vendor = AttentionBackward { implementation: Implementation::Vendor, ..*backward };
            let error = vendor.implementation_on(cuda.device()).unwrap_err();
            assert!(error.to_string().contains("sums dq in no fixed order"), "{error}");
        },
    );
}

#[test]
fn without_the_library_only_its_users_are_refused() {
    let Some(plain) = crate::device::cuda().filter(|cuda| cuda.emulated) else { return };
    let case = Case::new(sizes(1, 8, 8, 1, 1, 16, true), DType::BF16, 0, &mut Rng(36)).align();
    let out = Tensor::new(DType::BF16, &[1, 8, 1, 16]);
    let op = case.forward(&out, None);
    refused(plain, &op, "own mma", "an emulated device has no cuDNN");
    // No workspace is asked for in its name.
    let vendor = AttentionForward { implementation: Implementation::Vendor, ..op };
    assert_eq!(vendor.cuda_workspace(plain.properties()), 0);
}
