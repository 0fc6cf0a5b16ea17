//! Element-wise maps on the device: what `elementwise.cuh` takes, made from views.

use super::{Gpu, Launch, Strided};
use crate::philox::Key;
use crate::view::View;

/// Threads of a block: ELEMENTWISE_THREADS.
const THREADS: u32 = 256;

/// Most blocks for each multiprocessor: a few more than run at once, so that none waits for the last.
const BLOCKS: u32 = 16;

/// Bytes of an access.
const ACCESS: usize = 16;

/// The tensors of a map, inputs first: `Tensors` of `elementwise.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elementwise<const N: usize> {
    tensors: [Strided; N],
    rows: i64,
    width: i64,
    packs: i64,
    step_rows: i64,
    step_packs: i64,
    aligned: i32,
    simple: i32,
}

impl<const N: usize> Elementwise<N> {
    /// The map over `views`, inputs first, which have one shape and contiguous rows, and how to launch it; none where
    /// there is no element.
    pub(crate) fn new(gpu: &Gpu<'_>, views: [View<'_>; N]) -> Option<(Elementwise<N>, Launch)> {
        Elementwise::from(gpu, views, |_, _| true)
    }

    /// [`Elementwise::new`] with a random word per element, from the word `first` of the stream of `key` on.
    pub(crate) fn random(
        gpu: &Gpu<'_>,
        views: [View<'_>; N],
        key: Key,
        first: u64,
    ) -> Option<(Elementwise<N>, Launch, Stream)> {
        // Else a pack would begin inside a block of words.
        let whole_blocks = |rows, width: usize| first.is_multiple_of(4) && (rows == 1 || width.is_multiple_of(4));
        let (elementwise, launch) = Elementwise::from(gpu, views, whole_blocks)?;
        Some((elementwise, launch, Stream::new(key, first)))
    }

    fn from(
        gpu: &Gpu<'_>,
        views: [View<'_>; N],
        packed: impl Fn(usize, usize) -> bool,
    ) -> Option<(Elementwise<N>, Launch)> {
        let flat = views.iter().all(View::is_contiguous);
        let views = if flat { views.map(|view| view.flattened()) } else { views };
        let (rows, width) = (views[0].row_count(), views[0].width());
        if rows * width == 0 {
            return None;
        }
        let tensors = views.each_ref().map(Strided::rows);
        let widest = views.iter().map(|view| view.dtype().size()).max().unwrap_or(ACCESS);
        let pack = ACCESS / widest;
        let aligned = packed(rows, width)
            && views.iter().zip(&tensors).all(|(view, tensor)| {
                let mut strides = tensor.extent.iter().zip(&tensor.stride).filter(|(extent, _)| **extent > 1);
                (tensor.data as usize).is_multiple_of(pack * view.dtype().size())
                    && strides.all(|(_, stride)| stride % pack as i64 == 0)
            });
        let packs = if aligned { width.div_ceil(pack) } else { width };
        let blocks = gpu.blocks((rows * packs).div_ceil(THREADS as usize), BLOCKS);
        let step = blocks as usize * THREADS as usize;
        let elementwise = Elementwise {
            tensors,
            rows: rows as i64,
            width: width as i64,
            packs: packs as i64,
            step_rows: (step / packs) as i64,
            step_packs: (step % packs) as i64,
            aligned: aligned.into(),
            simple: tensors.iter().all(|tensor| tensor.lead <= 1).into(),
        };
        Some((elementwise, Launch::linear(blocks, THREADS)))
    }
}

/// A stream of random words, and where in it a tensor starts: `Philox` of `philox.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    key: [u32; 2],
    step: [u32; 2],
    tensor: u32,
    padding: u32,
    first: u64,
}

impl Stream {
    /// The stream of `key` from the word `first` on.
    pub(crate) fn new(key: Key, first: u64) -> Stream {
        let [_, step_high, step_low, tensor] = key.counter(0);
        Stream { key: key.words(), step: [step_low, step_high], tensor, padding: 0, first }
    }
}
