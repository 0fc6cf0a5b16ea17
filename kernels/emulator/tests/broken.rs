//! Kernels that are wrong (`ptx/broken.cu`): each is caught, with the kernel, the line and the address.

mod harness;

use harness::Arg::{Int, Pointer};
use harness::*;
use scalert_ptx_emulator::FaultKind::*;
use scalert_ptx_emulator::*;
use std::sync::LazyLock;

const TEXT: &str = include_str!("ptx/broken.ptx");
static BROKEN: LazyLock<Module> = LazyLock::new(|| parse(TEXT));

/// The fault of a kernel on 64 initialised floats and 64 that are not.
fn fault(name: &str, block: u32, extra: &[Arg]) -> (Fault, u64, u64) {
    let device = Device::new();
    let (x, y) = (device.upload(&[0f32; 64]), device.upload(&[1f32; 64]));
    let takes = BROKEN.entry(name).unwrap().params.len();
    let mut arguments = vec![Pointer(x)];
    if takes == 2 + extra.len() {
        arguments.push(Pointer(y));
    }
    arguments.extend(extra);
    let found = device.fault(&BROKEN, name, block, 256, &arguments);
    // The line is that of the instruction.
    let line = TEXT.lines().nth(found.line as usize - 1).unwrap();
    let opcode = found.instruction.split_whitespace().find(|word| !word.starts_with('@')).unwrap();
    assert!(line.contains(opcode), "{found}: {line}");
    (found, x, y)
}

#[test]
fn accesses_outside_of_global_memory() {
    let (found, x, _) = fault("write_past_end", 32, &[Int(40)]);
    assert_eq!((found.kind, found.address, found.thread), (OutOfBounds, Some(x + 256), [24, 0, 0]));
    assert!(found.message.contains("write") && found.message.contains("256 bytes"), "{found}");
    let (found, _, y) = fault("read_past_end", 32, &[Int(64)]);
    assert_eq!((found.kind, found.address, found.thread), (OutOfBounds, Some(y + 256), [0, 0, 0]));
    let (found, _, y) = fault("read_byte_past_end", 32, &[Int(225)]);
    assert_eq!((found.kind, found.address, found.thread), (OutOfBounds, Some(y + 256), [31, 0, 0]));
    let (found, _, y) = fault("read_before", 32, &[]);
    assert_eq!((found.kind, found.address), (OutOfBounds, Some(y - 4)));
    let (found, ..) = fault("null", 32, &[]);
    assert_eq!((found.kind, found.address), (OutOfBounds, Some(0)));
}

#[test]
fn accesses_that_are_not_aligned() {
    let (found, _, y) = fault("misaligned", 32, &[Int(2)]);
    assert_eq!((found.kind, found.address), (Misaligned, Some(y + 2)));
    let (found, _, y) = fault("vector_misaligned", 8, &[]);
    assert_eq!((found.kind, found.address), (Misaligned, Some(y + 4)));
}

#[test]
fn memory_that_was_freed() {
    let device = Device::new();
    let (x, y) = (device.upload(&[0f32; 64]), device.upload(&[1f32; 64]));
    assert_eq!(device.memory.free(y), Ok(256));
    let found = device.fault(&BROKEN, "read_past_end", 32, 0, &[Pointer(x), Pointer(y), Int(0)]);
    assert_eq!((found.kind, found.address), (UseAfterFree, Some(y)));
    assert_eq!(device.memory.free(y), Err(UnknownAddress(y)));
}

#[test]
fn memory_that_was_never_written() {
    let device = Device::new();
    let (x, y) = (device.upload(&[0f32; 64]), device.empty(256));
    device.memory.copy_in(y, &[0; 128]).unwrap();
    device.run(&BROKEN, "read_past_end", 1, 32, 0, &[Pointer(x), Pointer(y), Int(0)]).unwrap();
    let found = device.fault(&BROKEN, "read_past_end", 32, 0, &[Pointer(x), Pointer(y), Int(1)]);
    assert_eq!((found.kind, found.address, found.thread), (Uninitialised, Some(y + 128), [31, 0, 0]));
    // A kernel's own writes count, and so does what the host says.
    device.run(&BROKEN, "write_past_end", 1, 32, 0, &[Pointer(y), Int(32)]).unwrap();
    device.run(&BROKEN, "read_past_end", 1, 32, 0, &[Pointer(x), Pointer(y), Int(32)]).unwrap();
    let z = device.empty(256);
    device.memory.mark_initialised(z, 256);
    device.run(&BROKEN, "read_past_end", 1, 32, 0, &[Pointer(x), Pointer(z), Int(32)]).unwrap();
    let found = fault("shared_uninitialised", 64, &[]).0;
    assert_eq!((found.kind, found.address, found.thread), (Uninitialised, Some(20), [5, 0, 0]));
}

#[test]
fn accesses_outside_of_shared_and_local_memory() {
    let (found, ..) = fault("shared_past_end", 32, &[Int(33)]);
    assert_eq!((found.kind, found.address, found.thread), (OutOfBounds, Some(256), [31, 0, 0]));
    let (found, ..) = fault("local_past_end", 8, &[Int(1)]);
    assert_eq!((found.kind, found.thread), (OutOfBounds, [7, 0, 0]));
    assert!(found.message.contains("local"), "{found}");
}

#[test]
fn races_in_shared_memory() {
    for (name, block) in [
        ("race_between_warps", 64),
        ("race_after_read", 64),
        ("race_of_one_store", 32),
        ("race_in_warp", 32),
        ("race_with_atomic", 64),
        ("race_wrong_named_barrier", 128),
    ] {
        let device = Device::new();
        let x = device.upload(&[0f32; 128]);
        let found = device.fault(&BROKEN, name, block, 0, &[Pointer(x)]);
        assert!(found.kind == Race || found.kind == Uninitialised && name == "race_between_warps", "{found}");
        assert!(found.address.is_some());
        let unchecked = Device { options: Options { check_races: false, ..device.options.clone() }, ..device };
        match unchecked.run(&BROKEN, name, 1, block, 0, &[Pointer(x)]) {
            Ok(_) => {}
            Err(found) => assert_eq!(found.kind, Uninitialised, "{found}"),
        }
    }
    for name in ["no_race_in_warp", "no_race_named_barriers"] {
        let device = Device::new();
        let x = device.upload(&[0f32; 128]);
        let block = if name == "no_race_in_warp" { 64 } else { 128 };
        device.run(&BROKEN, name, 2, block, 0, &[Pointer(x)]).unwrap_or_else(|fault| panic!("{fault}"));
    }
}

#[test]
fn barriers_that_some_threads_never_reach() {
    for (name, block, extra) in [
        ("divergent_barrier", 32, &[][..]),
        ("barrier_of_one_warp", 64, &[]),
        ("early_exit", 64, &[Int(40)]),
        ("two_barriers", 64, &[]),
    ] {
        let (found, ..) = fault(name, block, extra);
        assert_eq!(found.kind, BarrierDivergence, "{found}");
        assert!(found.instruction.starts_with("bar.sync"), "{found}");
    }
}

#[test]
fn warp_wide_instructions_without_all_lanes() {
    for name in ["divergent_shuffle", "stranger_in_shuffle"] {
        let (found, ..) = fault(name, 32, &[]);
        assert_eq!(found.kind, WarpDivergence, "{found}");
        assert!(found.instruction.contains("shfl.sync"), "{found}");
    }
}

#[test]
fn asynchronous_copies() {
    let (found, ..) = fault("copy_without_wait", 32, &[]);
    assert_eq!((found.kind, found.address), (PendingCopy, Some(0)), "{found}");
    let (found, ..) = fault("copy_without_barrier", 64, &[]);
    assert!(matches!(found.kind, Race | Uninitialised), "{found}");
    let (found, ..) = fault("copy_waits_for_too_few", 32, &[]);
    assert_eq!((found.kind, found.address), (PendingCopy, Some(128)), "{found}");
    let device = Device::new();
    let y: Vec<f32> = (1..=256).map(|i| i as f32).collect();
    let (x, dy) = (device.empty(1024), device.upload(&y));
    // The second group fills the last 4 bytes of every 16 with zero.
    device.run(&BROKEN, "copy_right", 1, 32, 0, &[Pointer(x), Pointer(dy), Int(4)]).unwrap();
    let expected = |i: usize| if i >= 128 && i % 4 == 3 { 0.0 } else { y[i] };
    assert_eq!(device.download::<f32>(x, 256), (0..256).map(expected).collect::<Vec<_>>());
}

#[test]
fn loops_without_end_and_traps() {
    let (found, ..) = fault("infinite_loop", 32, &[]);
    assert_eq!(found.kind, InstructionLimit);
    let device = Device::new();
    let x = device.upload(&[0, 0, 7, 0]);
    let found = device.fault(&BROKEN, "trapped", 4, 0, &[Pointer(x)]);
    assert_eq!((found.kind, found.thread), (Trap, [2, 0, 0]));
}

#[test]
fn launches_that_cannot_be() {
    let device = Device::new();
    for (grid, block, shared) in [(0, 32, 0), (1, 0, 0), (1, 1025, 0), (1, 32, 1 << 20)] {
        let found = device.run(&BROKEN, "infinite_loop", grid, block, shared, &[Pointer(0)]).unwrap_err();
        assert_eq!(found.kind, InvalidLaunch, "{found}");
    }
}

#[test]
fn opcodes_that_are_not_known() {
    let text = |instruction: &str| {
        let head = ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{\n";
        format!("{head}.reg .b32 %r<4>;\n.reg .b64 %rd<4>;\n.reg .f32 %f<4>;\n{instruction}\nret;\n}}\n")
    };
    for instruction in [
        "frobnicate.b32 %r1, %r2;",
        "add.rn.f8 %r1, %r2, %r3;",
        "add.strange.s32 %r1, %r2, %r3;",
        "tcgen05.wait::ld.sync.aligned;",
        "add.s32 %r1, %r2, %r9;",
        "add.s32 %rd1, %r2, %r3;",
        "bra nowhere;",
    ] {
        let error = Module::parse(&text(instruction)).expect_err(instruction);
        assert_eq!((error.line, &error.function[..], &error.instruction[..]), (9, "k", instruction), "{error}");
    }
    let error = Module::parse(&text("frobnicate.b32 %r1, %r2;")).unwrap_err().to_string();
    let expected = "PTX line 9, function k, `frobnicate.b32 %r1, %r2;`: the opcode 'frobnicate.b32' is not supported";
    assert_eq!(error, expected);
}
