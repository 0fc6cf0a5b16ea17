//! How fast kernels are emulated: lane instructions per second on one core, for the kernels of the tests.
//!
//! `cargo run --release -p scalert-ptx-emulator --example speed`

#[path = "../tests/harness/mod.rs"]
mod harness;

use harness::Arg::{Float, Int, Pointer};
use harness::*;
use std::time::Instant;

fn main() {
    let module = parse(include_str!("../tests/ptx/programs.ptx"));
    let mut device = Device::new();
    device.options.instruction_limit = 1 << 40;
    let n = 1 << 20;
    let (x, y, z) = (device.upload(&vec![1f32; n]), device.upload(&vec![2f32; n]), device.empty(4 * n));
    let side = 256;
    let grid = [side as u32 / 16, side as u32 / 16, 1];
    let all = [
        (
            "axpy",
            [n as u32 / 256, 1, 1],
            [256, 1, 1],
            0,
            vec![Pointer(z), Pointer(x), Pointer(y), Float(2.0), Int(n as i32)],
        ),
        ("tiled", grid, [16, 16, 1], 2048, vec![Pointer(z), Pointer(x), Pointer(y), Int(side)]),
        ("gelu", [n as u32 / 4 / 256, 1, 1], [256, 1, 1], 0, vec![Pointer(z), Pointer(x), Int(n as i32 / 4)]),
        ("collatz", [256, 1, 1], [256, 1, 1], 0, vec![Pointer(z), Int(65536)]),
    ];
    println!("{:10} {:>12} {:>10} {:>18}", "kernel", "lane instr.", "seconds", "lane instr./s");
    for checked in [true, false] {
        device.options.check_races = checked;
        println!("races are {}", if checked { "looked for" } else { "not looked for" });
        for (name, grid, block, shared, arguments) in &all {
            let start = Instant::now();
            let statistics = match device.run(&module, name, *grid, *block, *shared, arguments) {
                Ok(statistics) => statistics,
                Err(fault) => return println!("{fault}"),
            };
            let seconds = start.elapsed().as_secs_f64();
            let rate = statistics.lane_instructions as f64 / seconds;
            println!("{name:10} {:>12} {seconds:>10.3} {rate:>18.3e}", statistics.lane_instructions);
        }
    }
}
