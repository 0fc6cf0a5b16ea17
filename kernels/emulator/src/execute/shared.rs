//! Shared memory of a block, and for each byte who accessed it last.
//!
//! The marks are never cleared: ticks of later blocks are larger, so marks of earlier blocks are void, and a byte whose
//! last write is void is uninitialised.

use super::order::Order;
use super::warp::Group;

/// An access by one thread: the tick in the upper 32 bits, then the thread, then flags.
type Mark = u64;

/// The access is atomic, or ordered by itself (`volatile`, `relaxed`, `acquire`, `release`).
pub(crate) const STRONG: u64 = 1;

/// The bytes are the target of a `cp.async` that has not been waited for.
pub(crate) const PENDING: u64 = 2;

/// What is wrong with an access.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hazard {
    OutOfBounds,
    Uninitialised { byte: u64 },
    Race { byte: u64, thread: u32, wrote: bool },
    Pending { byte: u64, thread: u32 },
}

/// The thread that accesses, and what it knows.
#[derive(Clone, Copy)]
pub(crate) struct Accessor<'a> {
    pub(crate) warp: u32,
    pub(crate) order: &'a Order,
    pub(crate) group: &'a Group,
    pub(crate) lane: u32,
    /// [`STRONG`] or 0.
    pub(crate) strong: u64,
}

impl Accessor<'_> {
    fn mark(&self) -> Mark {
        u64::from(self.order.tick()) << 32 | u64::from(self.warp << 5 | self.lane) << 16 | self.strong
    }

    #[inline(always)]
    fn follows(&self, mark: Mark, writes: bool) -> bool {
        let (tick, thread) = ((mark >> 32) as u32, (mark >> 16) as u32 & 0xffff);
        if mark & self.strong & STRONG != 0 {
            return true;
        }
        let (warp, lane) = (thread >> 5, thread & 31);
        // Two lanes of one store instruction.
        if writes && warp == self.warp && lane != self.lane && tick == self.order.tick() {
            return false;
        }
        self.order.is_before(self.warp, self.group, self.lane, warp, lane, tick)
    }
}

/// Notes a read; the last one of another warp is kept beside it.
#[inline(always)]
fn note_read(read: &mut Mark, other: &mut Mark, mark: Mark) {
    if (*read ^ mark) >> 21 & 0x7ff != 0 {
        *other = *read;
    }
    *read = mark;
}

/// The shared memory of the block that runs.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) bytes: Vec<u8>,
    writes: Vec<Mark>,
    reads: Vec<Mark>,
    /// The last reader of another warp than the one in `reads`.
    others: Vec<Mark>,
    /// Marks with an earlier tick are void.
    start: u32,
    races: bool,
}

impl Shared {
    /// Memory for blocks of a launch.
    pub(crate) fn new(bytes: usize, races: bool) -> Shared {
        let reads = if races { bytes } else { 0 };
        Shared {
            bytes: vec![0; bytes],
            writes: vec![0; bytes],
            reads: vec![0; reads],
            others: vec![0; reads],
            start: 1,
            races,
        }
    }

    /// Forgets everything before a tick.
    pub(crate) fn start(&mut self, tick: u32) {
        self.start = tick;
    }

    /// Forgets everything, where ticks start again.
    pub(crate) fn clear(&mut self) {
        self.writes.fill(0);
        self.reads.fill(0);
        self.others.fill(0);
    }

    #[inline(always)]
    fn range(&self, address: u64, bytes: usize) -> Result<std::ops::Range<usize>, Hazard> {
        let end = address.checked_add(bytes as u64).ok_or(Hazard::OutOfBounds)?;
        if end > self.bytes.len() as u64 {
            return Err(Hazard::OutOfBounds);
        }
        Ok(address as usize..end as usize)
    }

    /// Checks a read, and notes it.
    #[inline(always)]
    pub(crate) fn read(&mut self, by: &Accessor<'_>, address: u64, bytes: usize) -> Result<usize, Hazard> {
        let range = self.range(address, bytes)?;
        if bytes.is_multiple_of(4) {
            for start in range.step_by(4) {
                self.read_word(by, start)?;
            }
            return Ok(address as usize);
        }
        let mut passed = 0;
        for byte in range.clone() {
            let write = self.writes[byte];
            if write != passed || passed == 0 {
                self.check_read(by, byte, write)?;
                passed = write;
            }
        }
        if self.races {
            let mark = by.mark();
            for byte in range {
                note_read(&mut self.reads[byte], &mut self.others[byte], mark);
            }
        }
        Ok(address as usize)
    }

    /// Four bytes, which mostly one thread has written and one warp has read.
    #[inline(always)]
    fn read_word(&mut self, by: &Accessor<'_>, start: usize) -> Result<(), Hazard> {
        let [first, second, third, fourth] = self.writes[start..start + 4] else { return Err(Hazard::OutOfBounds) };
        self.check_read(by, start, first)?;
        if first != second || first != third || first != fourth {
            self.check_read(by, start + 1, second)?;
            self.check_read(by, start + 2, third)?;
            self.check_read(by, start + 3, fourth)?;
        }
        if self.races {
            let mark = by.mark();
            let reads = &mut self.reads[start..start + 4];
            for (read, other) in reads.iter_mut().zip(&mut self.others[start..start + 4]) {
                note_read(read, other, mark);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn check_read(&self, by: &Accessor<'_>, byte: usize, write: Mark) -> Result<(), Hazard> {
        let tick = (write >> 32) as u32;
        if tick >= self.start && tick < by.order.floor() && write & PENDING == 0 {
            return Ok(());
        }
        self.check_recent_write(by, byte, write)
    }

    /// A write that is not known to be ordered before everything now, if there is one.
    fn check_recent_write(&self, by: &Accessor<'_>, byte: usize, write: Mark) -> Result<(), Hazard> {
        if (write >> 32) as u32 >= self.start {
            if write & PENDING != 0 {
                return Err(Hazard::Pending { byte: byte as u64, thread: (write >> 16) as u32 & 0xffff });
            }
            if !self.races || by.follows(write, false) {
                return Ok(());
            }
            return Err(Hazard::Race { byte: byte as u64, thread: (write >> 16) as u32 & 0xffff, wrote: true });
        }
        Err(Hazard::Uninitialised { byte: byte as u64 })
    }

    /// Checks a write, and notes it; `flags` are added to its mark.
    #[inline(always)]
    pub(crate) fn write(&mut self, by: &Accessor<'_>, address: u64, bytes: usize, flags: u64) -> Result<usize, Hazard> {
        let range = self.range(address, bytes)?;
        let floor = by.order.floor();
        for byte in range.clone() {
            let write = self.writes[byte];
            let recent = (write >> 32) as u32 >= floor || write & PENDING != 0;
            if recent && (write >> 32) as u32 >= self.start {
                let thread = (write >> 16) as u32 & 0xffff;
                if write & PENDING != 0 {
                    return Err(Hazard::Pending { byte: byte as u64, thread });
                }
                if self.races && !by.follows(write, true) {
                    return Err(Hazard::Race { byte: byte as u64, thread, wrote: true });
                }
            }
        }
        let mark = by.mark() | flags;
        if self.races {
            for byte in range.clone() {
                for read in [self.reads[byte], self.others[byte]] {
                    if (read >> 32) as u32 >= floor && !by.follows(read, false) {
                        let thread = (read >> 16) as u32 & 0xffff;
                        return Err(Hazard::Race { byte: byte as u64, thread, wrote: false });
                    }
                }
            }
        }
        self.writes[range].fill(mark);
        Ok(address as usize)
    }

    /// Lets the copy that a thread waited for become visible.
    pub(crate) fn complete(&mut self, by: &Accessor<'_>, address: usize, data: &[u8]) {
        let range = address..address + data.len();
        self.bytes[range.clone()].copy_from_slice(data);
        self.writes[range].fill(by.mark());
    }
}
