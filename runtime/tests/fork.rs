//! A forked child uses its parent's runtime: the pool is started anew, and the parent's is left alone.

mod harness;

use harness::{Probe, runtime};
use scalert_kernels::backend::cpu::Cpu;
use scalert_runtime::{Arena, Runtime, Stream, Tier};
use std::sync::Barrier;

/// Whether four bodies run at the same time, which takes a pool that works.
fn pool_works(runtime: &Runtime) -> bool {
    let Ok(stream) = Stream::new(runtime) else { return false };
    let barrier = Barrier::new(4);
    let body = |cpu: &Cpu<'_>| {
        cpu.parallel_for(4, |_, _| {
            barrier.wait();
        });
    };
    (0..10).all(|_| stream.submit(&Probe::new(1000, body)).is_ok())
}

#[test]
fn a_child_starts_its_own_threads_and_the_parent_keeps_its_own() {
    let used = runtime(4);
    assert!(pool_works(&used));
    let unused = runtime(4);
    // SAFETY: the child calls the library and then leaves at once, without unwinding or destructors of the parent.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // A child that hangs is killed and then fails the test.
        // SAFETY: sets a timer of the child alone.
        unsafe { libc::alarm(60) };
        let works = pool_works(&used) && pool_works(&unused) && Arena::new(&used, Tier::Device, 1 << 23).is_ok() && {
            drop(used);
            drop(unused);
            pool_works(&runtime(4))
        };
        // SAFETY: ends the child.
        unsafe { libc::_exit(if works { 0 } else { 1 }) };
    }
    assert!(child > 0);
    let mut status = 0;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "status {status:#x}");
    assert!(pool_works(&used) && pool_works(&unused));
}
