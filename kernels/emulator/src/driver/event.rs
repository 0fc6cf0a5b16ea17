//! Events: marks in the order of a stream.

use std::ffi::c_uint;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::argument::Out;
use super::capture::{self, Mark};
use super::context::CONTEXTS;
use super::error::Status;
use super::export::exports;
use super::registry::{Kind, Registry};
use super::work::Work;
use super::{current, stream};

/// An event.
pub(super) struct Event {
    /// Handle of its context.
    pub(super) context: usize,
    timed: bool,
    state: Mutex<State>,
}

#[derive(Clone)]
enum State {
    Never,
    /// When the work before it was done.
    Recorded(Instant),
    /// Within a capture: it marks nodes of a graph.
    Captured(Mark),
}

pub(super) static EVENTS: Registry<Event> = Registry::new(Kind::Event);

const FLAGS: c_uint = 7; // blocking waits, no timing, between processes
const NO_TIMING: c_uint = 2;
const BETWEEN_PROCESSES: c_uint = 4;
/// The event is seen outside of the graph.
const EXTERNAL: c_uint = 1;

impl Event {
    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Records the event: the work before it is done.
    pub(super) fn record_now(&self) {
        self.set(State::Recorded(Instant::now()));
    }

    /// Refuses what may not be asked of an event in a capture, or while one goes on.
    fn settle(&self) -> Result<(), Status> {
        match self.state() {
            State::Captured(mark) => Err(capture::refuse_event(&mark)),
            State::Never | State::Recorded(_) => capture::refuse_unsafe_call(),
        }
    }

    /// The error that the event's context has met.
    fn outcome(&self) -> Result<(), Status> {
        CONTEXTS.find(self.context).map_or(Err(Status::CONTEXT_IS_DESTROYED), |context| context.check())
    }
}

fn record(event: usize, stream: usize, flags: c_uint) -> Result<(), Status> {
    let context = current::context()?;
    let event = EVENTS.get(event)?;
    let stream = stream::resolve(stream, &context)?;
    if flags & !EXTERNAL != 0 {
        return Err(Status::INVALID_VALUE);
    }
    if event.context != stream.context {
        return Err(Status::INVALID_HANDLE);
    }
    match capture::mark(&stream)? {
        Some(mark) if flags != EXTERNAL => event.set(State::Captured(mark)),
        _ => stream::enqueue(&stream, Work::Record(event))?,
    }
    Ok(())
}

fn elapsed(milliseconds: Out<f32>, start: usize, end: usize) -> Result<(), Status> {
    current::context()?;
    let (start, end) = (EVENTS.get(start)?, EVENTS.get(end)?);
    if !start.timed || !end.timed || start.context != end.context {
        return Err(Status::INVALID_HANDLE);
    }
    start.settle()?;
    end.settle()?;
    let (State::Recorded(from), State::Recorded(to)) = (start.state(), end.state()) else {
        return Err(Status::INVALID_HANDLE);
    };
    let seconds = match to.checked_duration_since(from) {
        Some(forward) => forward.as_secs_f64(),
        None => -from.duration_since(to).as_secs_f64(),
    };
    milliseconds.set((seconds * 1e3) as f32)
}

exports! {
    /// Creates an event.
    fn cuEventCreate(event: Out<usize>, flags: c_uint) {
        let context = current::context()?;
        let event = event.required()?;
        if flags & !FLAGS != 0 || (flags & BETWEEN_PROCESSES != 0 && flags & NO_TIMING == 0) {
            return Err(Status::INVALID_VALUE);
        }
        let handle = EVENTS.issue();
        let (timed, state) = (flags & NO_TIMING == 0, Mutex::new(State::Never));
        EVENTS.insert(handle, Arc::new(Event { context: context.handle, timed, state }));
        event.set(handle)
    }

    /// Destroys an event.
    fn cuEventDestroy_v2(event: usize) {
        current::context()?;
        EVENTS.remove(event).map(|_| ())
    }

    /// Records an event in the order of a stream.
    fn cuEventRecord(event: usize, stream: usize) {
        record(event, stream, 0)
    }

    /// Records an event in the order of a stream, with flags.
    fn cuEventRecordWithFlags(event: usize, stream: usize, flags: c_uint) {
        record(event, stream, flags)
    }

    /// Whether the work before the last record is done.
    fn cuEventQuery(event: usize) {
        current::context()?;
        let event = EVENTS.get(event)?;
        event.settle()?;
        event.outcome()
    }

    /// Waits for the work before the last record.
    fn cuEventSynchronize(event: usize) {
        current::context()?;
        let event = EVENTS.get(event)?;
        event.settle()?;
        event.outcome()
    }

    /// Milliseconds between two events.
    fn cuEventElapsedTime(milliseconds: Out<f32>, start: usize, end: usize) {
        elapsed(milliseconds, start, end)
    }

    /// Milliseconds between two events.
    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: usize, end: usize) {
        elapsed(milliseconds, start, end)
    }

    /// Makes a stream wait for an event; an event that was never recorded is waited for by nobody.
    fn cuStreamWaitEvent(stream: usize, event: usize, flags: c_uint) {
        let context = current::context()?;
        let stream = stream::resolve(stream, &context)?;
        let event = EVENTS.get(event)?;
        if flags & !EXTERNAL != 0 {
            return Err(Status::INVALID_VALUE);
        }
        stream.owner()?;
        match event.state() {
            State::Captured(mark) => capture::depend(&stream, &mark),
            _ if flags == EXTERNAL => stream::enqueue(&stream, Work::Await),
            _ => capture::refuse_outside(&stream),
        }
    }
}
