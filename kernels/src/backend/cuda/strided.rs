//! Tensor views as kernels take them: `View` of `view.cuh`.

use crate::view::{MAX_DIMS, View};

/// A view as a kernel's parameter: rows of contiguous elements, and where each row begins.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Strided {
    /// Address of the first element; 0 = no tensor.
    pub data: u64,
    /// Leading dimensions, merged where the strides allow it.
    pub lead: i64,
    /// Extents of the leading dimensions, outermost first.
    pub extent: [i64; 4],
    /// Strides of the leading dimensions, in elements.
    pub stride: [i64; 4],
}

impl Strided {
    /// No tensor: a null address.
    pub const NONE: Strided = Strided { data: 0, lead: 0, extent: [1; 4], stride: [0; 4] };

    /// The rows of a view.
    pub fn rows(view: &View<'_>) -> Strided {
        let view = view.collapsed();
        let lead = view.ndim().saturating_sub(1);
        let mut strided = Strided { data: view.data() as u64, lead: lead as i64, ..Strided::NONE };
        for d in 0..lead {
            strided.extent[d] = view.shape()[d] as i64;
            strided.stride[d] = view.stride()[d] as i64;
        }
        strided
    }

    /// The elements of a view of at most four dimensions, each as a row of its own.
    pub fn elements(view: &View<'_>) -> Strided {
        let n = view.ndim();
        let (mut shape, mut stride) = ([1; MAX_DIMS], [1; MAX_DIMS]);
        shape[..n].copy_from_slice(view.shape());
        stride[..n].copy_from_slice(view.stride());
        // SAFETY: the elements of a view, whose maker promised them.
        let rows = unsafe { View::new("elements", view.data(), view.dtype(), &shape[..=n], &stride[..=n]) };
        Strided::rows(&rows.expect("a view with one dimension fewer than may be"))
    }

    /// Whether every row begins at a multiple of `bytes`, where an element has `size` bytes.
    pub fn is_aligned(&self, bytes: usize, size: usize) -> bool {
        let mut strides = self.extent.iter().zip(&self.stride).filter(|(extent, _)| **extent > 1);
        self.data.is_multiple_of(bytes as u64)
            && strides.all(|(_, stride)| (*stride as usize * size).is_multiple_of(bytes))
    }

    /// The rows of a view that may be absent.
    pub fn rows_of(view: &Option<View<'_>>) -> Strided {
        view.as_ref().map_or(Strided::NONE, Strided::rows)
    }
}
