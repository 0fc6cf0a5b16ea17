//! Groups of ranks that are threads of one process: what operations compute, and what becomes of ranks that do not come, leave,
//! or call something else.
#![allow(missing_docs)]

mod harness;

use harness::{Rng, Tensor, runtime};
use scalert_runtime::comm::Reduction;
use scalert_runtime::dtype::{bf16, f16};
use scalert_runtime::{Comm, CommDesc, DType, Error, Result, Runtime, Status, Stream};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

fn within(timeout: Duration) -> CommDesc {
    CommDesc { timeout, ..CommDesc::default() }
}

const SOON: Duration = Duration::from_millis(200);

/// Runs one thread for each rank of a new group: what each returns.
fn ranks<T: Send>(world: usize, desc: CommDesc, body: impl Fn(u32, Comm, &Stream) -> T + Sync) -> Vec<T> {
    let runtimes: Vec<Runtime> = (0..world).map(|rank| runtime(rank as u32 % 3 + 1)).collect();
    let comms = Comm::local(&runtimes, &desc).unwrap();
    thread::scope(|scope| {
        let body = &body;
        let start = |comm: Comm| {
            scope.spawn(move || {
                let stream = Stream::new(comm.runtime()).unwrap();
                body(comm.rank(), comm, &stream)
            })
        };
        let threads: Vec<_> = comms.into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

const REDUCED: [DType; 4] = [DType::F32, DType::BF16, DType::F16, DType::I64];

/// What a rank has: values of all magnitudes, whose sums depend on their order.
fn input(dtype: DType, n: usize, rank: u32) -> Tensor {
    let mut rng = Rng(u64::from(rank) + 1);
    Tensor::new(dtype, &[n]).fill(|i| {
        let x = rng.normal() * 2f64.powi((i % 12) as i32);
        if dtype == DType::I64 { (x * 1000.0).round() } else { x }
    })
}

/// The reduction over ranks in their order.
fn reduced(dtype: DType, n: usize, world: u32, reduction: Reduction) -> Vec<f64> {
    let inputs: Vec<Vec<f64>> = (0..world).map(|rank| input(dtype, n, rank).values()).collect();
    (0..n)
        .map(|i| {
            let x = inputs.iter().map(|input| input[i]);
            if reduction == Reduction::Max {
                return x.fold(f64::NEG_INFINITY, f64::max);
            }
            if dtype == DType::I64 {
                return x.sum();
            }
            let sum = x.map(|x| x as f32).reduce(|sum, x| sum + x).unwrap();
            let y = if reduction == Reduction::Mean { sum / world as f32 } else { sum };
            match dtype {
                DType::BF16 => bf16::from_f32(y).into(),
                DType::F16 => f16::from_f32(y).into(),
                _ => y.into(),
            }
        })
        .collect()
}

#[test]
fn reductions_are_in_the_order_of_ranks_however_tensors_are_divided() {
    for world in [1, 2, 3, 5] {
        for n in [0, 1, 63, 1000, 20_001] {
            ranks(world, CommDesc::default(), |rank, comm, stream| {
                assert_eq!((comm.rank(), comm.world(), comm.is_deterministic()), (rank, world as u32, true));
                for dtype in REDUCED {
                    for reduction in [Reduction::Sum, Reduction::Max, Reduction::Mean] {
                        if dtype == DType::I64 && reduction == Reduction::Mean {
                            continue;
                        }
                        let what = format!("{world} ranks, {n} {dtype} {reduction:?}");
                        let expected = reduced(dtype, n * world, world as u32, reduction);
                        let x = input(dtype, n * world, rank);
                        comm.all_reduce(stream, x.view(), reduction).unwrap();
                        assert_eq!(x.values(), expected, "all_reduce {what}");

                        let x = input(dtype, n * world, rank);
                        let mine = &expected[rank as usize * n..][..n];
                        let y = Tensor::new(dtype, &[n]);
                        comm.reduce_scatter(stream, x.view(), y.view(), reduction).unwrap();
                        assert_eq!(y.values(), mine, "reduce_scatter {what}");
                        assert_eq!(x.values(), input(dtype, n * world, rank).values(), "input of {what}");
                        let part = part(&x, rank as usize * n, n);
                        comm.reduce_scatter(stream, x.view(), part, reduction).unwrap();
                        assert_eq!(harness::elements(&part), mine, "reduce_scatter in place {what}");

                        let (x, y) = (input(dtype, n * world, rank), Tensor::new(dtype, &[n * world]));
                        let root = world as u32 / 2;
                        let output = (rank == root).then(|| y.view());
                        comm.reduce(stream, x.view(), output, reduction, root).unwrap();
                        if rank == root {
                            assert_eq!(y.values(), expected, "reduce {what}");
                        }
                        assert_eq!(x.values(), input(dtype, n * world, rank).values(), "input of {what}");
                        comm.reduce(stream, x.view(), Some(x.view()), reduction, root).unwrap();
                        if rank == root {
                            assert_eq!(x.values(), expected, "reduce in place {what}");
                        }
                    }
                }
            });
        }
    }
}

/// n elements of a tensor of one dimension.
fn part(x: &Tensor, start: usize, n: usize) -> scalert_runtime::View<'_> {
    let view = x.view();
    assert!(start + n <= view.numel());
    let data = view.data().wrapping_add(start * view.dtype().size());
    // SAFETY: inside the tensor; a test runs one call at a time on it.
    unsafe { scalert_runtime::View::new("part", data, view.dtype(), &[n], &[1]) }.unwrap()
}

#[test]
fn moving_operations_move() {
    for world in [1, 2, 3, 5] {
        for n in [0, 1, 1000, 150_001] {
            ranks(world, CommDesc::default(), |rank, comm, stream| {
                for dtype in [DType::F32, DType::BF16, DType::I32, DType::I64] {
                    let sent = |rank: u32, i: usize| f64::from(rank) * 32.0 + (i % 25) as f64;
                    let (me, all) = (rank as usize, n * world);
                    let gathered: Vec<f64> = (0..all).map(|i| sent((i / n) as u32, i % n)).collect();
                    let x = Tensor::new(dtype, &[n]).fill(|i| sent(rank, i));
                    let y = Tensor::new(dtype, &[world, n]);
                    comm.all_gather(stream, x.view(), y.view()).unwrap();
                    assert_eq!(y.values(), gathered, "all_gather");
                    let y = Tensor::new(dtype, &[all]).fill(|i| sent(rank, i % n.max(1)));
                    comm.all_gather(stream, part(&y, me * n, n), y.view()).unwrap();
                    assert_eq!(y.values(), gathered, "all_gather in place");

                    for root in 0..world as u32 {
                        let x = Tensor::new(dtype, &[n]).fill(|i| sent(rank, i));
                        comm.broadcast(stream, x.view(), root).unwrap();
                        assert_eq!(x.values(), (0..n).map(|i| sent(root, i)).collect::<Vec<_>>(), "broadcast");
                    }

                    let x = Tensor::new(dtype, &[all]).fill(|i| sent(rank, i / n) + (i % n) as f64 % 7.0);
                    let y = Tensor::new(dtype, &[all]);
                    comm.all_to_all(stream, x.view(), y.view()).unwrap();
                    let expected: Vec<f64> =
                        (0..all).map(|i| sent((i / n) as u32, me) + (i % n) as f64 % 7.0).collect();
                    assert_eq!(y.values(), expected, "all_to_all");

                    if world > 1 {
                        // Around the ring: even ranks send first.
                        let (next, before) = ((rank + 1) % world as u32, (rank + world as u32 - 1) % world as u32);
                        let (x, y) = (Tensor::new(dtype, &[n]).fill(|i| sent(rank, i)), Tensor::new(dtype, &[n]));
                        let send = || comm.send(stream, x.view(), next).unwrap();
                        let receive = || comm.receive(stream, y.view(), before).unwrap();
                        if rank % 2 == 0 {
                            (send(), receive())
                        } else {
                            (receive(), send())
                        };
                        assert_eq!(y.values(), (0..n).map(|i| sent(before, i)).collect::<Vec<_>>(), "message");
                    }
                    comm.barrier(stream).unwrap();
                }
            });
        }
    }
}

fn failed(outcome: Result<()>, status: Status, words: &[&str]) -> Error {
    let error = outcome.expect_err("it fails");
    assert_eq!(error.status, status, "{error}");
    words.iter().for_each(|words| assert!(error.message.contains(words), "{error} does not say '{words}'"));
    error
}

#[test]
fn who_does_not_come_is_named_and_the_group_has_failed() {
    let (start, timeout) = (Instant::now(), 5 * SOON);
    ranks(4, within(timeout), |rank, comm, stream| {
        let x = Tensor::new(DType::F32, &[10]);
        comm.barrier(stream).unwrap();
        if rank % 2 == 0 {
            let outcome = comm.all_reduce(stream, x.view(), Reduction::Sum);
            let words = ["all_reduce (sum) of 10 f32", "operation 2 of the group", "ranks 1, 3", "1s"];
            failed(outcome, Status::Timeout, &words);
        } else {
            thread::sleep(timeout + SOON);
        }
        let later = comm.barrier(stream);
        failed(later, Status::CommError, &["has failed", "TIMEOUT", "all_reduce (sum) of 10 f32", "ranks 1, 3"]);
        failed(comm.async_error(), Status::CommError, &["ranks 1, 3"]);
    });
    assert!(start.elapsed() >= timeout, "nobody gave up early");
}

#[test]
fn a_rank_that_leaves_fails_those_who_wait_for_it_at_once() {
    let start = Instant::now();
    ranks(3, CommDesc::default(), |rank, comm, stream| {
        let x = Tensor::new(DType::F32, &[10]);
        if rank == 2 {
            thread::sleep(SOON);
            return;
        }
        let outcome = comm.all_reduce(stream, x.view(), Reduction::Sum);
        failed(outcome, Status::CommError, &["all_reduce (sum) of 10 f32", "rank 2 has left"]);
        failed(comm.receive(stream, x.view(), 2), Status::CommError, &["message 1 from rank 2", "rank 2 has left"]);
        failed(comm.async_error(), Status::CommError, &["rank 2 has left"]);
        // Who is there can still talk to each other.
        match rank {
            0 => comm.send(stream, x.view(), 1).unwrap(),
            _ => comm.receive(stream, x.view(), 0).unwrap(),
        }
    });
    assert!(start.elapsed() < Duration::from_secs(60), "nobody waited for the timeout");
}

#[test]
fn a_rank_leaves_with_its_last_clone_and_after_an_operation_does_no_harm() {
    ranks(2, CommDesc::default(), |rank, comm, stream| {
        let kept = comm.clone();
        drop(comm);
        for _ in 0..1000 {
            kept.barrier(stream).unwrap();
        }
        if rank == 0 {
            drop(kept);
        } else {
            thread::sleep(SOON);
            failed(kept.barrier(stream), Status::CommError, &["barrier", "rank 0 has left"]);
        }
    });
}

#[test]
fn different_calls_are_refused_on_every_rank_and_touch_nothing() {
    ranks(3, CommDesc::default(), |rank, comm, stream| {
        let x = Tensor::new(DType::F32, &[10 + rank as usize / 2]).fill(|_| 3.0);
        let long = Tensor::new(DType::F32, &[12]).fill(|_| 3.0);
        let words = [
            "operation 1 of the group",
            "rank 0 calls all_reduce (sum) of 10 f32",
            "rank 2 calls all_reduce (sum) of 11",
        ];
        failed(comm.all_reduce(stream, x.view(), Reduction::Sum), Status::FailedPrecondition, &words);
        let outcome = match rank {
            1 => comm.broadcast(stream, long.view(), 1),
            _ => comm.all_reduce(stream, long.view(), Reduction::Max),
        };
        let words = ["rank 0 calls all_reduce (max) of 12 f32", "rank 1 calls broadcast of 12 f32 from rank 1"];
        failed(outcome, Status::FailedPrecondition, &words);
        comm.set_tag(if rank == 2 { "layer 4" } else { "layer 3" }).unwrap();
        let words = ["rank 0 calls barrier tagged 'layer 3'", "rank 2 calls barrier tagged 'layer 4'"];
        failed(comm.barrier(stream), Status::FailedPrecondition, &words);
        comm.set_tag("").unwrap();
        if rank < 2 {
            let word = Tensor::new(DType::I64, &[1]);
            let outcome = match rank {
                0 => comm.send(stream, long.view(), 1),
                _ => comm.receive(stream, word.view(), 0),
            };
            let words = ["message 1", "rank 0 calls send of 12 f32", "rank 1 calls receive of 1 i64"];
            failed(outcome, Status::FailedPrecondition, &words);
        }
        assert!(x.values().iter().chain(&long.values()).all(|x| *x == 3.0), "nothing was touched");
        // Nothing has failed but these operations.
        comm.async_error().unwrap();
        comm.all_reduce(stream, long.view(), Reduction::Sum).unwrap();
        assert!(long.values().iter().all(|x| *x == 9.0));
    });
}

#[test]
fn tensors_of_different_ranks_must_not_overlap_where_one_is_written() {
    let shared = Tensor::new(DType::F32, &[30]).fill(|i| i as f64);
    ranks(2, CommDesc::default(), |rank, comm, stream| {
        let x = part(&shared, 9 * rank as usize, 10);
        let outcome = comm.all_reduce(stream, x, Reduction::Sum);
        failed(outcome, Status::FailedPrecondition, &["what rank 0 has written must not overlap a tensor of rank 1"]);
        // Both may read the same.
        let y = Tensor::new(DType::F32, &[20]);
        comm.all_gather(stream, part(&shared, 0, 10), y.view()).unwrap();
        assert_eq!(y.get(19), 9.0);
    });
    assert!((0..30).all(|i| shared.get(i) == i as f64));
}

#[test]
fn an_abort_ends_every_wait() {
    ranks(3, CommDesc::default(), |rank, comm, stream| {
        if rank == 1 {
            thread::sleep(SOON);
            comm.abort();
            comm.abort();
        }
        for _ in 0..2 {
            failed(comm.barrier(stream), Status::CommError, &["rank 1 has aborted"]);
        }
        failed(comm.async_error(), Status::CommError, &["rank 1 has aborted"]);
    });
    let runtime = runtime(1);
    let (single, stream) = (Comm::single(&runtime), Stream::new(&runtime).unwrap());
    single.barrier(&stream).unwrap();
    single.abort();
    failed(single.barrier(&stream), Status::CommError, &["rank 0 has aborted"]);
}

#[test]
fn words_agree_or_their_difference_is_named() {
    ranks(3, CommDesc::default(), |rank, comm, stream| {
        comm.agree(stream, "nothing", &[]).unwrap();
        comm.agree(stream, "parameters", &[1, u64::MAX, 3]).unwrap();
        let words = [7, 8 + u64::from(rank / 2)];
        let words = comm.agree(stream, "parameters", &words);
        failed(words, Status::FailedPrecondition, &["parameters: word 1 is 8 on rank 0 and 9 on rank 2"]);
        let mut many = vec![5; 100_000];
        comm.agree(stream, "many", &many).unwrap();
        many[99_999] += u64::from(rank == 1);
        let words = comm.agree(stream, "many", &many);
        failed(words, Status::FailedPrecondition, &["many: word 99999 is 5 on rank 0 and 6 on rank 1"]);
        let words = comm.agree(stream, "parameters", &[1, 2][..2 - rank as usize % 2]);
        failed(words, Status::FailedPrecondition, &["parameters: rank 0 has 2 words and rank 1 1"]);
    });
}

#[test]
fn bad_arguments_are_refused_before_the_rank_takes_part() {
    let runtimes = [runtime(1), runtime(1)];
    let world = |runtimes: &[Runtime]| Comm::local(runtimes, &CommDesc::default()).err().unwrap().message;
    assert!(world(&[]).contains("world: 0 must be 1 to 1024"));
    assert!(world(&[runtimes[0].clone(), runtimes[0].clone()]).contains("runtimes: [1] must not be [0]"));
    let comms = Comm::local(&runtimes, &CommDesc::default()).unwrap();
    let (comm, stream) = (&comms[0], &Stream::new(&runtimes[0]).unwrap());
    let (x, y) = (Tensor::new(DType::F32, &[8]), Tensor::new(DType::F32, &[4]));
    let (words, tokens) = (Tensor::new(DType::I64, &[8]), Tensor::new(DType::I32, &[8]));
    let refused = |outcome: Result<()>, words: &str| drop(failed(outcome, Status::InvalidArgument, &[words]));
    let sum = Reduction::Sum;
    let foreign = Stream::new(&runtimes[1]).unwrap();
    refused(comm.barrier(&foreign), "stream: must be of the communicator's runtime");
    refused(comm.all_reduce(stream, tokens.view(), sum), "x: dtype i32 must be f32 or bf16 or f16 or i64");
    refused(comm.all_reduce(stream, words.view(), Reduction::Mean), "x: dtype i64 must be f32");
    refused(comm.reduce(stream, x.view(), None, sum, 0), "output: must be given on the root");
    refused(comm.reduce(stream, x.view(), None, sum, 2), "root: 2 must be a rank, 0 to 1");
    refused(comm.reduce(stream, x.view(), Some(y.view()), sum, 0), "output: shape [4] must be [8]");
    refused(comm.reduce(stream, x.view(), Some(words.view()), sum, 0), "output: dtype i64 must be f32");
    refused(comm.reduce_scatter(stream, x.view(), x.view(), sum), "output: 8 elements must be 8 / 2");
    refused(comm.reduce_scatter(stream, words.view(), y.view(), sum), "output: dtype f32 must be i64");
    refused(comm.reduce_scatter(stream, x.view(), part(&x, 4, 4), sum), "output: must be part 0 of input");
    refused(comm.all_gather(stream, y.view(), y.view()), "input: 4 elements must be 4 / 2");
    refused(comm.all_gather(stream, part(&x, 1, 4), x.view()), "input: must be part 0 of output");
    refused(comm.broadcast(stream, x.view(), 7), "root: 7 must be a rank");
    refused(comm.all_to_all(stream, x.view(), x.view()), "output: must not overlap input");
    refused(comm.all_to_all(stream, part(&x, 0, 3), part(&x, 4, 3)), "input: 3 elements must be a multiple of 2");
    refused(comm.send(stream, x.view(), 0), "to: 0 is this rank");
    refused(comm.receive(stream, x.view(), 9), "from: 9 must be a rank");
    refused(comm.set_tag(&"x".repeat(65)), "tag: 65 bytes");
    let square = Tensor::new(DType::F32, &[4, 4]);
    // SAFETY: inside the tensor; it is refused before anything is read.
    let column = unsafe { scalert_runtime::View::new("x", square.view().data(), DType::F32, &[4], &[4]) }.unwrap();
    refused(comm.broadcast(stream, column, 0), "x: strides [4] must be contiguous");
}

/// Ranks call operations with random delays until one aborts, leaves or stays away. Whatever an operation comes to, it comes to
/// that on every rank, with the right values, and nobody looks at a rank's memory once it has returned: it is overwritten.
#[test]
fn chaos_ends_with_a_status_and_never_with_wrong_values() {
    const N: usize = 200_000;
    for round in 0..40u64 {
        let world = 2 + round as usize % 3;
        let (operations, victim) = (3 + round % 5, (round % world as u64) as u32);
        let finished: Vec<AtomicU32> = (0..=operations).map(|_| AtomicU32::new(0)).collect();
        let begun: Vec<AtomicU32> = (0..=operations).map(|_| AtomicU32::new(0)).collect();
        ranks(world, within(Duration::from_millis(60)), |rank, comm, stream| {
            let mut rng = Rng(round * 100 + u64::from(rank));
            for operation in 0..=operations {
                if rng.next().is_multiple_of(3) {
                    thread::sleep(Duration::from_micros(rng.next() % 3000));
                }
                if operation == operations && rank == victim {
                    match round % 4 {
                        0 => comm.abort(),
                        1 => return,
                        2 => thread::sleep(Duration::from_millis(150)),
                        _ => {}
                    }
                }
                let other = comm.clone();
                let mut x = Tensor::new(DType::F32, &[N]).fill(|_| f64::from(rank + 1));
                begun[operation as usize].fetch_add(1, SeqCst);
                let outcome = thread::scope(|scope| {
                    if operation == operations && rank == victim && round % 4 == 3 {
                        let delay = Duration::from_micros(rng.next() % 500);
                        scope.spawn(move || {
                            thread::sleep(delay);
                            other.abort();
                        });
                    }
                    comm.all_reduce(stream, x.view(), Reduction::Sum)
                });
                match outcome {
                    Ok(()) => {
                        let sum = (world * (world + 1) / 2) as f64;
                        assert!(x.values().iter().all(|x| *x == sum), "round {round}");
                        finished[operation as usize].fetch_add(1, SeqCst);
                    }
                    Err(error) => {
                        assert!(matches!(error.status, Status::Timeout | Status::CommError), "round {round}: {error}");
                        (0..N).for_each(|i| x.set(i, f64::NAN));
                        return;
                    }
                }
                (0..N).for_each(|i| x.set(i, f64::NAN));
            }
        });
        for (begun, finished) in begun.iter().zip(&finished) {
            let (begun, finished) = (begun.load(SeqCst), finished.load(SeqCst));
            assert!(finished == 0 || finished == world as u32, "round {round}: {finished} of {begun} succeeded");
        }
    }
}
