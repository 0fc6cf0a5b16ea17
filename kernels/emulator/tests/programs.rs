//! Kernels as the compiler makes them (`ptx/programs.cu`) against the same in Rust.

mod harness;

use harness::Arg::{Float, Int, Pointer};
use harness::*;
use scalert_ptx_emulator::*;
use std::sync::LazyLock;

static PROGRAMS: LazyLock<Module> = LazyLock::new(|| parse(include_str!("ptx/programs.ptx")));

#[test]
fn axpy_is_exact_on_every_size() {
    for n in [1usize, 31, 32, 33, 257, 1000] {
        let device = Device::new();
        let x: Vec<f32> = (0..n).map(|i| i as f32 * 0.37 - 5.0).collect();
        let y: Vec<f32> = (0..n).map(|i| 1.0 / (i as f32 + 1.0)).collect();
        let (dx, dy, dz) = (device.upload(&x), device.upload(&y), device.empty(4 * n));
        let arguments = [Pointer(dz), Pointer(dx), Pointer(dy), Float(1.25), Int(n as i32)];
        device.run(&PROGRAMS, "axpy", n.div_ceil(128) as u32, 128, 0, &arguments).unwrap();
        let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 1.25 * x + y).collect();
        assert_eq!(device.download::<f32>(dz, n), expected);
    }
}

#[test]
fn module_variables_have_their_initial_values() {
    let device = Device::new();
    let out = device.empty(4 * 32);
    device.run(&PROGRAMS, "variables", 1, 32, 0, &[Pointer(out)]).unwrap();
    let expected: Vec<f32> = (0..32).map(|i| [1.0, 2.0, 3.0, 4.0][i & 3] * [1.5, 2.0, 3.0][i % 3]).collect();
    assert_eq!(device.download::<f32>(out, 32), expected);
    assert_eq!(PROGRAMS.global_variable("table").unwrap().1, 16);
}

#[test]
fn lanes_diverge_and_meet_again() {
    let device = Device::new();
    let n = 300;
    let out = device.empty(4 * n);
    device.run(&PROGRAMS, "collatz", 3, 128, 0, &[Pointer(out), Int(n as i32)]).unwrap();
    let steps = |start: u32| {
        let (mut x, mut count) = (start, 0);
        while x != 1 {
            x = if x % 2 == 1 { 3 * x + 1 } else { x / 2 };
            count += 1;
        }
        count
    };
    let expected: Vec<i32> = (1..=n as u32).map(steps).collect();
    assert_eq!(device.download::<i32>(out, n), expected);
}

#[test]
fn calls_local_arrays_and_switches() {
    let device = Device::new();
    let out = device.empty(4 * 64);
    device.run(&PROGRAMS, "calls", 1, 64, 0, &[Pointer(out), Int(3)]).unwrap();
    let horner = |x: f32, terms: i32| (0..terms).fold(0.0f32, |sum, _| sum * x + 1.0);
    let value = |i: i32| {
        let v = if i & 1 == 1 { horner(0.5, i) } else { horner(0.25, 2 * i) + 1.0 };
        let w = v * ((i * 3) & 7) as f32;
        match i % 6 {
            0 => w + 1.0,
            1 => w * 2.0,
            2 => -w,
            3 => w * w,
            4 => 0.0,
            _ => w - 3.0,
        }
    };
    assert_eq!(device.download::<f32>(out, 64), (0..64).map(value).collect::<Vec<_>>());
}

#[test]
fn the_last_block_adds_up_the_others() {
    for threads in [1, 3] {
        let mut device = Device::new();
        device.options.threads = threads;
        let x: Vec<f32> = (0..5000).map(|i| (i % 17) as f32).collect();
        let (dx, out, partial) = (device.upload(&x), device.empty(4), device.empty(4 * 7));
        device.run(&PROGRAMS, "total", 7, 128, 0, &[Pointer(out), Pointer(partial), Pointer(dx), Int(5000)]).unwrap();
        assert_eq!(device.download::<f32>(out, 1)[0], x.iter().sum::<f32>());
    }
}

#[test]
fn a_tiled_product_uses_dynamic_shared_memory() {
    let (device, n) = (Device::new(), 48);
    let a: Vec<f32> = (0..n * n).map(|i| (i % 7) as f32 - 3.0).collect();
    let b: Vec<f32> = (0..n * n).map(|i| (i % 5) as f32 - 2.0).collect();
    let (da, db, dc) = (device.upload(&a), device.upload(&b), device.empty(4 * n * n));
    let arguments = [Pointer(dc), Pointer(da), Pointer(db), Int(n as i32)];
    device.run(&PROGRAMS, "tiled", [3, 3, 1], [16, 16, 1], 2048, &arguments).unwrap();
    let element = |i: usize| (0..n).map(|k| a[i / n * n + k] * b[k * n + i % n]).sum::<f32>();
    assert_eq!(device.download::<f32>(dc, n * n), (0..n * n).map(element).collect::<Vec<_>>());
    let fault = device.run(&PROGRAMS, "tiled", [3, 3, 1], [16, 16, 1], 1024, &arguments).unwrap_err();
    assert_eq!(fault.kind, FaultKind::OutOfBounds, "{fault}");
}

#[test]
fn bf16_vectors_and_activation_functions() {
    let (device, n) = (Device::new(), 40);
    let x: Vec<half::bf16> = (0..8 * n).map(|i| half::bf16::from_f32((i as f32 - 160.0) / 40.0)).collect();
    let (dx, dy) = (device.upload(&x), device.empty(16 * n));
    device.run(&PROGRAMS, "gelu", 1, 64, 0, &[Pointer(dy), Pointer(dx), Int(n as i32)]).unwrap();
    for (i, (x, y)) in x.iter().zip(device.download::<half::bf16>(dy, 8 * n)).enumerate() {
        let x = x.to_f64();
        let expected = if i % 2 == 0 {
            0.5 * x * (1.0 + (0.7978845608 * (x + 0.044715 * x * x * x)).tanh())
        } else {
            0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
        };
        assert!((y.to_f64() - expected).abs() <= expected.abs() / 128.0 + 1e-4, "{i}: {x} {y} {expected}");
    }
}

/// The error function, by its series.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn math_functions_with_slow_paths() {
    let device = Device::new();
    let x = [0.1f32, -1.5, 3.0, 10.0, -7.25, 100000.0, 1e10, 0.5, 2.0, -0.001];
    let n = x.len();
    let (dx, out) = (device.upload(&x), device.empty(4 * 8 * n));
    device.run(&PROGRAMS, "math", 1, 32, 0, &[Pointer(out), Pointer(dx), Int(n as i32)]).unwrap();
    let out = device.download::<f32>(out, 8 * n);
    for (i, &x) in x.iter().enumerate() {
        let v = f64::from(x);
        let expected = [
            v.sin(),
            v.exp(),
            v.abs().ln(),
            v.abs().powf(f64::from(1.3f32)),
            f64::from(x / 3.1f32),
            v.exp(),
            v.exp(),
            1.0 / v.abs().sqrt(),
        ];
        for (row, &expected) in expected.iter().enumerate() {
            let (found, tolerance) = (f64::from(out[row * n + i]), if row == 6 { 4e-3 } else { 1e-6 });
            let expected = if row == 6 && expected > 65504.0 { f64::INFINITY } else { f64::from(expected as f32) };
            let close = found == expected || (found - expected).abs() <= tolerance * expected.abs() + 1e-7;
            assert!(close, "function {row} of {x}: {found}, expected {expected}");
        }
    }
}

#[test]
fn votes_matches_and_reductions() {
    let device = Device::new();
    let out = device.upload(&vec![0u32; 448]);
    device.run(&PROGRAMS, "votes", 1, 64, 0, &[Pointer(out), Int(40)]).unwrap();
    let out = device.download::<u32>(out, 448);
    for i in 0..64u32 {
        let (warp, at) = (i / 32 * 32, i as usize);
        let set = |holds: &dyn Fn(u32) -> bool| (0..32).filter(|l| holds(warp + l)).fold(0u32, |s, l| s | 1 << l);
        assert_eq!(out[at], set(&|l| l % 3 == 0));
        assert_eq!(out[64 + at], u32::from(warp == 32) + 2 * u32::from(warp == 0));
        assert_eq!(out[128 + at], (warp..warp + 32).sum::<u32>());
        assert_eq!(out[192 + at], set(&|l| l % 5 == i % 5));
        assert_eq!(out[256 + at], 32 + 10000);
        assert_eq!(out[320 + at], if i % 2 == 1 { 0xaaaa_aaaa } else { 0 });
        let expected = if i % 32 >= 8 {
            7
        } else if i % 4 == 0 {
            i
        } else {
            i - 1
        };
        assert_eq!(out[384 + at], expected, "thread {i}");
    }
}

#[test]
fn atomic_operations_of_each_kind() {
    for threads in [1, 2] {
        let mut device = Device::new();
        device.options.threads = threads;
        let (i, u) = (device.upload(&[0i32, 0, 0, 0]), device.upload(&[u32::MAX, 0, 0, 0, 0, 0]));
        let (f, d) = (device.upload(&[0f32]), device.upload(&[0f64]));
        let (l, h) = (device.upload(&[0u64, 0]), device.upload(&[half::bf16::ZERO; 2]));
        let arguments = [Pointer(i), Pointer(u), Pointer(f), Pointer(d), Pointer(l), Pointer(h)];
        device.run(&PROGRAMS, "atomics", 2, 64, 0, &arguments).unwrap();
        assert_eq!(device.download::<i32>(i, 4), [127 * 64, -127, 127, 64]);
        assert_eq!(device.download::<u32>(u, 6), [0, u32::MAX, 0, 8, 2, 256]);
        assert_eq!(device.download::<f32>(f, 1), [64.0]);
        assert_eq!(device.download::<f64>(d, 1), [32.0]);
        assert_eq!(device.download::<u64>(l, 2), [128 << 33, 127 << 32]);
        assert_eq!(device.download::<half::bf16>(h, 2).map_to_f32(), [128.0, 256.0]);
    }
}

trait ToF32 {
    fn map_to_f32(self) -> Vec<f32>;
}

impl ToF32 for Vec<half::bf16> {
    fn map_to_f32(self) -> Vec<f32> {
        self.into_iter().map(half::bf16::to_f32).collect()
    }
}

#[test]
fn spinning_threads_make_progress() {
    let device = Device::new();
    let (word, count) = (device.upload(&[0i32]), device.upload(&[0i32]));
    device.run(&PROGRAMS, "lock", 1, 64, 0, &[Pointer(word), Pointer(count)]).unwrap();
    assert_eq!(device.download::<i32>(count, 1), [64]);
    let out = device.empty(128);
    device.run(&PROGRAMS, "flag", 1, 64, 0, &[Pointer(out)]).unwrap();
    assert_eq!(device.download::<i32>(out, 32), [5; 32]);
}

#[test]
fn several_host_threads_launch_at_once() {
    let device = Device::new();
    let n = 4096usize;
    let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let dx = device.upload(&x);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let device = &device;
            scope.spawn(move || {
                for round in 0..10 {
                    let (z, scale) = (device.empty(4 * n), (thread * 10 + round) as f32);
                    let arguments = [Pointer(z), Pointer(dx), Pointer(dx), Float(scale), Int(n as i32)];
                    device.run(&PROGRAMS, "axpy", n as u32 / 128, 128, 0, &arguments).unwrap();
                    let expected: Vec<f32> = (0..n).map(|i| scale * i as f32 + i as f32).collect();
                    assert_eq!(device.download::<f32>(z, n), expected);
                    assert_eq!(device.memory.free(z), Ok(4 * n));
                }
            });
        }
    });
    assert_eq!(device.memory.live(), (1, 4 * n));
}

#[test]
fn host_memory_is_visible_once_it_is_registered() {
    let device = Device::new();
    let mut host = vec![0f32; 64];
    let (address, y) = (host.as_mut_ptr() as u64, device.upload(&[2f32; 64]));
    let arguments = [Pointer(address), Pointer(y), Pointer(y), Float(1.0), Int(64)];
    let fault = device.run(&PROGRAMS, "axpy", 1, 64, 0, &arguments).unwrap_err();
    assert_eq!(fault.kind, FaultKind::OutOfBounds);
    device.memory.register(address, 256);
    assert_eq!(device.memory.find(address + 9), Some((address, 256)));
    device.run(&PROGRAMS, "axpy", 1, 64, 0, &arguments).unwrap();
    assert!(device.memory.unregister(address) && !device.memory.unregister(address));
    assert_eq!(host, [4.0; 64]);
}
