//! What is ordered before what: the clock of a warp, and what it knows of other warps.
//!
//! Each warp counts ticks. A byte of shared memory remembers the thread and the tick of its last accesses. An access is
//! ordered after an earlier one of another warp if a barrier has told this warp of that tick; of another lane of the
//! same warp, if a warp-wide instruction lies between, or if the lanes ran together all the time.

use super::warp::Group;

/// The most warps of a block.
pub(crate) const WARPS: usize = 32;

/// The clock of a warp.
#[derive(Default)]
pub(crate) struct Order {
    tick: u32,
    /// All lanes synchronised at this tick.
    whole: u32,
    /// Pairs of lanes that synchronised, where a part of the warp did.
    pairs: Option<Box<[[u32; 32]; 32]>>,
    /// Accesses of other warps before these ticks are ordered before this warp's.
    pub(crate) known: [u32; WARPS],
    /// Accesses of any thread before this tick are ordered before this warp's.
    floor: u32,
}

impl Order {
    pub(crate) fn start(&mut self, tick: u32, warps: usize) {
        self.tick = tick;
        self.whole = tick;
        self.pairs = None;
        self.known = [u32::MAX; WARPS];
        self.known[..warps].fill(tick);
        self.floor = tick;
    }

    /// Takes over what a barrier tells of other warps. The own warp has just synchronised.
    pub(crate) fn learn(&mut self, index: u32, known: &[u32; WARPS]) {
        let mut floor = self.whole;
        for (warp, (mine, theirs)) in self.known.iter_mut().zip(known).enumerate() {
            *mine = (*mine).max(*theirs);
            if warp != index as usize {
                floor = floor.min(*mine);
            }
        }
        self.floor = floor;
    }

    /// Accesses of any thread before this tick are ordered before this warp's.
    #[inline(always)]
    pub(crate) fn floor(&self) -> u32 {
        self.floor
    }

    pub(crate) fn tick(&self) -> u32 {
        self.tick
    }

    /// A new tick.
    pub(crate) fn advance(&mut self) -> u32 {
        self.tick += 1;
        self.tick
    }

    /// Notes that lanes have synchronised: `live` are those that have not exited.
    pub(crate) fn synchronise(&mut self, members: u32, live: u32) {
        self.tick += 1;
        if live & !members == 0 {
            self.whole = self.tick;
            return;
        }
        let tick = self.tick;
        let pairs = self.pairs.get_or_insert_with(|| Box::new([[0; 32]; 32]));
        for first in crate::registers::lanes(members) {
            for second in crate::registers::lanes(members) {
                pairs[first][second] = tick;
            }
        }
    }

    /// Whether an access at `tick` by `lane` of warp `warp` is ordered before what `group`'s `own` lane does now.
    #[inline(always)]
    pub(crate) fn is_before(&self, index: u32, group: &Group, own: u32, warp: u32, lane: u32, tick: u32) -> bool {
        if warp != index {
            return tick < self.known[warp as usize];
        }
        if lane == own || tick < self.whole {
            return true;
        }
        let together = tick >= group.since && (group.mask >> lane & 1 == 1 || tick < group.split);
        together || self.pairs.as_ref().is_some_and(|pairs| tick < pairs[own as usize][lane as usize])
    }
}
