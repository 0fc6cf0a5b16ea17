use super::{ChooseOverflow, FOUND_WORDS};
use crate::ops::step_control::Control;
use std::cmp::Reverse;

pub(super) fn run(op: &ChooseOverflow<'_>) {
    let mut control = Control::read(&op.control);
    if control.search == 0 {
        return;
    }
    // SAFETY: the check required contiguous words.
    let found = unsafe { std::slice::from_raw_parts(op.found.ptr::<i64>().cast::<[u64; FOUND_WORDS]>(), op.ranks()) };
    let ranks = (0u32..).zip(found);
    let (rank, [overflow, largest]) = ranks
        .max_by_key(|(rank, [overflow, largest])| (*largest, *overflow, Reverse(*rank)))
        .expect("one for each rank");
    (control.overflow, control.largest, control.overflow_rank) = (*overflow, *largest, rank);
    control.write(&op.control);
}
