//! `mma.sync` for every shape and type against a plain product, and `ldmatrix` against the layout it promises.

mod harness;

use half::{bf16, f16};
use harness::Arg::{Int, Pointer};
use harness::*;
use scalert_ptx_emulator::*;

/// Where the elements of A, B and C stand, as the specification of the instruction has it: for lane and element, the
/// row and the column.
struct Layout {
    left: fn(usize, usize) -> (usize, usize),
    right: fn(usize, usize) -> (usize, usize),
}

const ACCUMULATOR: fn(usize, usize) -> (usize, usize) =
    |lane, i| (lane / 4 + if i < 2 { 0 } else { 8 }, lane % 4 * 2 + (i & 1));

/// m16n8k16 of 16-bit elements: eight of A, four of B.
const DEEP: Layout = Layout {
    left: |lane, i| {
        let row = if i < 2 || (4..6).contains(&i) { lane / 4 } else { lane / 4 + 8 };
        (row, lane % 4 * 2 + (i & 1) + if i < 4 { 0 } else { 8 })
    },
    right: |lane, i| (lane % 4 * 2 + (i & 1) + if i < 2 { 0 } else { 8 }, lane / 4),
};

/// m16n8k8 of 16-bit elements: four of A, two of B.
const SHALLOW: Layout = Layout {
    left: |lane, i| (if i < 2 { lane / 4 } else { lane / 4 + 8 }, lane % 4 * 2 + (i & 1)),
    right: |lane, i| (lane % 4 * 2 + i, lane / 4),
};

/// m16n8k8 and m16n8k4 of tf32: four or two of A, two or one of B.
const SINGLE: Layout = Layout {
    left: |lane, i| (lane / 4 + if i & 1 == 0 { 0 } else { 8 }, lane % 4 + if i < 2 { 0 } else { 4 }),
    right: |lane, i| (lane % 4 + 4 * i, lane / 4),
};

/// A kernel with one instruction: each lane loads its registers of A, B and C from rows of its own.
fn kernel(instruction: &str, d: usize, a: usize, b: usize) -> String {
    let names =
        |from: usize, count: usize| (from..from + count).map(|i| format!("%r{i}")).collect::<Vec<_>>().join(", ");
    let load = |base: &str, from: usize, count: usize| -> String {
        let one = |i: usize| format!("ld.global.b32 %r{}, [{base}+{}];\n", from + i, 128 * i);
        (0..count).map(one).collect()
    };
    let stores: String = (0..d).map(|i| format!("st.global.b32 [%rd4+{}], %r{};\n", 128 * i, 10 + i)).collect();
    format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 pd, .param .u64 pa, .param .u64 \
         pb, .param .u64 pc)\n{{\n.reg .b32 %r<60>;\n.reg .b64 %rd<10>;\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %rd0, %r0, 4;\n\
         ld.param.u64 %rd1, [pa];\nld.param.u64 %rd2, [pb];\nld.param.u64 %rd3, [pc];\nld.param.u64 %rd4, [pd];\n\
         add.s64 %rd1, %rd1, %rd0;\nadd.s64 %rd2, %rd2, %rd0;\nadd.s64 %rd3, %rd3, %rd0;\nadd.s64 %rd4, %rd4, %rd0;\n\
         {}{}{}{instruction} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n{stores}ret;\n}}\n",
        load("%rd1", 20, a),
        load("%rd2", 30, b),
        load("%rd3", 40, d),
        names(10, d),
        names(20, a),
        names(30, b),
        names(40, d),
    )
}

/// Puts elements of `bits` bits into registers, by lane and element.
fn registers(count: usize, bits: usize, element: impl Fn(usize, usize) -> u32) -> Vec<u32> {
    let per = 32 / bits;
    let register = |index: usize| {
        let (register, lane) = (index / 32, index % 32);
        (0..per).fold(0, |all, half| all | element(lane, register * per + half) << (bits * half))
    };
    (0..32 * count).map(register).collect()
}

fn check(instruction: &str, depth: usize, layout: &Layout, encode: fn(f32) -> u32, bits: usize, narrow: bool) {
    let mut random = noise(depth as u64 + bits as u64);
    let mut small = || (random() % 33) as f32 / 8.0 - 2.0;
    let a: Vec<f32> = (0..16 * depth).map(|_| small()).collect();
    let b: Vec<f32> = (0..depth * 8).map(|_| small()).collect();
    let c: Vec<f32> = (0..16 * 8).map(|_| small()).collect();
    let (na, nb, nd) = (16 * depth * bits / 1024, 8 * depth * bits / 1024, if narrow { 2 } else { 4 });
    let left = registers(na, bits, |lane, i| {
        let (row, k) = (layout.left)(lane, i);
        encode(a[row * depth + k])
    });
    let right = registers(nb, bits, |lane, i| {
        let (k, column) = (layout.right)(lane, i);
        encode(b[k * 8 + column])
    });
    let accumulator_bits = if narrow { 16 } else { 32 };
    let add = registers(nd, accumulator_bits, |lane, i| {
        let (row, column) = ACCUMULATOR(lane, i);
        let value = c[row * 8 + column];
        if narrow { u32::from(f16::from_f32(value).to_bits()) } else { value.to_bits() }
    });
    let device = Device::new();
    let module = parse(&kernel(instruction, nd, na, nb));
    let out = device.empty(128 * nd);
    let arguments = [out, device.upload(&left), device.upload(&right), device.upload(&add)].map(Pointer);
    device.run(&module, "k", 1, 32, 0, &arguments).unwrap_or_else(|fault| panic!("{fault}"));
    let found = device.download::<u32>(out, 32 * nd);
    // Every product and sum is exact in f32 here.
    let expected = registers(nd, accumulator_bits, |lane, i| {
        let (row, column) = ACCUMULATOR(lane, i);
        let sum = (0..depth).fold(c[row * 8 + column], |sum, k| sum + a[row * depth + k] * b[k * 8 + column]);
        if narrow { u32::from(f16::from_f32(sum).to_bits()) } else { sum.to_bits() }
    });
    assert_eq!(found, expected, "{instruction}");
}

#[test]
fn products_of_every_shape_and_type() {
    let half = |value: f32| u32::from(f16::from_f32(value).to_bits());
    let brain = |value: f32| u32::from(bf16::from_f32(value).to_bits());
    check("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", 16, &DEEP, half, 16, false);
    check("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 16, &DEEP, brain, 16, false);
    check("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16", 16, &DEEP, half, 16, true);
    check("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32", 8, &SHALLOW, half, 16, false);
    check("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", 8, &SHALLOW, brain, 16, false);
    check("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16", 8, &SHALLOW, half, 16, true);
    check("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", 8, &SINGLE, f32::to_bits, 32, false);
    check("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32", 4, &SINGLE, f32::to_bits, 32, false);
}

#[test]
fn products_need_the_whole_warp() {
    let device = Device::new();
    let module = parse(&kernel("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", 4, 4, 2));
    let arguments =
        [device.empty(512), device.upload(&[0u32; 128]), device.upload(&[0u32; 64]), device.upload(&[0u32; 128])];
    let found = device.fault(&module, "k", 16, 0, &arguments.map(Pointer));
    assert_eq!(found.kind, FaultKind::WarpDivergence, "{found}");
}

#[test]
fn ldmatrix_gives_each_lane_two_elements_of_each_matrix() {
    for (count, transposed) in [(1, false), (2, false), (4, false), (1, true), (2, true), (4, true)] {
        let list = (0..count).map(|i| format!("%r{}", 10 + i)).collect::<Vec<_>>().join(", ");
        let stores: String = (0..count).map(|i| format!("st.global.b32 [%rd1+{}], %r{};\n", 128 * i, 10 + i)).collect();
        let trans = if transposed { ".trans" } else { "" };
        // Each lane fills 8 elements of shared memory with their own numbers; row r of a matrix is at 16 (31 - r).
        let text = format!(
            ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 pd, .param .u32 skip)\n{{\n\
             .reg .b32 %r<40>;\n.reg .b64 %rd<4>;\n.reg .pred %p<2>;\n.shared .align 16 .b8 tile[512];\n\
             mov.u32 %r0, %tid.x;\nmov.u32 %r1, tile;\nmad.lo.u32 %r2, %r0, 16, %r1;\nmul.lo.u32 %r3, %r0, 524296;\n\
             add.u32 %r4, %r3, 65536;\nadd.u32 %r5, %r4, 131074;\nadd.u32 %r6, %r5, 131074;\nadd.u32 %r7, %r6, 131074;\n\
             ld.param.u32 %r8, [skip];\nsetp.ne.u32 %p1, %r8, %r0;\n@%p1 st.shared.v4.b32 [%r2], {{%r4, %r5, %r6, %r7}};\n\
             bar.sync 0;\nmov.u32 %r9, 31;\nsub.u32 %r9, %r9, %r0;\nmad.lo.u32 %r9, %r9, 16, %r1;\n\
             ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{list}}}, [%r9];\n\
             ld.param.u64 %rd1, [pd];\nmul.wide.u32 %rd0, %r0, 4;\nadd.s64 %rd1, %rd1, %rd0;\n{stores}ret;\n}}\n"
        );
        let (device, module) = (Device::new(), parse(&text));
        let out = device.empty(128 * count);
        device.run(&module, "k", 1, 32, 0, &[Pointer(out), Int(99)]).unwrap_or_else(|fault| panic!("{fault}"));
        let found = device.download::<u32>(out, 32 * count);
        for (index, &found) in found.iter().enumerate() {
            let (matrix, lane) = (index / 32, index % 32);
            let element = |row: usize, column: usize| ((31 - (8 * matrix + row)) * 8 + column) as u32;
            let (row, column) = (lane / 4, lane % 4 * 2);
            let expected = if transposed {
                element(column, row) | element(column + 1, row) << 16
            } else {
                element(row, column) | element(row, column + 1) << 16
            };
            assert_eq!(found, expected, "x{count}{trans}, matrix {matrix}, lane {lane}");
        }
        // A row that nobody has written is seen.
        let found = device.fault(&module, "k", 32, 0, &[Pointer(out), Int(31)]);
        assert_eq!((found.kind, found.address), (FaultKind::Uninitialised, Some(31 * 16)), "{found}");
    }
}
