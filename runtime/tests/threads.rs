//! The kernels' workers: the own pool and the host's, nested, panicking and misbehaving.

mod harness;

use harness::{Call, HostPool, Probe, runtime};
use scalert_kernels::backend::cpu::Cpu;
use scalert_runtime::log::{Log, LogLevel, LogSink};
use scalert_runtime::{Runtime, RuntimeDesc, Status, Stream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

fn with_host(threads: u32, parallel_for: fn(u32, Call<'_>)) -> Runtime {
    let pool = Arc::new(HostPool { threads, parallel_for });
    Runtime::new(&RuntimeDesc { thread_pool: Some(pool), ..Default::default() }).unwrap()
}

fn in_threads(n: u32, call: Call<'_>) {
    std::thread::scope(|scope| {
        (0..n).for_each(|i| {
            scope.spawn(move || call(i));
        });
    });
}

fn runtimes() -> Vec<Runtime> {
    vec![
        runtime(1),
        runtime(2),
        runtime(4),
        with_host(1, |n, call| (0..n).for_each(call)),
        with_host(4, |n, call| (0..n).rev().for_each(call)),
        with_host(4, in_threads),
        with_host(1024, |n, call| (0..n).for_each(call)),
    ]
}

/// Runs tasks through a stream and requires each to run once, with workers that no two of them hold at a time.
fn assert_each_once(stream: &Stream, tasks: usize) {
    let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
    let held: Vec<AtomicUsize> = (0..1024).map(|_| AtomicUsize::new(0)).collect();
    let body = |cpu: &Cpu<'_>| {
        cpu.parallel_for(tasks, |task, worker| {
            assert!(worker < cpu.workers());
            assert_eq!(held[worker].fetch_add(1, SeqCst), 0, "worker {worker} runs two bodies");
            counts[task].fetch_add(1, SeqCst);
            held[worker].fetch_sub(1, SeqCst);
        });
    };
    stream.submit(&Probe::new(0, body)).unwrap();
    assert!(counts.iter().all(|count| count.load(SeqCst) == 1));
}

#[test]
fn every_task_runs_once() {
    for runtime in runtimes() {
        let stream = Stream::new(&runtime).unwrap();
        for tasks in [0, 1, 2, 3, 4, 5, 100, 1500] {
            for _ in 0..20 {
                assert_each_once(&stream, tasks);
            }
        }
    }
}

#[test]
fn operations_nest_and_run_from_several_threads() {
    for runtime in runtimes() {
        let outer = Stream::new(&runtime).unwrap();
        outer
            .submit(&Probe::new(0, |cpu| {
                cpu.parallel_for(6, |_, _| assert_each_once(&Stream::new(&runtime).unwrap(), 10));
            }))
            .unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let stream = Stream::new(&runtime).unwrap();
                    (0..50).for_each(|_| assert_each_once(&stream, 30));
                });
            }
        });
    }
}

#[test]
fn a_panic_waits_for_the_others_reaches_the_caller_and_poisons_its_stream_alone() {
    for runtime in runtimes() {
        for culprit in [0, 3] {
            let stream = Stream::new(&runtime).unwrap();
            let (running, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let panic = catch_unwind(AssertUnwindSafe(|| {
                stream.submit(&Probe::new(0, |cpu| {
                    cpu.parallel_for(4, |task, _| {
                        running.fetch_add(1, SeqCst);
                        if task != culprit {
                            std::thread::sleep(std::time::Duration::from_millis(5));
                        }
                        running.fetch_sub(1, SeqCst);
                        assert_ne!(task, culprit, "the culprit");
                        done.fetch_add(1, SeqCst);
                    });
                }))
            }))
            .expect_err("the panic goes through submit");
            let message = panic.downcast_ref::<String>().expect("the payload of the body");
            assert!(message.contains("the culprit"), "{message}");
            assert_eq!(running.load(SeqCst), 0, "a body still ran when the panic arrived");
            if runtime.threads() >= 4 {
                assert_eq!(done.load(SeqCst), 3);
            }
            for error in [
                stream.wait().unwrap_err(),
                stream.reserve(1).unwrap_err(),
                stream.submit(&Probe::new(0, |_| {})).unwrap_err(),
            ] {
                assert_eq!(error.status, Status::Internal);
            }
            assert_each_once(&Stream::new(&runtime).unwrap(), 40);
        }
    }
}

#[test]
fn a_stream_used_twice_at_once_is_refused() {
    let runtime = runtime(2);
    let stream = Stream::new(&runtime).unwrap();
    let again = Mutex::new(None);
    let body = |_: &Cpu<'_>| {
        *again.lock().unwrap() = Some(stream.submit(&Probe::new(0, |_| {})));
    };
    stream.submit(&Probe::new(0, body)).unwrap();
    let error = again.into_inner().unwrap().unwrap().unwrap_err();
    assert_eq!(error.status, Status::FailedPrecondition);
    assert!(error.message.starts_with("stream: in use"), "{error}");
    stream.wait().unwrap();
}

#[derive(Default)]
struct Messages(Mutex<Vec<(LogLevel, String)>>);

impl LogSink for Messages {
    fn write(&self, level: LogLevel, message: &str) {
        self.0.lock().unwrap().push((level, message.to_owned()));
    }
}

#[test]
fn bodies_that_the_host_leaves_out_doubles_or_invents_still_run_once() {
    let misbehaving: [fn(u32, Call<'_>); 5] = [
        |_, _| {},
        |n, call| (1..n).for_each(call),
        |n, call| (0..n).chain(0..n).for_each(call),
        |n, call| (0..n + 70).chain([u32::MAX]).for_each(call),
        |n, call| {
            std::thread::scope(|scope| {
                (0..2 * n).for_each(|i| {
                    scope.spawn(move || call(i % n / 2));
                });
            });
        },
    ];
    for (i, parallel_for) in misbehaving.into_iter().enumerate() {
        let messages = Arc::new(Messages::default());
        let runtime = Runtime::new(&RuntimeDesc {
            thread_pool: Some(Arc::new(HostPool { threads: 5, parallel_for })),
            log: Log::new(LogLevel::Warn, messages.clone()),
            ..Default::default()
        })
        .unwrap();
        assert_each_once(&Stream::new(&runtime).unwrap(), 30);
        let left_out = messages.0.lock().unwrap().iter().any(|(_, m)| m.contains("left out"));
        assert_eq!(left_out, matches!(i, 0 | 1 | 4), "host {i}");
    }
}

#[test]
fn threads_are_checked() {
    let refused = |desc: RuntimeDesc| Runtime::new(&desc).err().expect("refused");
    let host = |threads| -> Option<Arc<dyn scalert_runtime::threads::HostThreads>> {
        Some(Arc::new(HostPool { threads, parallel_for: |n, call| (0..n).for_each(call) }))
    };
    for (desc, argument) in [
        (RuntimeDesc { threads: 1025, ..Default::default() }, "threads"),
        (RuntimeDesc { threads: 2, thread_pool: host(2), ..Default::default() }, "threads"),
        (RuntimeDesc { thread_pool: host(0), ..Default::default() }, "thread_pool"),
        (RuntimeDesc { thread_pool: host(1025), ..Default::default() }, "thread_pool"),
        (RuntimeDesc { ordinal: 1, ..Default::default() }, "ordinal"),
    ] {
        let error = refused(desc);
        assert_eq!(error.status, Status::InvalidArgument);
        assert!(error.message.starts_with(&format!("{argument}: ")), "{error}");
    }
    assert_eq!(runtime(3).threads(), 3);
    assert_eq!(with_host(7, in_threads).threads(), 7);
}
