//! A ring of spans in memory of the ledger: the newest are kept.
//!
//! Threads claim slots without locks, so that a process which forks amid a span finds the ring usable.

use super::watch::Span;
use crate::cuda::{Context, NativeStream, Timeline};
use crate::error::Result;
use crate::memory::{Block, Memory, Purpose, Tier};
use scalert_kernels::backend::cuda::Handle;
use std::cell::{Cell, UnsafeCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Most bytes of a name.
const NAME_BYTES: usize = 62;

/// What is known of a span.
pub(super) struct Record {
    /// Spans are numbered in the order in which they begin.
    number: u64,
    /// When it began and ended on its thread, as [`now`] says.
    pub(super) host: [u64; 2],
    /// When its work began and ended on the device, on the same clock, once [`Kept::time`] knows.
    pub(super) device: Option<[u64; 2]>,
    pub(super) bytes: u64,
    pub(super) stream: u64,
    pub(super) implementation: Option<&'static str>,
    /// Bytes in use of each tier when it began.
    pub(super) used: [u64; Tier::ALL.len()],
    /// Marks in streams are numbered in their order from 1 on; 0 = none.
    marks: [u64; 2],
    /// What marks begin and end in the stream: made at first use, and then the slot's for good.
    events: [Handle; 2],
    pub(super) thread: u32,
    pub(super) is_range: bool,
    name_bytes: u8,
    name: [u8; NAME_BYTES],
}

impl Record {
    const EMPTY: Record = Record {
        number: 0,
        host: [0; 2],
        device: None,
        bytes: 0,
        stream: 0,
        implementation: None,
        used: [0; 4],
        marks: [0; 2],
        events: [std::ptr::null_mut(); 2],
        thread: 0,
        is_range: false,
        name_bytes: 0,
        name: [0; NAME_BYTES],
    };

    pub(super) fn name(&self) -> &[u8] {
        &self.name[..self.name_bytes.into()]
    }

    /// Keeps the name, or what there is room for of it in whole UTF-8 characters.
    fn set_name(&mut self, name: &[u8]) {
        let is_inside_character = |at: usize| name.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
        let mut bytes = name.len().min(NAME_BYTES);
        while bytes > 0 && is_inside_character(bytes) {
            bytes -= 1;
        }
        self.name[..bytes].copy_from_slice(&name[..bytes]);
        self.name_bytes = bytes as u8;
    }
}

/// Room for one span. Whoever takes its state to CLAIMED has the record to itself until it sets another.
struct Slot {
    state: AtomicU32,
    record: UnsafeCell<Record>,
}

const FREE: u32 = 0;
const CLAIMED: u32 = 1;
/// It holds a span that has ended.
const ENDED: u32 = 2;

/// A span that has begun: its slot.
#[must_use]
pub(super) struct Token(usize);

/// Spans of one runtime.
pub(crate) struct Recorder {
    block: Block,
    memory: Arc<Memory>,
    context: Option<Arc<Context>>,
    capacity: usize,
    /// The next number of a span, and the first of this recording.
    next: AtomicU64,
    first: AtomicU64,
    /// When this recording began.
    origin: AtomicU64,
    marks: AtomicU64,
    ended: AtomicU64,
    overwritten: AtomicU64,
    /// Spans for which there was no slot.
    refused: AtomicU64,
}

// SAFETY: slots are claimed by one thread at a time; the driver's events may be used from any; everything else is made
// for sharing.
unsafe impl Send for Recorder {}
// SAFETY: as above.
unsafe impl Sync for Recorder {}

impl Recorder {
    /// Room for `capacity` spans, at least one.
    pub(super) fn new(memory: &Arc<Memory>, context: Option<&Arc<Context>>, capacity: usize) -> Result<Recorder> {
        const _: () = assert!(align_of::<Slot>() <= Block::ALIGNMENT && !std::mem::needs_drop::<Slot>());
        let bytes = (capacity * size_of::<Slot>()) as u64;
        let block = Block::new(memory, Tier::Host, Purpose::Other, bytes, false)?;
        let slots = block.data().cast::<Slot>();
        for index in 0..capacity {
            // SAFETY: the block is aligned and has room for this many slots, which nothing else uses yet.
            unsafe {
                slots.add(index).write(Slot { state: AtomicU32::new(FREE), record: UnsafeCell::new(Record::EMPTY) });
            }
        }
        let zero = || AtomicU64::new(0);
        Ok(Recorder {
            block,
            memory: Arc::clone(memory),
            context: context.cloned(),
            capacity,
            next: zero(),
            first: zero(),
            origin: zero(),
            marks: zero(),
            ended: zero(),
            overwritten: zero(),
            refused: zero(),
        })
    }

    fn slots(&self) -> &[Slot] {
        // SAFETY: `new` initialised this many; they are shared by atomics and claims alone.
        unsafe { std::slice::from_raw_parts(self.block.data().cast::<Slot>().as_ptr(), self.capacity) }
    }

    /// Forgets all spans, also those under way: a new recording.
    pub(super) fn reset(&self) {
        self.first.store(self.next.load(Ordering::Relaxed), Ordering::Relaxed);
        [&self.ended, &self.overwritten, &self.refused].into_iter().for_each(|count| count.store(0, Ordering::Relaxed));
        self.origin.store(now(), Ordering::Relaxed);
    }

    /// When this recording began.
    pub(super) fn origin(&self) -> u64 {
        self.origin.load(Ordering::Relaxed)
    }

    /// Spans that are kept, and spans of this recording that are not: newer ones took their slots, or there was none.
    pub(super) fn counts(&self) -> (u64, u64) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let overwritten = count(&self.overwritten);
        (count(&self.ended).saturating_sub(overwritten), overwritten + count(&self.refused))
    }

    /// Most spans that are kept.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity as u64
    }

    /// What the ring takes.
    pub(super) fn bytes(&self) -> u64 {
        self.block.bytes() as u64
    }

    /// The slot of the next number. Those of spans that have not ended, such as long ranges, are passed over.
    fn claim(&self) -> Option<usize> {
        const TRIES: usize = 64;
        for _ in 0..TRIES.min(self.capacity) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let index = (number % self.capacity as u64) as usize;
            let slot = &self.slots()[index];
            let state = slot.state.load(Ordering::Relaxed);
            let claims = |state| slot.state.compare_exchange(state, CLAIMED, Ordering::Acquire, Ordering::Relaxed);
            if state == CLAIMED || claims(state).is_err() {
                continue;
            }
            // SAFETY: claimed above.
            let record = unsafe { &mut *slot.record.get() };
            if state == ENDED && record.number >= self.first.load(Ordering::Relaxed) {
                self.overwritten.fetch_add(1, Ordering::Relaxed);
            }
            record.number = number;
            return Some(index);
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// A span begins on this thread and, on a CUDA device, in `native`, whose context is entered.
    pub(super) fn begin(&self, span: &Span<'_>, native: Option<&NativeStream>) -> Option<Token> {
        let index = self.claim()?;
        // SAFETY: claimed for the token.
        let record = unsafe { &mut *self.slots()[index].record.get() };
        record.set_name(span.name);
        record.device = None;
        record.bytes = span.bytes;
        record.stream = span.stream;
        record.implementation = span.implementation;
        record.is_range = span.is_range;
        record.used = self.memory.ledger().used();
        record.thread = thread();
        record.marks[0] = self.mark(&mut record.events[0], native);
        record.host[0] = now();
        Some(Token(index))
    }

    /// The stream that a span began with.
    pub(super) fn stream_of(&self, token: &Token) -> u64 {
        // SAFETY: the token is of the span that claimed the slot.
        unsafe { (*self.slots()[token.0].record.get()).stream }
    }

    /// The span ends.
    pub(super) fn end(&self, token: Token, native: Option<&NativeStream>) {
        let ended = now();
        let slot = &self.slots()[token.0];
        // SAFETY: the token is of the span that claimed the slot.
        let record = unsafe { &mut *slot.record.get() };
        record.host[1] = ended;
        record.marks[1] = self.mark(&mut record.events[1], native);
        if record.number >= self.first.load(Ordering::Relaxed) {
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
        slot.state.store(ENDED, Ordering::Release);
    }

    /// Marks a place in a stream, and numbers it; 0 when there is none or it cannot be marked.
    fn mark(&self, event: &mut Handle, native: Option<&NativeStream>) -> u64 {
        match native {
            Some(native) if native.mark(event) => self.marks.fetch_add(1, Ordering::Relaxed) + 1,
            _ => 0,
        }
    }

    /// The spans of this recording that have ended. Until the result is dropped, their slots are taken by none.
    pub(super) fn keep(&self) -> Kept<'_> {
        let first = self.first.load(Ordering::Relaxed);
        let mut kept = Kept { recorder: self, slots: Vec::new() };
        for (index, slot) in self.slots().iter().enumerate() {
            if slot.state.compare_exchange(ENDED, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue;
            }
            // SAFETY: claimed above.
            if unsafe { (*slot.record.get()).number } >= first {
                kept.slots.push(index);
            } else {
                slot.state.store(ENDED, Ordering::Release);
            }
        }
        let mut slots = std::mem::take(&mut kept.slots);
        slots.sort_unstable_by_key(|index| kept.record(*index).number);
        kept.slots = slots;
        kept
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let Some(context) = &self.context else { return };
        // SAFETY: nothing else has the recorder, so every slot is this thread's.
        let events = self.slots().iter().flat_map(|slot| unsafe { (*slot.record.get()).events });
        context.destroy_events(events.filter(|event| !event.is_null()));
    }
}

/// Spans that are being read.
pub(super) struct Kept<'a> {
    recorder: &'a Recorder,
    /// In the order in which they began.
    slots: Vec<usize>,
}

impl Kept<'_> {
    fn record(&self, index: usize) -> &Record {
        // SAFETY: `keep` claimed the slot, and what changes it has `&mut self`.
        unsafe { &*self.recorder.slots()[index].record.get() }
    }

    fn record_mut(&mut self, index: usize) -> &mut Record {
        // SAFETY: as above.
        unsafe { &mut *self.recorder.slots()[index].record.get() }
    }

    /// The spans, in the order in which they began.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.slots.iter().map(|index| self.record(*index))
    }

    /// Waits for the work of spans, and finds when it ran. A failure of the device leaves the times that are known.
    pub(super) fn time(&mut self) -> Result<()> {
        let Some(context) = self.recorder.context.clone() else { return Ok(()) };
        let marked = |kept: &Kept<'_>, index: &usize| kept.record(*index).marks.iter().all(|mark| *mark != 0);
        let mut slots: Vec<usize> = self.slots.iter().copied().filter(|index| marked(self, index)).collect();
        if slots.is_empty() {
            return Ok(());
        }
        // From the newest on: the timeline goes back from now.
        slots.sort_unstable_by_key(|index| std::cmp::Reverse(self.record(*index).marks[1]));
        let mut timeline = Timeline::new(&context, now)?;
        let outcome = slots.iter().try_for_each(|index| {
            let record = self.record_mut(*index);
            record.device = Some(timeline.interval(record.events)?);
            Ok(())
        });
        self.put_in_order(slots);
        outcome
    }

    /// Has marks of a stream follow each other, as they do: times are rounded, and spans would overlap else.
    fn put_in_order(&mut self, slots: Vec<usize>) {
        let of =
            |kept: &Kept<'_>, index: usize, side: usize| (kept.record(index).stream, kept.record(index).marks[side]);
        let mut marks: Vec<(usize, usize)> = slots
            .into_iter()
            .filter(|index| self.record(*index).device.is_some())
            .flat_map(|index| [(index, 0), (index, 1)])
            .collect();
        marks.sort_unstable_by_key(|(index, side)| of(self, *index, *side));
        let (mut stream, mut latest) = (0, 0);
        for (index, side) in marks {
            let record = self.record_mut(index);
            if record.stream != stream {
                (stream, latest) = (record.stream, 0);
            }
            let times = record.device.as_mut().expect("filtered above");
            latest = latest.max(times[side]);
            times[side] = latest;
        }
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        for index in &self.slots {
            self.recorder.slots()[*index].state.store(ENDED, Ordering::Release);
        }
    }
}

/// Nanoseconds of the machine's monotonic clock, which all its processes share.
pub(super) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one time.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The system's number of this thread.
fn thread() -> u32 {
    thread_local!(static NUMBER: Cell<u32> = const { Cell::new(0) });
    NUMBER.with(|number| {
        if number.get() == 0 {
            // SAFETY: takes nothing and always succeeds.
            number.set(unsafe { libc::gettid() } as u32);
        }
        number.get()
    })
}
