//! The fast version. The lanes of a vector are queries: a block of queries is transposed once, keys and values are
//! broadcast from their rows, so a softmax runs over vectors without any reduction across lanes.
//!
//! | module | is |
//! |---|---|
//! | `product` | register-blocked products of tiles, in f32 or in pairs of bf16 |
//! | `pack` | tiles rearranged for the products |
//! | `forward` | the forward pass |
//! | `gradient_tile` | a block of queries against a tile of keys in the backward pass |
//! | `backward` | the backward pass over blocks and tiles |

pub(super) mod backward;
pub(super) mod forward;
mod gradient_tile;
mod pack;
mod product;

use crate::backend::cpu::{Element, Kernel, Simd};
use crate::view::View;

/// Keys of a tile.
const KEYS: usize = 64;
/// Keys of a tile that the causal diagonal crosses.
const DIAGONAL_KEYS: usize = 32;
/// Most queries of a block at any level; rows of a tile are this long at the widest.
const MOST_QUERIES: usize = 64;
/// Rows of a product's tile of sums: heads and tiles of keys are multiples of it.
const ROWS: usize = 4;

/// Vectors of a block of queries: four, or as many as leave registers for the other factors.
const fn vectors<S: Simd>() -> usize {
    match S::REGISTERS {
        32.. => 4,
        16.. => 3,
        _ => 1,
    }
}

/// Queries of a block.
const fn queries<S: Simd>() -> usize {
    vectors::<S>() * S::LANES
}

/// Gives the queries of a block at the level that it is dispatched to.
struct BlockQueries;

impl Kernel for BlockQueries {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        queries::<S>()
    }
}

/// Runs `$body` with the constant `$N` equal to `$vectors`, at most [`vectors`] of `$S`.
macro_rules! with_vectors {
    ($S:ty, $vectors:expr, $N:ident => $body:expr) => {{
        let most = $crate::ops::attention::cpu::vectors::<$S>();
        match $vectors {
            4 if most >= 4 => {
                const $N: usize = 4;
                $body
            }
            3 if most >= 3 => {
                const $N: usize = 3;
                $body
            }
            2 if most >= 2 => {
                const $N: usize = 2;
                $body
            }
            _ => {
                const $N: usize = 1;
                $body
            }
        }
    }};
}
use with_vectors;

/// Sizes and settings of a call.
#[derive(Clone, Copy)]
struct Sizes {
    b: usize,
    t: usize,
    s: usize,
    hq: usize,
    hk: usize,
    d: usize,
    causal: bool,
    /// Factor of the scores.
    scale: f32,
}

impl Sizes {
    fn new(q: &View<'_>, k: &View<'_>, causal: bool, scale: f32) -> Sizes {
        let (q, k) = (q.shape(), k.shape());
        let scale = if scale == 0.0 { (1.0 / (q[3] as f64).sqrt()) as f32 } else { scale };
        Sizes { b: q[0], t: q[1], s: k[1], hq: q[2], hk: k[2], d: q[3], causal, scale }
    }

    /// Query heads of a key head.
    fn group(&self) -> usize {
        self.hq.checked_div(self.hk).unwrap_or(0)
    }

    /// Values of a row of d padded to whole vectors at every level.
    fn padded(&self) -> usize {
        self.d.next_multiple_of(16)
    }

    /// Factor of the products q k that gives scores in base 2.
    fn scale2(&self) -> f32 {
        (f64::from(self.scale) * std::f64::consts::LOG2_E) as f32
    }
}

/// Rows of one head of a sequence.
#[derive(Clone, Copy)]
struct Rows<E: Element> {
    first: *mut E,
    /// Elements from a row to the next.
    stride: usize,
}

impl<E: Element> Rows<E> {
    /// Head `h` of sequence `n` of a `[b, rows, heads, d]` view.
    #[inline(always)]
    fn of(view: &View<'_>, n: usize, h: usize) -> Rows<E> {
        let stride = view.stride();
        // wrapping: a view without elements has no memory to stay in.
        Rows { first: view.ptr::<E>().wrapping_add(n * stride[0] + h * stride[2]), stride: stride[1] }
    }
    /// Row `i`.
    #[inline(always)]
    fn row(&self, i: usize) -> *mut E {
        self.first.wrapping_add(i * self.stride)
    }
    /// The rows from row `i`.
    #[inline(always)]
    fn from(self, i: usize) -> Rows<E> {
        Rows { first: self.row(i), ..self }
    }
}

/// A block of queries against a tile of keys.
#[derive(Clone, Copy)]
struct Tile {
    /// First key.
    key: usize,
    /// Keys.
    keys: usize,
    /// Vectors of queries before it see none of the keys.
    vector: usize,
    /// Whether some query does not see some key.
    masked: bool,
    /// Key of the tile that the first query of the block still sees, counted from `key`; may be negative.
    diagonal: isize,
}

impl Tile {
    /// The first query, counted from the start of the block, that sees key `j` of the tile.
    #[inline(always)]
    fn first_query(&self, j: usize) -> usize {
        if self.masked { (j as isize - self.diagonal).max(0) as usize } else { 0 }
    }

    /// Lanes of vector `v` of the block that see key `j` of the tile, and are below `live`.
    #[inline(always)]
    fn visible<S: Simd>(&self, s: S, j: usize, v: usize, live: usize) -> S::M {
        let start = (v * S::LANES) as isize;
        let first = (self.first_query(j) as isize - start).clamp(0, S::LANES as isize) as i32;
        let end = (live as isize - start).clamp(0, S::LANES as isize) as i32;
        let (zero, one) = (s.splat_i(0), s.splat_i(1));
        let seen = s.select_i(s.gt_i(s.splat_i(first), s.iota()), zero, one);
        s.gt_i(s.select_i(s.gt_i(s.splat_i(end), s.iota()), seen, zero), zero)
    }
}

/// The tiles of keys that some queries of a block see, in order.
///
/// An iterator, not a function of a closure: a closure's vector code is compiled for the level only when it happens to
/// be inlined.
struct Tiles {
    /// Keys that the first query sees, and that the last one sees.
    all: usize,
    some: usize,
    key: usize,
    lanes: usize,
}

impl Tiles {
    /// Those of `live` queries from `query`.
    #[inline(always)]
    fn new<S: Simd>(sizes: &Sizes, query: usize, live: usize) -> Tiles {
        let offset = sizes.s - if sizes.causal { sizes.t } else { 0 };
        let (all, some) = if sizes.causal { (query + offset + 1, query + live + offset) } else { (sizes.s, sizes.s) };
        Tiles { all, some, key: 0, lanes: S::LANES }
    }
}

impl Iterator for Tiles {
    type Item = Tile;

    #[inline(always)]
    fn next(&mut self) -> Option<Tile> {
        let Tiles { all, some, key, lanes } = *self;
        if key >= some {
            return None;
        }
        let (mut keys, mut vector) = (KEYS.min(some - key), 0);
        if key + keys > all {
            keys = DIAGONAL_KEYS.min(some - key);
            vector = (key + 1).saturating_sub(all) / lanes;
        }
        self.key += keys;
        Some(Tile { key, keys, vector, masked: key + keys > all, diagonal: all as isize - 1 - key as isize })
    }
}

/// Adds, for each key of a tile that the diagonal crosses and each query that sees it, the `d` values of
/// `term(key, query, c)` to those at `sum(key, query, c)`.
///
/// Products add weight 0 times whatever a query does not see; where that may be NaN or infinite, this adds nothing.
///
/// # Safety
/// `sum` gives places valid for reads and writes.
#[inline(always)]
unsafe fn accumulate_visible(
    tile: &Tile,
    live: usize,
    d: usize,
    sum: impl Fn(usize, usize, usize) -> *mut f32,
    term: impl Fn(usize, usize, usize) -> f32,
) {
    for j in 0..tile.keys {
        for query in tile.first_query(j)..live {
            for c in 0..d {
                // SAFETY: the caller's promise.
                unsafe { *sum(j, query, c) += term(j, query, c) };
            }
        }
    }
}
