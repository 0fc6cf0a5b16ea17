//! Where ranks that are threads of one process meet.
//!
//! In an operation a rank reads, and may write, memory of the others. So it has two phases: every rank arrives and publishes
//! its memory, and only when all have, they are inside and touch it; a rank that is done waits until all are, and only
//! then goes away with its memory. What fails does so in one of them:
//!
//! - while ranks arrive, nobody touches anything: a rank may give up at any moment, and the operation never begins;
//! - while ranks are inside, a failure is noted, which the others see between two pieces of their work; everyone, also
//!   who waits too long, goes away when the last one is out.
//!
//! An operation comes to the same on every rank that was inside.

use super::call::Call;
use crate::error::{Error, Result, Status};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Who meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// Every rank.
    All,
    /// Two of them.
    Message { from: u32, to: u32 },
}

/// What a rank brings to an operation.
#[derive(Clone, Copy)]
pub(super) struct Published {
    pub(super) call: Call,
    /// Memory that is read; empty when there is none.
    pub(super) input: Memory,
    /// Memory that is written, by this rank or by others.
    pub(super) output: Memory,
}

impl Published {
    /// A call with the memory that it reads and writes.
    pub(super) fn new(call: Call, input: Memory, output: Memory) -> Published {
        Published { call, input, output }
    }
}

/// Bytes of a rank.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    pub(super) data: *mut u8,
    pub(super) bytes: usize,
}

// SAFETY: an address; whoever uses it is inside the operation for which the memory's owner published it.
unsafe impl Send for Memory {}

impl Memory {
    pub(super) const NONE: Memory = Memory { data: std::ptr::null_mut(), bytes: 0 };

    fn range(self) -> Range<usize> {
        self.data as usize..self.data as usize + self.bytes
    }

    fn overlaps(self, other: Memory) -> bool {
        let (a, b) = (self.range(), other.range());
        self.bytes > 0 && other.bytes > 0 && a.start < b.end && b.start < a.end
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Away,
    Arrived,
    Inside,
    Left,
}

struct Guest {
    stage: Stage,
    published: Option<Published>,
}

/// The operations of those who meet in one place, one after another.
struct Meeting {
    /// Number of the operation under way or next: 1, 2, ...
    sequence: u64,
    guests: Box<[Guest]>,
    /// Whether guests are inside.
    is_working: bool,
    /// The last operation that succeeded.
    done: u64,
    /// The last operation whose calls did not agree: it did not begin.
    refused: Option<(u64, Error)>,
}

impl Meeting {
    fn new(guests: usize) -> Meeting {
        let guests = (0..guests).map(|_| Guest { stage: Stage::Away, published: None }).collect();
        Meeting { sequence: 1, guests, is_working: false, done: 0, refused: None }
    }

    fn next(&mut self) {
        self.sequence += 1;
        self.guests.iter_mut().for_each(|guest| guest.stage = Stage::Away);
    }

    fn in_stage(&self, stage: Stage) -> impl Iterator<Item = usize> {
        self.guests.iter().enumerate().filter(move |(_, guest)| guest.stage == stage).map(|(i, _)| i)
    }
}

/// What the group failed of, first.
struct Failure {
    error: Error,
    /// The operation in which that was noticed.
    operation: Option<(Place, u64)>,
}

struct Board {
    all: Meeting,
    messages: HashMap<(u32, u32), Meeting>,
    failure: Option<Failure>,
    /// Of each rank, as the how-manieth its communicator was destroyed; 0 = it is there.
    departed: Box<[u32]>,
}

impl Board {
    fn meeting(&mut self, place: Place) -> &mut Meeting {
        match place {
            Place::All => &mut self.all,
            Place::Message { from, to } => self.messages.entry((from, to)).or_insert_with(|| Meeting::new(2)),
        }
    }

    /// The first rank of a place that has left: without it, the others cannot go on.
    fn departed(&self, place: Place) -> Option<u32> {
        let order = |rank: &u32| self.departed[*rank as usize];
        match place {
            Place::All => (0..self.departed.len() as u32).filter(|rank| order(rank) > 0).min_by_key(order),
            Place::Message { from, to } => [from, to].into_iter().filter(|rank| order(rank) > 0).min_by_key(order),
        }
    }

    /// What a call gets that comes after the group has failed, or that has to do with another operation than failed.
    fn failed_earlier(&self) -> Option<Error> {
        let failure = self.failure.as_ref()?;
        let mut error = Error::new(
            Status::CommError,
            format!("the group has failed: {}: {}", failure.error.status, failure.error.message),
        );
        error.native = failure.error.native;
        Some(error)
    }

    /// What a rank gets that took part in an operation when the group failed.
    fn failed_in(&self, place: Place, sequence: u64) -> Option<Error> {
        match &self.failure {
            Some(failure) if failure.operation == Some((place, sequence)) => Some(failure.error.clone()),
            _ => self.failed_earlier(),
        }
    }
}

/// Turns that a rank waits for another before it gives up its processor: some tens of microseconds.
const SPINS: u32 = 2000;

/// The ranks of a group.
pub(super) struct Rendezvous {
    world: u32,
    timeout: Duration,
    board: Mutex<Board>,
    changed: Condvar,
    /// Grows with every change of the board that someone may wait for.
    version: AtomicU64,
    /// Whether the board has a failure.
    has_failed: AtomicBool,
}

impl Rendezvous {
    /// Of `world` ranks, none of which waits longer than `timeout` for others to come.
    pub(super) fn new(world: u32, timeout: Duration) -> Rendezvous {
        let board = Board {
            all: Meeting::new(world as usize),
            messages: HashMap::new(),
            failure: None,
            departed: vec![0; world as usize].into(),
        };
        Rendezvous {
            world,
            timeout,
            board: Mutex::new(board),
            changed: Condvar::new(),
            version: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
        }
    }

    /// The number of ranks.
    pub(super) fn world(&self) -> u32 {
        self.world
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everyone who waits to look at the board again. The board is locked.
    fn announce(&self) {
        self.version.fetch_add(1, Ordering::Release);
        self.changed.notify_all();
    }

    /// Notes a failure unless there is one. The board is locked.
    fn note(&self, board: &mut Board, failure: Failure) {
        board.failure.get_or_insert(failure);
        self.has_failed.store(true, Ordering::Release);
        self.announce();
    }

    /// Waits until the board is as `ready` wants it, or past the deadline: whether it is.
    fn wait<'a>(
        &'a self,
        mut board: MutexGuard<'a, Board>,
        deadline: Option<Instant>,
        ready: impl Fn(&mut Board) -> bool,
    ) -> (MutexGuard<'a, Board>, bool) {
        let mut spins = SPINS;
        loop {
            if ready(&mut board) {
                return (board, true);
            }
            let seen = self.version.load(Ordering::Acquire);
            if spins > 0 {
                drop(board);
                while spins > 0 && self.version.load(Ordering::Acquire) == seen {
                    std::hint::spin_loop();
                    spins -= 1;
                }
                board = self.lock();
                continue;
            }
            let Some(deadline) = deadline else {
                board = self.changed.wait(board).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return (board, false);
            }
            (board, _) = self.changed.wait_timeout(board, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Brings `mine` to the next operation of a place, as its guest number `guest`, and waits until everyone has come:
    /// then this rank is inside, and `others` is what all have brought.
    pub(super) fn enter(
        &self,
        place: Place,
        guest: usize,
        mine: Published,
        others: &mut Vec<Published>,
    ) -> Result<Inside<'_>> {
        // A time so far away that it cannot be told is none.
        let deadline = Instant::now().checked_add(self.timeout);
        let mut board = self.lock();
        let meeting = board.meeting(place);
        let sequence = meeting.sequence;
        let name = Name { place, sequence, call: mine.call };
        if let Some(error) = board.failed_earlier() {
            return Err(error);
        }
        let meeting = board.meeting(place);
        meeting.guests[guest] = Guest { stage: Stage::Arrived, published: Some(mine) };
        if meeting.in_stage(Stage::Arrived).count() == meeting.guests.len() {
            match judge(&name, &meeting.guests) {
                Ok(()) => {
                    meeting.guests.iter_mut().for_each(|guest| guest.stage = Stage::Inside);
                    meeting.is_working = true;
                }
                Err(error) => {
                    meeting.refused = Some((sequence, error));
                    meeting.next();
                }
            }
            self.announce();
        }
        let refusal = |meeting: &Meeting| match &meeting.refused {
            Some((refused, error)) if *refused == sequence => Some(error.clone()),
            _ => None,
        };
        let (mut board, is_ready) = self.wait(board, deadline, |board| {
            let meeting = board.meeting(place);
            let is_decided = meeting.is_working || refusal(meeting).is_some();
            is_decided || board.failure.is_some() || board.departed(place).is_some()
        });
        let meeting = board.meeting(place);
        if let Some(error) = refusal(meeting) {
            return Err(error);
        }
        if meeting.is_working {
            others.clear();
            others.extend(meeting.guests.iter().filter_map(|guest| guest.published));
            return Ok(Inside { rendezvous: self, name, guest, has_left: false });
        }
        meeting.guests[guest].stage = Stage::Away;
        if !is_ready {
            let missing = name.ranks(meeting.in_stage(Stage::Away).filter(|other| *other != guest));
            let message = format!("{name}: {missing} did not come within {:?}", self.timeout);
            let error = Error::new(Status::Timeout, message);
            self.note(&mut board, Failure { error, operation: Some((place, sequence)) });
        }
        if let Some(error) = board.failed_in(place, sequence) {
            return Err(error);
        }
        let gone = board.departed(place).expect("nothing else ends the wait");
        Err(Error::new(Status::CommError, format!("{name}: {}", has_gone(gone))))
    }

    /// Gives the group up on behalf of a rank.
    pub(super) fn abort(&self, rank: u32) {
        let error = Error::new(Status::CommError, format!("rank {rank} has aborted the group"));
        self.note(&mut self.lock(), Failure { error, operation: None });
    }

    /// A rank's communicator is no more: operations for which it is needed fail.
    pub(super) fn depart(&self, rank: u32) {
        let mut board = self.lock();
        board.departed[rank as usize] = board.departed.iter().max().map_or(1, |last| last + 1);
        self.announce();
    }

    /// What the group failed of, or who has left it.
    pub(super) fn async_error(&self) -> Result<()> {
        let board = self.lock();
        if let Some(error) = board.failed_earlier() {
            return Err(error);
        }
        match board.departed(Place::All) {
            Some(rank) => Err(Error::new(Status::CommError, has_gone(rank))),
            None => Ok(()),
        }
    }
}

fn has_gone(rank: u32) -> String {
    format!("rank {rank} has left the group: its communicator was destroyed")
}

/// How messages name an operation.
struct Name {
    place: Place,
    sequence: u64,
    call: Call,
}

impl Name {
    /// Those guests as ranks.
    fn ranks(&self, guests: impl Iterator<Item = usize>) -> String {
        let ranks: Vec<String> = guests.map(|guest| self.rank(guest).to_string()).collect();
        format!("rank{} {}", if ranks.len() == 1 { "" } else { "s" }, ranks.join(", "))
    }

    fn rank(&self, guest: usize) -> u32 {
        match self.place {
            Place::All => guest as u32,
            Place::Message { from, to } => [from, to][guest],
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.place {
            Place::All => write!(f, "{}, operation {} of the group", self.call, self.sequence),
            Place::Message { from, to } => {
                write!(f, "{}, message {} from rank {from} to rank {to}", self.call, self.sequence)
            }
        }
    }
}

/// Requires the calls of all to be one operation, and what one writes to be apart from what another has.
fn judge(name: &Name, guests: &[Guest]) -> Result<()> {
    let published = || guests.iter().filter_map(|guest| guest.published).enumerate();
    let Some((_, first)) = published().next() else { return Ok(()) };
    if let Some((guest, other)) = published().find(|(_, other)| !first.call.agrees(&other.call)) {
        let (a, b) = (name.rank(0), name.rank(guest));
        let which = match name.place {
            Place::All => format!("operation {} of the group", name.sequence),
            Place::Message { .. } => format!("message {}", name.sequence),
        };
        return Err(Error::precondition(format!(
            "{which}: rank {a} calls {}, rank {b} calls {}; all must make the same calls in the same order",
            first.call, other.call
        )));
    }
    for (guest, writes) in published().filter(|(_, writes)| writes.output.bytes > 0) {
        let meets = |other: &Published| writes.output.overlaps(other.input) || writes.output.overlaps(other.output);
        if let Some((other, _)) = published().find(|(other, published)| *other != guest && meets(published)) {
            let (a, b) = (name.rank(guest), name.rank(other));
            return Err(Error::precondition(format!(
                "{name}: what rank {a} has written must not overlap a tensor of rank {b}"
            )));
        }
    }
    Ok(())
}

/// A rank inside an operation: it may use what the others have brought, until it leaves.
pub(super) struct Inside<'a> {
    rendezvous: &'a Rendezvous,
    name: Name,
    guest: usize,
    has_left: bool,
}

impl Inside<'_> {
    /// Whether the group has not failed: asked before each piece of work.
    pub(super) fn goes_on(&self) -> bool {
        !self.rendezvous.has_failed.load(Ordering::Acquire)
    }

    /// Ends this rank's part and waits until no rank is inside.
    pub(super) fn leave(mut self, work: Result<()>) -> Result<()> {
        if let Err(error) = work {
            self.fail(error);
        }
        self.go()
    }

    fn fail(&self, error: Error) {
        let Name { place, sequence, .. } = self.name;
        let message = format!("{}: on rank {}: {}", self.name, self.name.rank(self.guest), error.message);
        let error = Error { message, ..error };
        self.rendezvous.note(&mut self.rendezvous.lock(), Failure { error, operation: Some((place, sequence)) });
    }

    fn go(&mut self) -> Result<()> {
        self.has_left = true;
        let (rendezvous, Name { place, sequence, .. }) = (self.rendezvous, &self.name);
        let (place, sequence) = (*place, *sequence);
        let deadline = Instant::now().checked_add(rendezvous.timeout);
        let mut board = rendezvous.lock();
        let has_failed = board.failure.is_some();
        let meeting = board.meeting(place);
        meeting.guests[self.guest].stage = Stage::Left;
        if meeting.in_stage(Stage::Inside).next().is_none() {
            meeting.is_working = false;
            if !has_failed {
                meeting.done = sequence;
            }
            meeting.next();
            rendezvous.announce();
        }
        let is_over = |board: &mut Board| board.meeting(place).sequence > sequence;
        let (mut board, in_time) = rendezvous.wait(board, deadline, is_over);
        if !in_time {
            let late = self.name.ranks(board.meeting(place).in_stage(Stage::Inside));
            let message = format!("{}: {late} did not finish within {:?}", self.name, rendezvous.timeout);
            let error = Error::new(Status::Timeout, message);
            rendezvous.note(&mut board, Failure { error, operation: Some((place, sequence)) });
            // They still use this rank's memory.
            (board, _) = rendezvous.wait(board, None, is_over);
        }
        if board.meeting(place).done >= sequence {
            return Ok(());
        }
        Err(board.failed_in(place, sequence).expect("an operation that is over and not done has failed"))
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if !self.has_left {
            // The work panics: others must neither wait for it nor still use this rank's memory afterwards.
            self.fail(Error::new(Status::CommError, "its part of the work failed inside"));
            let _ = self.go();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::Operation;
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    const SOON: Duration = Duration::from_millis(50);

    fn enter(rendezvous: &Rendezvous, rank: usize) -> Result<Inside<'_>> {
        let call = Call::new(Operation::Barrier, None);
        rendezvous.enter(Place::All, rank, Published::new(call, Memory::NONE, Memory::NONE), &mut Vec::new())
    }

    #[test]
    fn who_is_out_of_time_stays_while_others_are_inside() {
        let rendezvous = Rendezvous::new(2, SOON);
        let is_inside = AtomicBool::new(true);
        thread::scope(|scope| {
            scope.spawn(|| {
                let inside = enter(&rendezvous, 1).unwrap();
                assert!(inside.goes_on());
                thread::sleep(4 * SOON);
                assert!(!inside.goes_on());
                is_inside.store(false, Ordering::SeqCst);
                assert_eq!(inside.leave(Ok(())).unwrap_err().status, Status::Timeout);
            });
            let error = enter(&rendezvous, 0).unwrap().leave(Ok(())).unwrap_err();
            assert!(!is_inside.load(Ordering::SeqCst), "it went away under a rank that uses its memory");
            assert_eq!(error.status, Status::Timeout);
            assert_eq!(error.message, "barrier, operation 1 of the group: rank 1 did not finish within 50ms");
        });
    }

    #[test]
    fn who_panics_inside_waits_for_the_others_and_fails_the_operation() {
        let rendezvous = Rendezvous::new(2, Duration::from_secs(60));
        let is_inside = AtomicBool::new(true);
        thread::scope(|scope| {
            scope.spawn(|| {
                let inside = enter(&rendezvous, 1).unwrap();
                while inside.goes_on() {
                    thread::yield_now();
                }
                thread::sleep(SOON);
                is_inside.store(false, Ordering::SeqCst);
                let error = inside.leave(Ok(())).unwrap_err();
                assert_eq!(error.status, Status::CommError);
                assert!(error.message.contains("on rank 0"), "{error}");
            });
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let _inside = enter(&rendezvous, 0).unwrap();
                std::panic::resume_unwind(Box::new("a bug"));
            }));
            assert!(panicked.is_err());
            assert!(!is_inside.load(Ordering::SeqCst), "it went away under a rank that uses its memory");
        });
        assert!(rendezvous.async_error().is_err());
    }

    #[test]
    fn work_that_fails_on_one_rank_fails_on_all() {
        let rendezvous = Rendezvous::new(2, Duration::from_secs(60));
        thread::scope(|scope| {
            scope.spawn(|| enter(&rendezvous, 1).unwrap().leave(Ok(())).unwrap_err());
            let error = Error::new(Status::OutOfMemory, "no memory");
            let error = enter(&rendezvous, 0).unwrap().leave(Err(error)).unwrap_err();
            assert_eq!((error.status, error.message.ends_with("on rank 0: no memory")), (Status::OutOfMemory, true));
        });
    }
}
