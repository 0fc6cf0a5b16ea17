//! The asynchronous copies of a warp that have been issued and not been waited for.

use std::collections::VecDeque;

/// One copy of one lane.
#[derive(Clone, Copy)]
pub(crate) struct Copy {
    /// The number of the lane's group of copies that it belongs to.
    group: u32,
    pub(crate) target: u32,
    pub(crate) bytes: u8,
    pub(crate) data: [u8; 16],
}

/// The copies of all lanes, in the order of issue.
#[derive(Default)]
pub(crate) struct Copies {
    lanes: [VecDeque<Copy>; 32],
    /// How many groups each lane has committed.
    committed: [u32; 32],
}

impl Copies {
    pub(crate) fn clear(&mut self) {
        self.lanes.iter_mut().for_each(VecDeque::clear);
        self.committed = [0; 32];
    }

    /// Issues a copy; its data is what the source holds now.
    pub(crate) fn issue(&mut self, lane: usize, target: u32, bytes: u8, data: [u8; 16]) {
        self.lanes[lane].push_back(Copy { group: self.committed[lane], target, bytes, data });
    }

    /// Closes the current group of a lane.
    pub(crate) fn commit(&mut self, lane: usize) {
        self.committed[lane] += 1;
    }

    /// The next copy of a lane that a wait completes which leaves `pending` groups; all copies for none.
    pub(crate) fn complete(&mut self, lane: usize, pending: Option<u32>) -> Option<Copy> {
        let queue = &mut self.lanes[lane];
        let oldest = queue.front()?.group;
        let waited = match pending {
            Some(pending) => oldest + pending < self.committed[lane],
            None => true,
        };
        if waited { queue.pop_front() } else { None }
    }
}
