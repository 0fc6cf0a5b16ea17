//! Budgets, arenas, workspaces and the allocator hook: what is held is what is reported, and a failure changes nothing.

mod harness;

use harness::{Hook, Probe, Tensor, element, runtime};
use scalert_runtime::{
    Arena, DType, GroupDesc, MemoryReport, NativeDomain, Part, Result, Runtime, RuntimeDesc, Scaler, ScalerDesc, State,
    StateDesc, Status, StepDesc, Stream, Tier,
};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

#[test]
fn arenas_hand_out_aligned_memory_in_order_and_rewind() {
    let runtime = runtime(1);
    for tier in [Tier::Device, Tier::Host] {
        let arena = Arena::new(&runtime, tier, 1000).unwrap();
        assert_eq!(runtime.memory_report().tier[tier as usize].arena, 1000);
        let first = arena.alloc(10).unwrap();
        let mark = arena.mark().unwrap();
        assert_eq!(mark, 10);
        let second = arena.alloc(100).unwrap();
        assert_eq!(second.addr().get() - first.addr().get(), 64);
        assert!(first.addr().get().is_multiple_of(64));
        arena.alloc(0).unwrap();
        assert_eq!(arena.mark().unwrap(), 164, "no bytes take no room");
        let rest = 1000 - 192;
        let error = arena.alloc(rest + 1).unwrap_err();
        assert_eq!(error.status, Status::OutOfBudget);
        assert_eq!(error.message, "needs 809 bytes of the arena; it has 1000, used 164, available 808");
        assert_eq!(arena.mark().unwrap(), 164);
        let last = arena.alloc(rest).unwrap();
        // SAFETY: the arena gave these bytes.
        unsafe { last.write_bytes(1, rest as usize) };
        for bytes in [1, u64::MAX - 10, u64::MAX] {
            assert_eq!(arena.alloc(bytes).unwrap_err().status, Status::OutOfBudget);
        }
        assert!(arena.alloc(0).is_ok());
        assert_eq!(arena.rewind(1001).unwrap_err().status, Status::InvalidArgument);
        arena.rewind(mark).unwrap();
        assert_eq!(arena.alloc(1).unwrap(), second);
        arena.rewind(0).unwrap();
        assert_eq!(arena.alloc(1).unwrap(), first);
        drop(arena);
        assert_eq!(runtime.memory_report().tier[tier as usize].used, 0);
    }
    let empty = Arena::new(&runtime, Tier::Host, 0).unwrap();
    empty.alloc(0).unwrap();
    assert_eq!(empty.alloc(1).unwrap_err().status, Status::OutOfBudget);
    for tier in [Tier::Pinned, Tier::Disk] {
        assert_eq!(Arena::new(&runtime, tier, 1).err().unwrap().status, Status::InvalidArgument);
    }
}

#[test]
fn a_workspace_grows_within_the_budget_and_is_kept() {
    let runtime = Runtime::new(&RuntimeDesc { budgets: [1000, 0, 0, 0], threads: 1, ..Default::default() }).unwrap();
    let stream = Stream::new(&runtime).unwrap();
    let held = || runtime.memory_report().tier[0];
    assert_eq!(held().used, 0);
    let probe = |bytes| {
        Probe::new(bytes, move |cpu| {
            // SAFETY: the operation asked for this workspace.
            unsafe { cpu.workspace(bytes).write_bytes(9, bytes) };
        })
    };
    stream.submit(&probe(300)).unwrap();
    assert_eq!((held().workspace, held().used), (300, 300));
    stream.submit(&probe(200)).unwrap();
    assert_eq!(held().workspace, 300);
    // More than half of the budget: the old and the new one do not have to fit together.
    stream.submit(&probe(900)).unwrap();
    assert_eq!((held().workspace, held().peak), (900, 900));
    let before = held();
    let error = stream.submit(&probe(1001)).unwrap_err();
    assert_eq!(error.status, Status::OutOfBudget);
    assert_eq!(error.message, "probe: workspace: needs 1001 bytes of DEVICE; budget 1000, used 0, available 1000");
    assert_eq!(stream.reserve(1 << 40).unwrap_err().status, Status::OutOfBudget);
    assert_eq!(held(), before);
    stream.submit(&probe(900)).unwrap();
    drop(stream);
    assert_eq!(held().used, 0);
}

#[test]
fn a_workspace_that_cannot_grow_stays() {
    let hook = Arc::new(Hook::default());
    let desc = RuntimeDesc { budgets: [1000, 0, 0, 0], allocator: Some(hook.clone()), ..Default::default() };
    let runtime = Runtime::new(&desc).unwrap();
    let stream = Stream::new(&runtime).unwrap();
    stream.reserve(300).unwrap();
    let before = runtime.memory_report().tier[0].used;
    // Memory that is given back may be gone: neither refusal may count on getting it again.
    let calls = hook.calls.load(SeqCst);
    assert_eq!(stream.reserve(1001).unwrap_err().status, Status::OutOfBudget);
    assert_eq!((hook.calls.load(SeqCst), hook.live_bytes()), (calls, before), "the hook is not asked in vain");
    hook.fail_from.store(calls + 1, SeqCst);
    assert_eq!(stream.reserve(900).unwrap_err().status, Status::OutOfMemory);
    assert_eq!((runtime.memory_report().tier[0].workspace, hook.live_bytes()), (before, before));
    stream.reserve(300).unwrap();
    hook.fail_from.store(0, SeqCst);
    stream.reserve(900).unwrap();
    assert_eq!((runtime.memory_report().tier[0].workspace, hook.live_bytes()), (900, 900));
    drop(stream);
    assert_eq!((runtime.memory_report().tier[0].used, hook.live_bytes()), (0, 0));
}

type Step<'a> = &'a mut dyn FnMut() -> Result<()>;

/// Everything that takes memory, step by step; each step runs inside `watch`.
fn life(runtime: &Runtime, watch: &dyn Fn(Step<'_>) -> Result<()>) -> Result<()> {
    let hold = RefCell::new((None, None, None, None));
    let done = |step: Step<'_>| watch(step);
    done(&mut || Arena::new(runtime, Tier::Device, 5000).map(|arena| hold.borrow_mut().0 = Some(arena)))?;
    done(&mut || Stream::new(runtime).map(|stream| hold.borrow_mut().1 = Some(stream)))?;
    done(&mut || hold.borrow().1.as_ref().unwrap().reserve(100))?;
    done(&mut || Scaler::new(runtime, &ScalerDesc::default()).map(|scaler| hold.borrow_mut().2 = Some(scaler)))?;
    done(&mut || {
        let state = State::new(runtime, &StateDesc::default())?;
        let adamw = state.add_group(&GroupDesc::default())?;
        let sgd = state.add_group(&GroupDesc {
            optimizer: scalert_runtime::optim::Optimizer::Sgd,
            momentum: 0.9,
            weight_decay: 0.1,
            weight_dtype: Some(DType::F32),
            ..Default::default()
        })?;
        state.add_parameter(adamw, c"a", &[20, 30])?;
        state.add_parameter(sgd, c"b", &[7])?;
        hold.borrow_mut().3 = Some(state);
        Ok(())
    })?;
    done(&mut || hold.borrow().3.as_ref().unwrap().seal())?;
    let held = hold.into_inner();
    let (stream, scaler, state) = (held.1.unwrap(), held.2.unwrap(), held.3.unwrap());
    let values = [Tensor::new(DType::F32, &[20, 30]).fill(|i| i as f64), Tensor::new(DType::F32, &[7])];
    for (i, value) in values.iter().enumerate() {
        done(&mut || state.write(&stream, i as u32, Part::Master, value.view()))?;
        for part in [Part::Master, Part::Moment1] {
            let copy = Tensor::new(DType::F32, if i == 0 { &[20, 30] } else { &[7] });
            done(&mut || state.read(&stream, i as u32, part, copy.view()))?;
            let expected = if part == Part::Master { value.values() } else { vec![0.0; value.numel()] };
            assert_eq!(copy.values(), expected, "fresh memory is garbage until it is written");
        }
    }
    state.begin_step().unwrap();
    state.begin_micro().unwrap();
    for (i, value) in values.iter().enumerate() {
        done(&mut || state.gradient_ready(&stream, i as u32, value.view(), None))?;
    }
    state.end_micro().unwrap();
    done(&mut || state.step(&stream, &StepDesc { learning_rate: 0.1, scaler: Some(&scaler), ..Default::default() }))?;
    assert!(!state.step_result_wait().unwrap().0.skipped);
    Ok(())
}

#[test]
fn no_budget_is_exceeded_and_what_does_not_fit_changes_nothing() {
    let budgeted =
        |budget| Runtime::new(&RuntimeDesc { budgets: [budget, 0, 0, 0], threads: 2, ..Default::default() }).unwrap();
    // The bytes held after each step are the budgets to try: exactly enough, and one byte less.
    let free = budgeted(0);
    let levels = RefCell::new(Vec::new());
    life(&free, &|step| {
        step()?;
        levels.borrow_mut().push(free.memory_report().tier[0].used);
        Ok(())
    })
    .unwrap();
    let peak = free.memory_report().tier[0].peak;
    assert_eq!(levels.borrow().iter().max(), Some(&peak));
    let mut budgets: Vec<u64> = levels.into_inner().into_iter().flat_map(|b| [b - 1, b]).filter(|b| *b > 0).collect();
    budgets.sort_unstable();
    budgets.dedup();
    let mut failures = 0;
    for budget in budgets {
        let runtime = budgeted(budget);
        let outcome = life(&runtime, &|step| {
            let before = runtime.memory_report();
            step().inspect_err(|_| assert_eq!(runtime.memory_report(), before, "budget {budget}"))
        });
        assert_eq!(outcome.is_ok(), budget >= peak, "budget {budget}");
        if let Err(error) = outcome {
            assert_eq!(error.status, Status::OutOfBudget, "{error}");
            failures += 1;
        }
        let report = runtime.memory_report().tier[0];
        assert!(report.used == 0 && report.peak <= budget, "{report:?}");
    }
    assert!(failures >= 5);
}

#[test]
fn an_allocator_that_fails_at_any_call_loses_nothing() {
    for failing in 1.. {
        let hook = Arc::new(Hook::default());
        let runtime =
            Runtime::new(&RuntimeDesc { allocator: Some(hook.clone()), threads: 2, ..Default::default() }).unwrap();
        hook.fail_at.store(failing, SeqCst);
        let consistent = || {
            let used: u64 = runtime.memory_report().tier.iter().map(|tier| tier.used).sum();
            assert_eq!(used, hook.live_bytes());
        };
        let outcome = life(&runtime, &|step| {
            let before: Vec<u64> = runtime.memory_report().tier.iter().map(|tier| tier.used).collect();
            let outcome = step();
            consistent();
            if outcome.is_err() {
                let after: Vec<u64> = runtime.memory_report().tier.iter().map(|tier| tier.used).collect();
                assert_eq!(before, after, "call {failing}");
                // The same call succeeds once there is memory.
                step()?;
                consistent();
            }
            outcome
        });
        assert_eq!(hook.live(), 0, "call {failing} leaks");
        assert_eq!(runtime.memory_report().tier[0].used, 0);
        let Err(error) = outcome else {
            assert!(hook.calls.load(SeqCst) < failing);
            assert!(failing > 10, "the hook was asked {failing} times");
            break;
        };
        assert_eq!(error.status, Status::OutOfMemory, "{error}");
        assert_eq!(error.native, Some((NativeDomain::HostCallback, 0)));
        life(&runtime, &|step| step()).unwrap();
        assert_eq!(hook.live(), 0);
    }
}

#[test]
fn misaligned_memory_of_a_hook_is_given_back_and_refused() {
    let hook = Arc::new(Hook { misalign: 32, ..Default::default() });
    let runtime = Runtime::new(&RuntimeDesc { allocator: Some(hook.clone()), ..Default::default() }).unwrap();
    let error = Arena::new(&runtime, Tier::Device, 100).err().unwrap();
    assert_eq!(error.status, Status::OutOfMemory);
    assert!(error.message.contains("not aligned"), "{error}");
    assert_eq!((hook.live(), runtime.memory_report().tier[0].used), (0, 0));
}

#[test]
fn the_last_handle_may_be_any() {
    let hook = Arc::new(Hook::default());
    let runtime = Runtime::new(&RuntimeDesc { allocator: Some(hook.clone()), ..Default::default() }).unwrap();
    let scaler = Scaler::new(&runtime, &ScalerDesc { initial_scale: 8.0, ..Default::default() }).unwrap();
    let stream = Stream::new(&runtime).unwrap();
    stream.reserve(100).unwrap();
    drop(runtime);
    drop(stream);
    assert_eq!(element(&scaler.scale(), 0), 8.0);
    assert_eq!((hook.live(), Arc::strong_count(&hook)), (2, 2));
    drop(scaler);
    assert_eq!((hook.live(), Arc::strong_count(&hook)), (0, 1));
}

/// The sum over the groups of what `State::memory` documents, by hand.
fn bytes_of(elements: [u64; 4]) -> [u64; 5] {
    let [adamw_bf16, lion_f16, sgd_f32, plain_sgd] = elements;
    let all: u64 = elements.iter().sum();
    let weights = 2 * adamw_bf16 + 2 * lion_f16 + 2 * plain_sgd;
    let moments = 8 * adamw_bf16 + 4 * lion_f16 + 4 * sgd_f32;
    [weights, 4 * all, moments, 4 * all, 80 * 8]
}

#[test]
fn a_state_takes_what_it_said_to_the_byte() {
    use scalert_runtime::optim::Optimizer::{Lion, Sgd};
    let group =
        |optimizer, weight_dtype, momentum| GroupDesc { optimizer, weight_dtype, momentum, ..Default::default() };
    for sizes in [[&[1i64, 255][..], &[257], &[0, 3], &[]], [&[], &[], &[], &[]], [&[1000, 1000], &[5], &[6], &[7]]] {
        let runtime = runtime(1);
        let state = State::new(&runtime, &StateDesc::default()).unwrap();
        let groups = [
            GroupDesc::default(),
            group(Lion, Some(DType::F16), 0.0),
            group(Sgd, Some(DType::F32), 0.5),
            group(Sgd, None, 0.0),
        ];
        let mut elements = [0; 4];
        for (g, desc) in groups.iter().enumerate() {
            assert_eq!(state.add_group(desc).unwrap(), g as u32);
            for (i, extent) in sizes[g].iter().enumerate() {
                let name = std::ffi::CString::new(format!("{g}.{i}")).unwrap();
                state.add_parameter(g as u32, &name, &[*extent, 3]).unwrap();
                elements[g] += (*extent as u64 * 3).next_multiple_of(256);
            }
        }
        let planned = state.memory().unwrap();
        let (device, host) = (planned.tier[0], planned.tier[2]);
        let parameters: usize = sizes.iter().map(|group| group.len()).sum();
        assert_eq!((host.used, host.other), (24 * parameters as u64 + 80, host.used));
        let expected = bytes_of(elements);
        assert_eq!([device.weights, device.master, device.moments, device.gradients, device.other], expected);
        assert_eq!((device.used, device.peak, device.limit), (expected.iter().sum(), device.used, u64::MAX));
        assert_eq!(runtime.memory_report().tier[0].used, 0, "nothing is taken before seal");
        state.seal().unwrap();
        assert_eq!(state.memory().unwrap(), planned);
        assert_eq!(runtime.memory_report(), MemoryReport { tier: planned.tier });
        drop(state);
        assert_eq!(runtime.memory_report().tier[0].used, 0);
    }
}

#[test]
fn a_state_beyond_all_memory_is_planned_and_refused() {
    let runtime = runtime(1);
    let state = State::new(&runtime, &StateDesc::default()).unwrap();
    for group in 0..4 {
        state.add_group(&GroupDesc::default()).unwrap();
        let name = std::ffi::CString::new(format!("{group}")).unwrap();
        state.add_parameter(group, &name, &[1 << 59]).unwrap();
        assert_eq!(state.add_parameter(group, c"more", &[1 << 60]).unwrap_err().status, Status::InvalidArgument);
    }
    assert_eq!(state.memory().unwrap().tier[0].used, u64::MAX);
    assert_eq!(state.seal().unwrap_err().status, Status::OutOfBudget);
    assert_eq!(runtime.memory_report().tier[0].peak, 0);
    // It is as it was: still being built.
    state.add_parameter(0, c"small", &[3]).unwrap();

    let large = State::new(&runtime, &StateDesc::default()).unwrap();
    large.add_group(&GroupDesc::default()).unwrap();
    large.add_parameter(0, c"large", &[1 << 56]).unwrap();
    let error = large.seal().unwrap_err();
    assert_eq!((error.status, error.native), (Status::OutOfMemory, Some((NativeDomain::Errno, libc::ENOMEM.into()))));
    assert_eq!(runtime.memory_report().tier[0].used, 0);
}
