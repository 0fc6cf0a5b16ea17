//! Where the weights of parameters whose shards are on several ranks are while they are in use: a fixed memory, in which
//! each has a place from its gathering until another one needs the room.
//!
//! The arithmetic depends on nothing but the calls, so ranks that make the same calls agree on what is where.

use std::ops::Range;

/// Bytes that places are aligned to.
const ALIGNMENT: usize = 256;

struct Place {
    parameter: usize,
    bytes: Range<usize>,
    /// When it was last asked for.
    used: u64,
}

/// The places of parameters in a memory.
#[derive(Default)]
pub(crate) struct Gathered {
    capacity: usize,
    /// In order of their bytes.
    places: Vec<Place>,
    clock: u64,
}

/// What a parameter takes there.
pub(crate) fn room(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

impl Gathered {
    /// A memory of `capacity` bytes.
    pub(crate) fn new(capacity: usize) -> Gathered {
        Gathered { capacity, ..Gathered::default() }
    }

    /// Bytes of the memory.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Where a parameter is, if it is there.
    pub(crate) fn find(&mut self, parameter: usize) -> Option<Range<usize>> {
        self.clock += 1;
        let place = self.places.iter_mut().find(|place| place.parameter == parameter)?;
        place.used = self.clock;
        Some(place.bytes.clone())
    }

    /// Makes a place for a parameter that is not there; parameters that are not busy lose theirs if need be, the one that
    /// has not been asked for the longest first. None, and nothing has changed, when there is no room between the busy
    /// ones.
    pub(crate) fn place(
        &mut self,
        parameter: usize,
        bytes: usize,
        busy: impl Fn(usize) -> bool,
    ) -> Option<Range<usize>> {
        let bytes = room(bytes);
        if bytes == 0 {
            // It needs none, and would have no order among the others.
            return Some(0..0);
        }
        gap(self.places.iter().filter(|place| busy(place.parameter)), self.capacity, bytes)?;
        let start = loop {
            if let Some(start) = gap(self.places.iter(), self.capacity, bytes) {
                break start;
            }
            let idle = self.places.iter().enumerate().filter(|(_, place)| !busy(place.parameter));
            let (oldest, _) = idle.min_by_key(|(_, place)| place.used).expect("without the idle ones there is room");
            self.places.remove(oldest);
        };
        self.clock += 1;
        let at = self.places.partition_point(|place| place.bytes.start < start);
        self.places.insert(at, Place { parameter, bytes: start..start + bytes, used: self.clock });
        Some(start..start + bytes)
    }

    /// Bytes of parameters that are busy.
    pub(crate) fn held(&self, busy: impl Fn(usize) -> bool) -> usize {
        self.places.iter().filter(|place| busy(place.parameter)).map(|place| place.bytes.len()).sum()
    }

    /// Forgets a parameter: its weights have changed.
    pub(crate) fn forget(&mut self, parameter: usize) {
        self.places.retain(|place| place.parameter != parameter);
    }

    /// Forgets all parameters.
    pub(crate) fn clear(&mut self) {
        self.places.clear();
    }
}

/// The first gap of `bytes` bytes between places, which are in order.
fn gap<'a>(places: impl Iterator<Item = &'a Place>, capacity: usize, bytes: usize) -> Option<usize> {
    let mut start = 0;
    for place in places {
        if place.bytes.start - start >= bytes {
            return Some(start);
        }
        start = place.bytes.end;
    }
    (capacity - start >= bytes).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn places_never_overlap_and_the_busy_stay(
            sizes in prop::collection::vec(0usize..2000, 12),
            calls in prop::collection::vec((0usize..12, any::<bool>()), 1..200),
        ) {
            let mut memory = Gathered::new(8 * 1024);
            let mut busy = [false; 12];
            for (parameter, now) in calls {
                let bytes = sizes[parameter];
                let before: Vec<_> = (0..12).map(|p| memory.find(p)).collect();
                if before[parameter].is_none() {
                    let free = memory.capacity() - memory.held(|p| busy[p]);
                    match memory.place(parameter, bytes, |p| busy[p]) {
                        Some(place) => prop_assert!(place.len() == room(bytes) && place.start.is_multiple_of(ALIGNMENT)),
                        None => {
                            prop_assert!(free < room(bytes) + 11 * 2048, "refused with {} free", free);
                            prop_assert_eq!(&(0..12).map(|p| memory.find(p)).collect::<Vec<_>>(), &before);
                            continue;
                        }
                    }
                    for p in (0..12).filter(|p| busy[*p]) {
                        prop_assert_eq!(memory.find(p), before[p].clone());
                    }
                }
                busy[parameter] = now;
                let mut all: Vec<_> = (0..12).filter_map(|p| memory.find(p)).collect();
                all.sort_by_key(|place| place.start);
                prop_assert!(all.windows(2).all(|w| w[0].end <= w[1].start));
                prop_assert!(all.iter().all(|place| place.end <= memory.capacity()));
            }
        }
    }

    #[test]
    fn the_one_not_asked_for_the_longest_goes_first() {
        let mut memory = Gathered::new(3 * 256);
        for p in 0..3 {
            assert_eq!(memory.place(p, 200, |_| false), Some(p * 256..(p + 1) * 256));
        }
        memory.find(0);
        assert_eq!(memory.place(3, 256, |_| false), Some(256..512));
        assert_eq!((memory.find(1), memory.find(0)), (None, Some(0..256)));
        assert_eq!(memory.place(4, 600, |p| p == 3), None, "no room beside the busy one");
        assert_eq!(memory.find(2), Some(512..768));
        memory.forget(2);
        memory.clear();
        assert_eq!(memory.find(0), None);
        assert_eq!(memory.place(4, 768, |_| false), Some(0..768));
    }
}
