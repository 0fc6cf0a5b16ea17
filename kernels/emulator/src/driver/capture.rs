//! Stream capture: which streams record into which graph, and what is illegal meanwhile.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use super::error::Status;
use super::graph::{self, Graph};
use super::stream::Stream;
use super::work::Work;

/// What a capture forbids to other threads and to its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    /// The mode of a number.
    pub(super) fn from_number(number: i32) -> Result<Self, Status> {
        match number {
            0 => Ok(Self::Global),
            1 => Ok(Self::ThreadLocal),
            2 => Ok(Self::Relaxed),
            _ => Err(Status::INVALID_VALUE),
        }
    }
}

/// Where an event was recorded within a capture.
#[derive(Clone)]
pub(super) struct Mark {
    capture: u64,
    front: Vec<usize>,
}

struct Capture {
    id: u64,
    mode: Mode,
    thread: ThreadId,
    origin: u64,
    graph: Arc<Graph>,
    invalidated: bool,
}

/// A stream that takes part, with the nodes that its next piece of work depends on.
struct Member {
    stream: Arc<Stream>,
    capture: u64,
    front: Vec<usize>,
}

#[derive(Default)]
struct Captures {
    last_id: u64,
    active: Vec<Capture>,
    members: HashMap<u64, Member>,
}

/// What a stream that captures is asked about.
pub(super) struct Info {
    pub(super) id: u64,
    pub(super) graph: usize,
    pub(super) invalidated: bool,
    /// Array of nodes that the next piece of work depends on; it stays until the stream is used again.
    pub(super) front: *const usize,
    pub(super) front_length: usize,
}

static CAPTURES: Mutex<Option<Captures>> = Mutex::new(None);
/// Number of active captures, so that nothing is locked while there is none.
static ACTIVE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// Access to all captures; the number of active ones is published when it ends.
struct Access(MutexGuard<'static, Option<Captures>>);

impl std::ops::Deref for Access {
    type Target = Captures;
    fn deref(&self) -> &Captures {
        self.0.as_ref().expect("made when access began")
    }
}

impl std::ops::DerefMut for Access {
    fn deref_mut(&mut self) -> &mut Captures {
        self.0.as_mut().expect("made when access began")
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        ACTIVE.store(self.active.len(), Ordering::Release);
    }
}

fn access() -> Access {
    let mut guard = CAPTURES.lock().unwrap_or_else(PoisonError::into_inner);
    guard.get_or_insert_default();
    Access(guard)
}

fn none_active() -> bool {
    ACTIVE.load(Ordering::Acquire) == 0
}

impl Captures {
    fn capture(&mut self, id: u64) -> Option<&mut Capture> {
        self.active.iter_mut().find(|capture| capture.id == id)
    }

    fn invalidate(&mut self, id: u64) {
        if let Some(capture) = self.capture(id) {
            capture.invalidated = true;
        }
    }

    /// Ends a capture: its streams work again.
    fn end(&mut self, id: u64) -> Option<Capture> {
        self.members.retain(|_, member| member.capture != id);
        let position = self.active.iter().position(|capture| capture.id == id)?;
        Some(self.active.remove(position))
    }

    /// The valid capture that a stream takes part in.
    fn of(&mut self, stream: &Stream) -> Result<Option<u64>, Status> {
        let Some(id) = self.members.get(&stream.id).map(|member| member.capture) else { return Ok(None) };
        match self.capture(id) {
            Some(capture) if !capture.invalidated => Ok(Some(id)),
            _ => Err(Status::STREAM_CAPTURE_INVALIDATED),
        }
    }

    /// The captures in a context that the legacy default stream would have to wait for.
    fn blocking(&self, context: usize) -> Vec<u64> {
        let blocks = |member: &&Member| member.stream.context == context && !member.stream.non_blocking;
        self.members.values().filter(blocks).map(|member| member.capture).collect()
    }
}

/// Sets the mode of the calling thread and returns the one before.
pub(super) fn exchange_mode(mode: Mode) -> Mode {
    MODE.replace(mode)
}

/// Refuses a call that could disturb a capture, unless the thread's mode permits it; the captures become invalid.
pub(super) fn refuse_unsafe_call() -> Result<(), Status> {
    let mode = MODE.get();
    if none_active() || mode == Mode::Relaxed {
        return Ok(());
    }
    let (mut captures, thread) = (access(), std::thread::current().id());
    let mut refused = false;
    for capture in &mut captures.active {
        let own = capture.thread == thread && capture.mode != Mode::Relaxed;
        let foreign = capture.thread != thread && mode == Mode::Global && capture.mode == Mode::Global;
        capture.invalidated |= own || foreign;
        refused |= own || foreign;
    }
    if refused { Err(Status::STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
}

/// Refuses the legacy default stream while a stream of the context captures that waits for it.
pub(super) fn refuse_legacy(context: usize) -> Result<(), Status> {
    if none_active() {
        return Ok(());
    }
    let mut captures = access();
    let hit = captures.blocking(context);
    hit.iter().for_each(|id| captures.invalidate(*id));
    if hit.is_empty() { Ok(()) } else { Err(Status::STREAM_CAPTURE_IMPLICIT) }
}

/// Whether the legacy default stream cannot be used; the captures stay valid.
pub(super) fn blocks_legacy(context: usize) -> bool {
    !none_active() && !access().blocking(context).is_empty()
}

/// Refuses what no graph can hold on a stream that captures.
pub(super) fn refuse_on(stream: &Stream) -> Result<(), Status> {
    if none_active() {
        return Ok(());
    }
    let mut captures = access();
    let Some(id) = captures.members.get(&stream.id).map(|member| member.capture) else { return Ok(()) };
    captures.invalidate(id);
    Err(Status::STREAM_CAPTURE_UNSUPPORTED)
}

/// Refuses a wait or a query: of streams that capture always, of others where a capture forbids it.
pub(super) fn refuse_synchronisation(streams: &[Arc<Stream>]) -> Result<(), Status> {
    streams.iter().map(|stream| refuse_on(stream)).fold(Ok(()), Result::and)?;
    refuse_unsafe_call()
}

/// Refuses a wait for an event that was last recorded in a capture.
pub(super) fn refuse_event(mark: &Mark) -> Status {
    access().invalidate(mark.capture);
    Status::CAPTURED_EVENT
}

/// Records work if the stream captures; else hands it back to be done.
pub(super) fn record(stream: &Arc<Stream>, work: Work) -> Result<Option<Work>, Status> {
    if none_active() {
        return Ok(Some(work));
    }
    let mut captures = access();
    let Some(id) = captures.of(stream)? else { return Ok(Some(work)) };
    let Some(graph) = captures.capture(id).map(|capture| capture.graph.clone()) else { return Ok(Some(work)) };
    if let Some(member) = captures.members.get_mut(&stream.id) {
        member.front = vec![graph.add(work, std::mem::take(&mut member.front))];
    }
    Ok(None)
}

/// Where a stream is within its capture, for an event; nothing when it does not capture.
pub(super) fn mark(stream: &Stream) -> Result<Option<Mark>, Status> {
    if none_active() {
        return Ok(None);
    }
    let mut captures = access();
    let Some(capture) = captures.of(stream)? else { return Ok(None) };
    Ok(captures.members.get(&stream.id).map(|member| Mark { capture, front: member.front.clone() }))
}

/// Makes a stream depend on what an event marks; a stream that did not capture takes part from now on.
pub(super) fn depend(stream: &Arc<Stream>, mark: &Mark) -> Result<(), Status> {
    let mut captures = access();
    let own = captures.of(stream)?;
    match captures.capture(mark.capture) {
        Some(capture) if capture.invalidated => return Err(Status::STREAM_CAPTURE_INVALIDATED),
        Some(_) => {}
        None => {
            own.into_iter().for_each(|id| captures.invalidate(id));
            return Err(Status::CAPTURED_EVENT);
        }
    }
    if own.is_some_and(|id| id != mark.capture) {
        own.into_iter().chain([mark.capture]).for_each(|id| captures.invalidate(id));
        return Err(Status::STREAM_CAPTURE_MERGE);
    }
    if stream.is_legacy() {
        captures.invalidate(mark.capture);
        return Err(Status::STREAM_CAPTURE_IMPLICIT);
    }
    let new = || Member { stream: stream.clone(), capture: mark.capture, front: Vec::new() };
    let member = captures.members.entry(stream.id).or_insert_with(new);
    for node in &mark.front {
        if !member.front.contains(node) {
            member.front.push(*node);
        }
    }
    Ok(())
}

/// Refuses a dependency of a capture on work outside of it.
pub(super) fn refuse_outside(stream: &Stream) -> Result<(), Status> {
    if none_active() {
        return Ok(());
    }
    let mut captures = access();
    let Some(id) = captures.of(stream)? else { return Ok(()) };
    captures.invalidate(id);
    Err(Status::STREAM_CAPTURE_ISOLATION)
}

/// Begins a capture on a stream.
pub(super) fn begin(stream: &Arc<Stream>, mode: Mode) -> Result<(), Status> {
    if stream.is_legacy() {
        return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
    }
    let mut captures = access();
    if captures.members.contains_key(&stream.id) {
        return Err(Status::ILLEGAL_STATE);
    }
    captures.last_id += 1;
    let id = captures.last_id;
    let (thread, graph) = (std::thread::current().id(), graph::create());
    captures.active.push(Capture { id, mode, thread, origin: stream.id, graph, invalidated: false });
    captures.members.insert(stream.id, Member { stream: stream.clone(), capture: id, front: Vec::new() });
    Ok(())
}

/// Ends the capture that began on a stream; the graph, unless something went wrong meanwhile.
pub(super) fn finish(stream: &Stream) -> Result<Arc<Graph>, Status> {
    let mut captures = access();
    let id = captures.members.get(&stream.id).map(|member| member.capture).ok_or(Status::ILLEGAL_STATE)?;
    let capture = captures.capture(id).ok_or(Status::ILLEGAL_STATE)?;
    if capture.origin != stream.id {
        return Err(Status::STREAM_CAPTURE_UNMATCHED);
    }
    if capture.mode != Mode::Relaxed && capture.thread != std::thread::current().id() {
        return Err(Status::STREAM_CAPTURE_WRONG_THREAD);
    }
    let (graph, invalidated) = (capture.graph.clone(), capture.invalidated);
    let fronts: Vec<(bool, Vec<usize>)> = captures
        .members
        .iter()
        .filter(|(_, member)| member.capture == id)
        .map(|(member_id, member)| (*member_id == stream.id, member.front.clone()))
        .collect();
    captures.end(id);
    let own = fronts.iter().filter(|front| front.0).flat_map(|front| front.1.iter().copied());
    let joined: HashSet<usize> = graph.with_ancestors(own.collect());
    let unjoined = fronts.iter().flat_map(|front| &front.1).any(|node| !joined.contains(node));
    if invalidated || unjoined {
        graph.destroy();
        let unjoined = Status::STREAM_CAPTURE_UNJOINED;
        return Err(if invalidated { Status::STREAM_CAPTURE_INVALIDATED } else { unjoined });
    }
    Ok(graph)
}

/// What a stream captures, if anything.
pub(super) fn info(stream: &Stream) -> Option<Info> {
    if none_active() {
        return None;
    }
    let mut captures = access();
    let member = captures.members.get(&stream.id)?;
    let (id, front, front_length) = (member.capture, member.front.as_ptr(), member.front.len());
    let capture = captures.capture(id)?;
    Some(Info { id, graph: capture.graph.handle, invalidated: capture.invalidated, front, front_length })
}

/// Takes a stream that goes away out of its capture, which ends if it began there and is invalid from now on.
pub(super) fn leave(stream: &Stream) {
    if none_active() {
        return;
    }
    let mut captures = access();
    let Some(member) = captures.members.remove(&stream.id) else { return };
    captures.invalidate(member.capture);
    if captures.capture(member.capture).is_some_and(|capture| capture.origin == stream.id)
        && let Some(capture) = captures.end(member.capture)
    {
        capture.graph.destroy();
    }
}

/// Takes streams out of their captures.
pub(super) fn abandon(streams: &[Arc<Stream>]) {
    streams.iter().for_each(|stream| leave(stream));
}
