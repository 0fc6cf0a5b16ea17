//! The questions that views answer about memory, against the sets of bytes of their elements.

use crate::harness::Rng;
use scalert_kernels::dtype::DType;
use scalert_kernels::view::View;
use std::collections::HashSet;

/// A view at element `at` of imaginary memory: nothing here reads or writes elements.
fn view<'a>(dtype: DType, at: usize, shape: &[usize], stride: &[usize]) -> View<'a> {
    // SAFETY: views here are only compared; no element is read.
    unsafe { View::new("view", std::ptr::without_provenance_mut(4096 + at * 2), dtype, shape, stride) }.unwrap()
}

fn random_view<'a>(rng: &mut Rng) -> View<'a> {
    let dtype = [DType::F32, DType::BF16][rng.below(2)];
    let ndim = rng.below(5);
    let extents = [1, 1, 2, 2, 3, 4, 0];
    let choices = if rng.below(8) == 0 { 7 } else { 6 };
    let shape: Vec<usize> = (0..ndim).map(|_| extents[rng.below(choices)]).collect();
    let period = [4, 6, 8, 12][rng.below(4)];
    let stride: Vec<usize> = (0..ndim)
        .map(|d| if d + 1 == ndim { 1 } else { [rng.below(10), period, 2 * period, 4 * period, 3][rng.below(5)] })
        .collect();
    view(dtype, 2 * rng.below(30), &shape, &stride)
}

/// The addresses of the elements, in order.
fn starts(view: &View<'_>) -> Vec<usize> {
    let address = |i| view.data() as usize + view.element_offset(i) * view.dtype().size();
    (0..view.numel()).map(address).collect()
}

fn bytes(view: &View<'_>) -> HashSet<usize> {
    starts(view).into_iter().flat_map(|start| start..start + view.dtype().size()).collect()
}

#[test]
fn views_that_share_a_byte_overlap() {
    let mut rng = Rng(1);
    let mut told_apart = 0;
    for _ in 0..300_000 {
        let (a, b) = (random_view(&mut rng), random_view(&mut rng));
        let shared = !bytes(&a).is_disjoint(&bytes(&b));
        assert!(a.overlaps(&b) || !shared, "{a:?} and {b:?}");
        assert_eq!(a.overlaps(&b), b.overlaps(&a), "{a:?} and {b:?}");
        let (r, s) = (a.byte_range(), b.byte_range());
        told_apart +=
            usize::from(!a.overlaps(&b) && r.start < s.end && s.start < r.end && !r.is_empty() && !s.is_empty());
    }
    assert!(told_apart > 1000, "{told_apart} interleaved pairs");
}

#[test]
fn parts_of_packed_tensors_are_apart() {
    // q, k, v of [b, t, 3, h, d] and of [b, t, h, 3, d], with any of b, t, h one.
    for (b, t, h) in [(2, 3, 2), (1, 3, 2), (2, 1, 2), (2, 3, 1), (1, 1, 2), (1, 3, 1)] {
        for stride in [[t * 3 * h * 16, 3 * h * 16, 16, 1], [t * 3 * h * 16, 3 * h * 16, 48, 1]] {
            let step = if stride[2] == 16 { h * 16 } else { 16 };
            let part = |i: usize| view(DType::BF16, i * step, &[b, t, h, 16], &stride);
            for (i, j) in [(0, 1), (0, 2), (1, 2), (2, 0)] {
                assert!(!part(i).overlaps(&part(j)), "{b} {t} {h} {stride:?}");
            }
            assert!(part(1).overlaps(&part(1)));
        }
    }
    // A window that wraps into the next row.
    assert!(view(DType::BF16, 6, &[3, 4], &[8, 1]).overlaps(&view(DType::BF16, 0, &[3, 4], &[8, 1])));
}

#[test]
fn writable_rows_have_no_two_elements_in_one_place() {
    let mut rng = Rng(2);
    let mut accepted = 0;
    for _ in 0..100_000 {
        let a = random_view(&mut rng);
        if a.expect_writable_rows("a").is_ok() {
            let starts = starts(&a);
            assert_eq!(starts.iter().collect::<HashSet<_>>().len(), starts.len(), "{a:?}");
            accepted += 1;
        }
    }
    assert!(accepted > 10_000, "{accepted}");
}

#[test]
fn flat_and_collapsed_views_have_the_same_elements_in_order() {
    let mut rng = Rng(3);
    for _ in 0..100_000 {
        let a = random_view(&mut rng);
        for (what, other) in [("flattened", a.flattened()), ("collapsed", a.collapsed())] {
            assert_eq!(starts(&other), starts(&a), "{what} {a:?}");
            assert!(what == "flattened" || (other.width(), other.row_count()) == (a.width(), a.row_count()), "{a:?}");
        }
        let contiguous = starts(&a).windows(2).all(|w| w[1] == w[0] + a.dtype().size());
        assert!(a.numel() == 0 || a.is_contiguous() == contiguous, "{a:?}");
        let range = a.byte_range();
        assert!(bytes(&a).iter().all(|byte| range.contains(byte)), "{a:?}");
    }
}
