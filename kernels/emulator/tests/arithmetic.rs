//! Instructions on single values against the same in Rust, on hostile operands.

mod harness;

use half::{bf16, f16};
use harness::Arg::{Int, Pointer};
use harness::*;

/// A type of an operand: its register, its type in loads and stores, its size.
#[derive(Clone, Copy)]
struct Kind(&'static str, &'static str, usize);

const B16: Kind = Kind("%h", "b16", 2);
const B32: Kind = Kind("%r", "b32", 4);
const B64: Kind = Kind("%d", "b64", 8);

/// Runs one instruction on all tuples of operands. `D`, `A`, `B` and `C` in it stand for registers.
fn evaluate(instruction: &str, d: Kind, kinds: &[Kind], operands: &[Vec<u64>]) -> Vec<u64> {
    let count = operands[0].len();
    let mut body = String::new();
    let mut text = instruction.replace('D', &format!("{}9", d.0));
    for (index, kind) in kinds.iter().enumerate() {
        let letter = ['A', 'B', 'C'][index];
        text = text.replace(letter, &format!("{}{}", kind.0, index + 1));
        body += &format!("ld.param.u64 %d20, [p{index}];\nmad.wide.u32 %d20, %r20, {}, %d20;\n", kind.2);
        body += &format!("ld.global.{} {}{}, [%d20];\n", kind.1, kind.0, index + 1);
    }
    let params: String = (0..kinds.len()).map(|index| format!(", .param .u64 p{index}")).collect();
    let module = parse(&format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u32 n{params})\n{{\n\
         .reg .pred %p<9>;\n.reg .b16 %h<30>;\n.reg .b32 %r<30>;\n.reg .b64 %d<30>;\n\
         mov.u32 %r20, %ctaid.x;\nmov.u32 %r21, %tid.x;\nmad.lo.u32 %r20, %r20, 128, %r21;\nld.param.u32 %r22, [n];\n\
         setp.ge.u32 %p1, %r20, %r22;\n@%p1 bra END;\n{body}{text}\n\
         ld.param.u64 %d20, [out];\nmad.wide.u32 %d20, %r20, {}, %d20;\nst.global.{} [%d20], {}9;\nEND: ret;\n}}\n",
        d.2, d.1, d.0
    ));
    let device = Device::new();
    let pack = |bytes: usize, values: &[u64]| -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()[..bytes].to_vec()).collect()
    };
    let out = device.empty(d.2 * count);
    let mut arguments = vec![Pointer(out), Int(count as i32)];
    for (kind, values) in kinds.iter().zip(operands) {
        arguments.push(Pointer(device.upload(&pack(kind.2, values))));
    }
    let blocks = count.div_ceil(128) as u32;
    device.run(&module, "k", blocks, 128, 0, &arguments).unwrap_or_else(|fault| panic!("{instruction}: {fault}"));
    let bytes = device.download::<u8>(out, d.2 * count);
    let value = |chunk: &[u8]| {
        let mut all = [0; 8];
        all[..d.2].copy_from_slice(chunk);
        u64::from_le_bytes(all)
    };
    bytes.chunks(d.2).map(value).collect()
}

/// Compares an instruction on all pairs and triples of hostile operands.
fn check(instruction: &str, d: Kind, kinds: &[Kind], values: &[&[u64]], expected: impl Fn(&[u64]) -> u64) {
    let mut tuples: Vec<Vec<u64>> = vec![Vec::new()];
    for values in values {
        tuples = tuples.iter().flat_map(|t| values.iter().map(|v| [&t[..], &[*v]].concat())).collect();
    }
    let columns: Vec<Vec<u64>> = (0..kinds.len()).map(|i| tuples.iter().map(|tuple| tuple[i]).collect()).collect();
    let found = evaluate(instruction, d, kinds, &columns);
    for (tuple, found) in tuples.iter().zip(found) {
        let expected = expected(tuple) & (u64::MAX >> (64 - 8 * d.2));
        assert_eq!(found, expected, "{instruction} on {tuple:#x?}: {found:#x}, expected {expected:#x}");
    }
}

fn singles() -> Vec<u64> {
    let mut all: Vec<u64> = [
        0.0f32,
        -0.0,
        1.0,
        -1.0,
        1.5,
        3.1415925,
        -2.75,
        1e-45,
        -1e-40,
        1.1754944e-38,
        3.4028235e38,
        -3.4028235e38,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        0.1,
        1.0000001,
        16777216.0,
        16777217.0,
        0.5,
        2.5,
        -3.5,
        65504.0,
        65519.9,
        65520.0,
        5.9604645e-8,
        2.9802322e-8,
        6.1e-5,
        1e30,
        -1e-30,
    ]
    .iter()
    .map(|value| u64::from(value.to_bits()))
    .collect();
    // Ties of bf16 and f16.
    all.extend([
        0x3f80_8000u64,
        0x3f81_8000,
        0x3f80_8001,
        0x3f80_7fff,
        0x3f80_1000,
        0x3f80_3000,
        0x7f7f_8000,
        0x3880_0fff,
    ]);
    let mut random = noise(1);
    all.extend((0..8).map(|_| random() & 0xffff_ffff));
    all
}

fn words() -> Vec<u64> {
    let mut random = noise(2);
    let mut all = vec![0, 1, 2, 3, 7, 31, 32, 33, 255, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, 0xffff_fffe, 0xffff_ffff];
    all.extend((0..6).map(|_| random() & 0xffff_ffff));
    all
}

fn doubles() -> Vec<u64> {
    let mut random = noise(3);
    let mut all: Vec<u64> =
        [0.0, -0.0, 1.0, -1.5, 0.1, 1e-310, 1e308, f64::INFINITY, f64::NAN, 4294967296.5, -2147483648.5, 1e19, 3e-46]
            .iter()
            .map(|value: &f64| value.to_bits())
            .collect();
    all.extend((0..5).map(|_| random()));
    all
}

fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// The bits of a result in f32, with the device's NaN.
fn single(value: f32) -> u64 {
    u64::from(if value.is_nan() { 0x7fff_ffff } else { value.to_bits() })
}

fn flushed(bits: u64) -> f32 {
    let value = f(bits);
    if value.is_subnormal() { 0f32.copysign(value) } else { value }
}

#[test]
fn f32_arithmetic_rounds_to_nearest() {
    let s = singles();
    let two: [&[u64]; 2] = [&s, &s];
    check("add.rn.f32 D, A, B;", B32, &[B32, B32], &two, |v| single(f(v[0]) + f(v[1])));
    check("sub.f32 D, A, B;", B32, &[B32, B32], &two, |v| single(f(v[0]) - f(v[1])));
    check("mul.rn.f32 D, A, B;", B32, &[B32, B32], &two, |v| single(f(v[0]) * f(v[1])));
    check("div.rn.f32 D, A, B;", B32, &[B32, B32], &two, |v| single(f(v[0]) / f(v[1])));
    check("sqrt.rn.f32 D, A;", B32, &[B32], &[&s], |v| single(f(v[0]).sqrt()));
    check("rcp.rn.f32 D, A;", B32, &[B32], &[&s], |v| single(1.0 / f(v[0])));
    check("fma.rn.f32 D, A, B, C;", B32, &[B32; 3], &[&s, &s, &s], |v| single(f(v[0]).mul_add(f(v[1]), f(v[2]))));
    check("mul.rn.ftz.f32 D, A, B;", B32, &[B32, B32], &two, |v| {
        let product = flushed(v[0]) * flushed(v[1]);
        single(flushed(u64::from(product.to_bits())))
    });
    check("add.rn.sat.f32 D, A, B;", B32, &[B32, B32], &two, |v| {
        let sum = f(v[0]) + f(v[1]);
        single(if sum > 0.0 { sum.min(1.0) } else { 0.0 })
    });
    check("min.f32 D, A, B;", B32, &[B32, B32], &[&s[2..10], &s[2..20]], |v| single(f(v[0]).min(f(v[1]))));
    check("max.NaN.f32 D, A, B;", B32, &[B32, B32], &[&s[2..], &s[2..]], |v| {
        let nan = f(v[0]).is_nan() || f(v[1]).is_nan();
        single(if nan { f32::NAN } else { f(v[0]).max(f(v[1])) })
    });
    check("neg.f32 D, A;", B32, &[B32], &[&s], |v| v[0] ^ 0x8000_0000);
    check("abs.f32 D, A;", B32, &[B32], &[&s], |v| v[0] & 0x7fff_ffff);
}

#[test]
fn f32_arithmetic_rounds_in_directions() {
    let s: Vec<u64> = singles().into_iter().filter(|bits| f(*bits).is_finite() && f(*bits).abs() < 1e19).collect();
    // The exact value lies between the two directions, which are neighbours or equal; towards zero is one of them.
    for (name, exact) in [("add", (|a, b| a + b) as fn(f64, f64) -> f64), ("mul", |a, b| a * b), ("div", |a, b| a / b)]
    {
        let tuples: Vec<(u64, u64)> = s.iter().flat_map(|a| s.iter().map(|b| (*a, *b))).collect();
        let columns = [tuples.iter().map(|t| t.0).collect(), tuples.iter().map(|t| t.1).collect()];
        let run = |mode: &str| evaluate(&format!("{name}.{mode}.f32 D, A, B;"), B32, &[B32, B32], &columns);
        let (down, up, zero, near) = (run("rm"), run("rp"), run("rz"), run("rn"));
        for (index, &(a, b)) in tuples.iter().enumerate() {
            let value = exact(f64::from(f(a)), f64::from(f(b)));
            if !value.is_finite() {
                continue;
            }
            let (down, up, zero, near) = (f(down[index]), f(up[index]), f(zero[index]), f(near[index]));
            let context = format!("{name} of {:e} and {:e}: {down:e} {up:e} {zero:e} {near:e}", f(a), f(b));
            assert!(f64::from(down) <= value && value <= f64::from(up), "{context}");
            assert!(down == up || down.next_up() == up, "{context}");
            assert!(zero == if value > 0.0 { down } else { up }, "{context}");
            assert!(near == down || near == up, "{context}");
        }
    }
}

#[test]
fn f64_arithmetic() {
    let s = doubles();
    let g = f64::from_bits;
    let same = |a: f64, bits: u64| if a.is_nan() { g(bits).is_nan() } else { a.to_bits() == bits };
    let tuples: Vec<(u64, u64)> = s.iter().flat_map(|a| s.iter().map(|b| (*a, *b))).collect();
    let columns = [tuples.iter().map(|t| t.0).collect(), tuples.iter().map(|t| t.1).collect()];
    for (name, exact) in [
        ("add.rn", (|a, b| a + b) as fn(f64, f64) -> f64),
        ("sub.rn", |a, b| a - b),
        ("mul.rn", |a, b| a * b),
        ("div.rn", |a, b| a / b),
    ] {
        let found = evaluate(&format!("{name}.f64 D, A, B;"), B64, &[B64, B64], &columns);
        for (&(a, b), found) in tuples.iter().zip(found) {
            assert!(same(exact(g(a), g(b)), found), "{name} of {:e} and {:e}: {:e}", g(a), g(b), g(found));
        }
    }
    check("fma.rn.f64 D, A, B, C;", B64, &[B64; 3], &[&s[2..7], &s[2..7], &s[2..7]], |v| {
        g(v[0]).mul_add(g(v[1]), g(v[2])).to_bits()
    });
}

#[test]
fn conversions_of_floating_point() {
    let s = singles();
    let brain = |v: f32| if v.is_nan() { 0x7fff } else { u64::from(bf16::from_f32(v).to_bits()) };
    let half = |v: f32| if v.is_nan() { 0x7fff } else { u64::from(f16::from_f32(v).to_bits()) };
    check("cvt.rn.bf16.f32 D, A;", B16, &[B32], &[&s], |v| brain(f(v[0])));
    check("cvt.rn.f16.f32 D, A;", B16, &[B32], &[&s], |v| half(f(v[0])));
    check("cvt.rz.bf16.f32 D, A;", B16, &[B32], &[&s], |v| if f(v[0]).is_nan() { 0x7fff } else { v[0] >> 16 });
    check("cvt.rn.relu.bf16.f32 D, A;", B16, &[B32], &[&s], |v| {
        if f(v[0]).is_nan() { 0x7fff } else { brain(f(v[0]).max(0.0)) & 0x7fff }
    });
    check("cvt.rn.bf16x2.f32 D, A, B;", B32, &[B32, B32], &[&s, &s], |v| brain(f(v[0])) << 16 | brain(f(v[1])));
    check("cvt.rn.f16x2.f32 D, A, B;", B32, &[B32, B32], &[&s, &s], |v| half(f(v[0])) << 16 | half(f(v[1])));
    let all: Vec<u64> = (0..65536).collect();
    check("cvt.f32.f16 D, A;", B32, &[B16], &[&all], |v| single(f16::from_bits(v[0] as u16).to_f32()));
    check("cvt.f64.f16 D, A;", B64, &[B16], &[&all[..0x7c00]], |v| f16::from_bits(v[0] as u16).to_f64().to_bits());
    check("cvt.f32.bf16 D, A;", B32, &[B16], &[&all[..0x7f80]], |v| v[0] << 16);
    check("cvt.f64.f32 D, A;", B64, &[B32], &[&s[..14]], |v| f64::from(f(v[0])).to_bits());
    check("cvt.rn.f32.f64 D, A;", B32, &[B64], &[&doubles()], |v| single(f64::from_bits(v[0]) as f32));
    check("cvt.rna.tf32.f32 D, A;", B32, &[B32], &[&s[..12]], |v| (v[0] + 0x1000) & 0xffff_e000);
    check("cvt.rni.f32.f32 D, A;", B32, &[B32], &[&s], |v| single(f(v[0]).round_ties_even()));
    check("cvt.rmi.f32.f32 D, A;", B32, &[B32], &[&s], |v| single(f(v[0]).floor()));
    check("cvt.sat.f32.f32 D, A;", B32, &[B32], &[&s[2..]], |v| {
        single(if f(v[0]).is_nan() { 0.0 } else { f(v[0]).clamp(0.0, 1.0) + 0.0 })
    });
}

#[test]
fn conversions_with_integers() {
    let (s, w) = (singles(), words());
    check("cvt.rzi.s32.f32 D, A;", B32, &[B32], &[&s], |v| f(v[0]) as i32 as u64);
    check("cvt.rzi.u32.f32 D, A;", B32, &[B32], &[&s], |v| u64::from(f(v[0]) as u32));
    check("cvt.rni.s32.f32 D, A;", B32, &[B32], &[&s], |v| f(v[0]).round_ties_even() as i32 as u64);
    check("cvt.rpi.s64.f32 D, A;", B64, &[B32], &[&s], |v| {
        if f(v[0]).is_nan() { 1 << 63 } else { f(v[0]).ceil() as i64 as u64 }
    });
    check("cvt.rzi.u8.f32 D, A;", B32, &[B32], &[&s], |v| u64::from(f(v[0]) as u8));
    check("cvt.rn.f32.s32 D, A;", B32, &[B32], &[&w], |v| single(v[0] as i32 as f32));
    check("cvt.rn.f32.u32 D, A;", B32, &[B32], &[&w], |v| single(v[0] as u32 as f32));
    check("cvt.rn.f32.u64 D, A;", B32, &[B64], &[&doubles()], |v| single(v[0] as f32));
    check("cvt.rn.f64.s64 D, A;", B64, &[B64], &[&doubles()], |v| (v[0] as i64 as f64).to_bits());
    check("cvt.rn.f16.s32 D, A;", B16, &[B32], &[&w[..12]], |v| {
        u64::from(f16::from_f64(f64::from(v[0] as i32)).to_bits())
    });
    check("cvt.s64.s32 D, A;", B64, &[B32], &[&w], |v| v[0] as i32 as i64 as u64);
    check("cvt.u64.u32 D, A;", B64, &[B32], &[&w], |v| v[0]);
    check("cvt.u32.u64 D, A;", B32, &[B64], &[&doubles()], |v| v[0]);
    check("cvt.s32.s8 D, A;", B32, &[B32], &[&w], |v| v[0] as i8 as i32 as u64);
    check("cvt.u16.u32 D, A;", B16, &[B32], &[&w], |v| v[0]);
    check("cvt.sat.s8.s32 D, A;", B32, &[B32], &[&w], |v| (v[0] as i32).clamp(-128, 127) as u64);
    check("cvt.sat.u8.s32 D, A;", B32, &[B32], &[&w], |v| (v[0] as i32).clamp(0, 255) as u64);
}

/// The half nearest to an f64, near a guess that may be one off; infinity stands where the next number would.
fn nearest(value: f64, guess: u16, infinity: u16, decode: impl Fn(u16) -> f64) -> u64 {
    if value.is_nan() {
        return 0x7fff;
    }
    if value.is_infinite() {
        return u64::from(guess);
    }
    let magnitude = |bits: u16| match bits & 0x7fff {
        bits if bits == infinity => 2.0 * decode(infinity - 1) - decode(infinity - 2),
        bits => decode(bits),
    };
    let (sign, low) = (guess & 0x8000, (guess & 0x7fff).saturating_sub(1));
    let near = (low..=(low + 2).min(infinity)).min_by(|a, b| {
        let distance = |bits: u16| (magnitude(bits) - value.abs()).abs();
        distance(*a).total_cmp(&distance(*b)).then((a & 1).cmp(&(b & 1)))
    });
    u64::from(sign | near.unwrap())
}

#[test]
fn arithmetic_on_halves() {
    let mut random = noise(7);
    let mut halves: Vec<u64> = vec![0, 0x8000, 1, 0x3c00, 0xbc00, 0x7bff, 0x7c00, 0x0400, 0x3f80, 0xbf80, 0x7f7f];
    halves.extend((0..12).map(|_| random() & 0xffff));
    let two: [&[u64]; 2] = [&halves, &halves];
    let three: [&[u64]; 3] = [&halves, &halves, &halves];
    let h = |bits: u64| f16::from_bits(bits as u16).to_f64();
    let b = |bits: u64| bf16::from_bits(bits as u16).to_f64();
    let half = |v: f64| nearest(v, f16::from_f64(v).to_bits(), 0x7c00, |bits| f16::from_bits(bits).to_f64());
    let brain = |v: f64| nearest(v, bf16::from_f64(v).to_bits(), 0x7f80, |bits| bf16::from_bits(bits).to_f64());
    check("add.rn.f16 D, A, B;", B16, &[B16, B16], &two, |v| half(h(v[0]) + h(v[1])));
    check("mul.f16 D, A, B;", B16, &[B16, B16], &two, |v| half(h(v[0]) * h(v[1])));
    check("mul.bf16 D, A, B;", B16, &[B16, B16], &two, |v| brain(b(v[0]) * b(v[1])));
    check("neg.f16 D, A;", B16, &[B16], &[&halves], |v| v[0] ^ 0x8000);
    // The sum of a product and a half is exact in f64 where the exponents are near each other.
    let near = |x: f64, y: f64, z: f64| {
        let (low, high) = ((x * y).abs().min(z.abs()), (x * y).abs().max(z.abs()));
        low == 0.0 || high / low < 1e8 || high.is_nan()
    };
    check("fma.rn.f16 D, A, B, C;", B16, &[B16; 3], &three, |v| half(h(v[0]).mul_add(h(v[1]), h(v[2]))));
    let triples: Vec<[u64; 3]> = (0..3000).map(|_| [random() & 0xffff, random() & 0xffff, random() & 0xffff]).collect();
    let columns = [0, 1, 2].map(|i| triples.iter().map(|triple| triple[i]).collect::<Vec<u64>>());
    let found = evaluate("fma.rn.bf16 D, A, B, C;", B16, &[B16; 3], &columns);
    for (t, found) in triples.iter().zip(found) {
        if near(b(t[0]), b(t[1]), b(t[2])) {
            assert_eq!(found, brain(b(t[0]).mul_add(b(t[1]), b(t[2]))), "{t:x?}");
        }
    }
    let pairs: Vec<u64> = halves.windows(2).map(|two| two[0] << 16 | two[1]).collect();
    check("add.f16x2 D, A, B;", B32, &[B32, B32], &[&pairs, &pairs], |v| {
        half(h(v[0] >> 16) + h(v[1] >> 16)) << 16 | half(h(v[0]) + h(v[1]))
    });
    check("fma.rn.bf16x2 D, A, B, A;", B32, &[B32, B32], &[&pairs[7..8], &pairs[8..9]], |v| {
        let one = |x: u64, y: u64| brain(b(x).mul_add(b(y), b(x)));
        one(v[0] >> 16, v[1] >> 16) << 16 | one(v[0], v[1])
    });
}

#[test]
fn integer_arithmetic() {
    let (w, d) = (words(), doubles());
    let two: [&[u64]; 2] = [&w, &w];
    let (i, u) = (|v: u64| v as i32, |v: u64| v as u32);
    let pair = &[B32, B32];
    check("add.s32 D, A, B;", B32, pair, &two, |v| v[0].wrapping_add(v[1]));
    check("sub.s32 D, A, B;", B32, pair, &two, |v| v[0].wrapping_sub(v[1]));
    check("mul.lo.s32 D, A, B;", B32, pair, &two, |v| v[0].wrapping_mul(v[1]));
    check("mul.hi.u32 D, A, B;", B32, pair, &two, |v| (v[0] * v[1]) >> 32);
    check("mul.hi.s32 D, A, B;", B32, pair, &two, |v| ((i64::from(i(v[0])) * i64::from(i(v[1]))) >> 32) as u64);
    check("mul.wide.s32 D, A, B;", B64, pair, &two, |v| (i64::from(i(v[0])) * i64::from(i(v[1]))) as u64);
    check("mul.wide.u32 D, A, B;", B64, pair, &two, |v| v[0] * v[1]);
    check("mad.lo.s32 D, A, B, A;", B32, pair, &two, |v| v[0].wrapping_mul(v[1]).wrapping_add(v[0]));
    check("div.s32 D, A, B;", B32, pair, &[&w, &w[1..]], |v| i(v[0]).wrapping_div(i(v[1])) as u64);
    check("div.u32 D, A, B;", B32, pair, &two, |v| v[0].checked_div(v[1]).unwrap_or(u64::MAX));
    check("rem.s32 D, A, B;", B32, pair, &[&w, &w[1..]], |v| i(v[0]).wrapping_rem(i(v[1])) as u64);
    check("rem.u64 D, A, B;", B64, &[B64, B64], &[&d, &d[2..]], |v| v[0] % v[1]);
    check("mul.hi.u64 D, A, B;", B64, &[B64, B64], &[&d, &d], |v| ((u128::from(v[0]) * u128::from(v[1])) >> 64) as u64);
    check("min.s32 D, A, B;", B32, pair, &two, |v| i(v[0]).min(i(v[1])) as u64);
    check("max.u32 D, A, B;", B32, pair, &two, |v| v[0].max(v[1]));
    check("abs.s32 D, A;", B32, &[B32], &[&w], |v| i(v[0]).wrapping_abs() as u64);
    check("neg.s64 D, A;", B64, &[B64], &[&d], |v| v[0].wrapping_neg());
    check("shl.b32 D, A, B;", B32, pair, &two, |v| if v[1] > 31 { 0 } else { v[0] << v[1] });
    check("shr.u32 D, A, B;", B32, pair, &two, |v| if v[1] > 31 { 0 } else { v[0] >> v[1] });
    check("shr.s32 D, A, B;", B32, pair, &two, |v| (i(v[0]) >> v[1].min(31)) as u64);
    check("shr.u64 D, A, B;", B64, &[B64, B32], &[&d, &w], |v| v[0].checked_shr(u(v[1])).unwrap_or(0));
    check("clz.b32 D, A;", B32, &[B32], &[&w], |v| u64::from(u(v[0]).leading_zeros()));
    check("popc.b64 D, A;", B32, &[B64], &[&d], |v| u64::from(v[0].count_ones()));
    check("brev.b32 D, A;", B32, &[B32], &[&w], |v| u64::from(u(v[0]).reverse_bits()));
    check("bfind.u32 D, A;", B32, &[B32], &[&w], |v| {
        if v[0] == 0 { u64::MAX } else { 31 - u64::from(u(v[0]).leading_zeros()) }
    });
    check("bfe.u32 D, A, B, 5;", B32, pair, &two, |v| v[0].checked_shr(u(v[1]) & 255).unwrap_or(0) & 31);
    check("bfe.s32 D, A, 4, 8;", B32, &[B32], &[&w], |v| (v[0] >> 4) as i8 as u64);
    check("bfi.b32 D, A, B, 4, 8;", B32, pair, &two, |v| v[1] & !0xff0 | (v[0] & 0xff) << 4);
    check("bmsk.clamp.b32 D, A, 3;", B32, &[B32], &[&w], |v| 7u64.checked_shl(u(v[0])).unwrap_or(0));
    check("szext.clamp.s32 D, A, 8;", B32, &[B32], &[&w], |v| v[0] as i8 as u64);
    check("prmt.b32 D, A, B, 0x5410;", B32, pair, &two, |v| v[1] << 16 | v[0] & 0xffff);
    check("prmt.b32 D, A, B, 0x7632;", B32, pair, &two, |v| v[1] & 0xffff_0000 | v[0] >> 16);
    check("lop3.b32 D, A, B, A, 0x96;", B32, pair, &two, |v| v[0] ^ v[1] ^ v[0]);
    check("shf.l.wrap.b32 D, A, A, B;", B32, pair, &two, |v| u64::from(u(v[0]).rotate_left(u(v[1]) & 31)));
    check("shf.r.clamp.b32 D, A, B, 7;", B32, pair, &two, |v| (v[1] << 32 | v[0]) >> 7);
    check("{ .reg .b32 t; add.cc.u32 t, A, B; addc.u32 D, 0, 0; }", B32, pair, &two, |v| (v[0] + v[1]) >> 32);
    check("{ .reg .b32 t; sub.cc.u32 t, A, B; subc.u32 D, 0, 0; }", B32, pair, &two, |v| {
        if v[0] < v[1] { u64::MAX } else { 0 }
    });
}

#[test]
fn comparisons_and_selections() {
    let (s, w) = (singles(), words());
    let text = |compare: &str| format!("{{ .reg .pred q; {compare} selp.b32 D, 1, 0, q; }}");
    let bit = u64::from;
    for (name, holds) in [
        ("lt", (|a, b| a < b) as fn(f32, f32) -> bool),
        ("neu", |a, b| a != b),
        ("ne", |a, b| a != b && !a.is_nan() && !b.is_nan()),
        ("geu", |a, b| !matches!(a.partial_cmp(&b), Some(std::cmp::Ordering::Less))),
        ("num", |a, b| !a.is_nan() && !b.is_nan()),
    ] {
        let instruction = text(&format!("setp.{name}.f32 q, A, B;"));
        check(&instruction, B32, &[B32, B32], &[&s, &s], |v| bit(holds(f(v[0]), f(v[1]))));
    }
    check(&text("setp.lt.s32 q, A, B;"), B32, &[B32, B32], &[&w, &w], |v| bit((v[0] as i32) < v[1] as i32));
    check(&text("setp.hs.u32 q, A, B;"), B32, &[B32, B32], &[&w, &w], |v| bit(v[0] >= v[1]));
    let both = text(".reg .pred o; setp.ne.s32 o, A, 0; setp.gt.and.s32 q, A, B, !o;");
    check(&both, B32, &[B32, B32], &[&w, &w], |v| bit(v[0] == 0 && 0 > v[1] as i32));
    check("set.lt.u32.s32 D, A, B;", B32, &[B32, B32], &[&w, &w], |v| {
        if (v[0] as i32) < v[1] as i32 { u64::MAX } else { 0 }
    });
}
