//! Graphs: what a capture leaves, and what is launched as one.

use std::collections::{HashMap, HashSet};
use std::ffi::{c_char, c_int, c_uint, c_ulonglong};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::argument::Out;
use super::capture::{self, Mode};
use super::context::Context;
use super::error::Status;
use super::export::exports;
use super::registry::{Kind, Registry};
use super::stream::{self, Stream};
use super::work::Work;
use super::{current, device};

/// A graph; its nodes are in an order in which they can run.
pub(super) struct Graph {
    /// Its handle.
    pub(super) handle: usize,
    nodes: Mutex<Vec<Arc<Node>>>,
}

struct Node {
    handle: usize,
    work: Arc<Work>,
    dependencies: Vec<usize>,
}

/// A graph that can be launched; one launch of it runs at a time.
pub(super) struct GraphExec {
    work: Vec<Arc<Work>>,
    order: Mutex<()>,
}

static GRAPHS: Registry<Graph> = Registry::new(Kind::Graph);
static NODES: Registry<Node> = Registry::new(Kind::Node);
static EXECS: Registry<GraphExec> = Registry::new(Kind::GraphExec);

/// Frees on launch, uploads, and node priorities: all without effect. Launches from the device are not supported.
const INSTANTIATE_FLAGS: c_ulonglong = 0xb;
const CAPTURE_NONE: c_int = 0;
const CAPTURE_ACTIVE: c_int = 1;
const CAPTURE_INVALIDATED: c_int = 2;

/// An empty graph.
pub(super) fn create() -> Arc<Graph> {
    let graph = Arc::new(Graph { handle: GRAPHS.issue(), nodes: Mutex::new(Vec::new()) });
    GRAPHS.insert(graph.handle, graph.clone());
    graph
}

impl Graph {
    fn nodes(&self) -> MutexGuard<'_, Vec<Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a node; its handle.
    pub(super) fn add(&self, work: Work, dependencies: Vec<usize>) -> usize {
        let node = Arc::new(Node { handle: NODES.issue(), work: Arc::new(work), dependencies });
        NODES.insert(node.handle, node.clone());
        self.nodes().push(node.clone());
        node.handle
    }

    /// Nodes with everything that has to run before them.
    pub(super) fn with_ancestors(&self, nodes: Vec<usize>) -> HashSet<usize> {
        let list = self.nodes();
        let by_handle: HashMap<usize, &Arc<Node>> = list.iter().map(|node| (node.handle, node)).collect();
        let (mut pending, mut found) = (nodes, HashSet::new());
        while let Some(node) = pending.pop() {
            if found.insert(node) {
                pending.extend(by_handle.get(&node).into_iter().flat_map(|node| &node.dependencies));
            }
        }
        found
    }

    /// Forgets the graph and its nodes.
    pub(super) fn destroy(&self) {
        let _ = GRAPHS.remove(self.handle);
        self.nodes().iter().for_each(|node| {
            let _ = NODES.remove(node.handle);
        });
    }
}

impl GraphExec {
    /// Runs every node; after a fault the rest is left.
    pub(super) fn run(&self, context: &Context) {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        for work in &self.work {
            if context.check().is_err() {
                return;
            }
            work.run(context);
        }
    }
}

fn instantiate(out: Out<usize>, graph: usize, flags: c_ulonglong) -> Result<(), Status> {
    current::context()?;
    let out = out.required()?;
    let graph = GRAPHS.get(graph)?;
    if flags & !INSTANTIATE_FLAGS != 0 {
        return Err(Status::NOT_SUPPORTED);
    }
    let work = graph.nodes().iter().map(|node| node.work.clone()).collect();
    let handle = EXECS.issue();
    EXECS.insert(handle, Arc::new(GraphExec { work, order: Mutex::new(()) }));
    out.set(handle)
}

fn captured_stream(handle: usize) -> Result<Arc<Stream>, Status> {
    let context = current::context()?;
    let stream = stream::named(handle, &context)?;
    if stream.is_legacy() && capture::blocks_legacy(context.handle) {
        return Err(Status::STREAM_CAPTURE_IMPLICIT);
    }
    Ok(stream)
}

/// Writes handles as far as there is room, null behind them; then how many there are.
fn list(handles: &[usize], out: Out<usize>, count: Out<usize>) -> Result<(), Status> {
    let room = count.get()?;
    if out.is_null() {
        return count.set(handles.len());
    }
    for index in 0..room {
        out.set_at(index, handles.get(index).copied().unwrap_or(0));
    }
    count.set(handles.len().min(room))
}

fn edges(graph: usize, from: Out<usize>, to: Out<usize>, count: Out<usize>) -> Result<(), Status> {
    device::all()?;
    if from.is_null() != to.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    let (graph, room) = (GRAPHS.get(graph)?, count.get()?);
    let (mut sources, mut targets) = (Vec::new(), Vec::new());
    for node in graph.nodes().iter() {
        sources.extend(&node.dependencies);
        targets.extend(node.dependencies.iter().map(|_| node.handle));
    }
    list(&sources, from, count)?;
    count.set(room)?;
    list(&targets, to, count)
}

fn describe_capture(
    stream: usize,
    status: Out<c_int>,
    id: Out<u64>,
    graph: Out<usize>,
    dependencies: Out<*const usize>,
    count: Out<usize>,
) -> Result<(), Status> {
    let stream = captured_stream(stream)?;
    let Some(info) = capture::info(&stream) else { return status.set(CAPTURE_NONE) };
    status.set(capture_status(info.invalidated))?;
    if !info.invalidated {
        id.set_if_wanted(info.id);
        graph.set_if_wanted(info.graph);
        dependencies.set_if_wanted(info.front);
        count.set_if_wanted(info.front_length);
    }
    Ok(())
}

exports! {
    /// Begins to record what is enqueued on a stream.
    fn cuStreamBeginCapture_v2(stream: usize, mode: c_int) {
        let context = current::context()?;
        let mode = Mode::from_number(mode)?;
        let stream = stream::named(stream, &context)?;
        stream.owner()?;
        capture::begin(&stream, mode)
    }

    /// Ends recording; the graph, or null when something was illegal.
    fn cuStreamEndCapture(stream: usize, graph: Out<usize>) {
        let context = current::context()?;
        let graph = graph.required()?;
        let captured = capture::finish(&*stream::named(stream, &context)?);
        graph.set(captured.as_ref().map_or(0, |captured| captured.handle))?;
        captured.map(|_| ())
    }

    /// Whether a stream records.
    fn cuStreamIsCapturing(stream: usize, status: Out<c_int>) {
        let info = capture::info(&*captured_stream(stream)?);
        status.set(info.map_or(CAPTURE_NONE, |info| capture_status(info.invalidated)))
    }

    /// What a stream records into, and what the next piece of work depends on.
    fn cuStreamGetCaptureInfo_v2(
        stream: usize,
        status: Out<c_int>,
        id: Out<u64>,
        graph: Out<usize>,
        dependencies: Out<*const usize>,
        count: Out<usize>,
    ) {
        describe_capture(stream, status, id, graph, dependencies, count)
    }

    /// What a stream records into, and what the next piece of work depends on; no dependency has data of its own.
    fn cuStreamGetCaptureInfo_v3(
        stream: usize,
        status: Out<c_int>,
        id: Out<u64>,
        graph: Out<usize>,
        dependencies: Out<*const usize>,
        data: Out<*const u64>,
        count: Out<usize>,
    ) {
        data.set_if_wanted(std::ptr::null());
        describe_capture(stream, status, id, graph, dependencies, count)
    }

    /// Sets what captures forbid to the calling thread, and returns what was set.
    fn cuThreadExchangeStreamCaptureMode(mode: Out<c_int>) {
        device::all()?;
        mode.set(capture::exchange_mode(Mode::from_number(mode.get()?)?) as c_int)
    }

    /// Creates a graph without nodes.
    fn cuGraphCreate(graph: Out<usize>, flags: c_uint) {
        device::all()?;
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        graph.required()?.set(create().handle)
    }

    /// Destroys a graph; what was instantiated from it stays.
    fn cuGraphDestroy(graph: usize) {
        device::all()?;
        GRAPHS.get(graph)?.destroy();
        Ok(())
    }

    /// Nodes of a graph.
    fn cuGraphGetNodes(graph: usize, nodes: Out<usize>, count: Out<usize>) {
        device::all()?;
        let handles: Vec<usize> = GRAPHS.get(graph)?.nodes().iter().map(|node| node.handle).collect();
        list(&handles, nodes, count)
    }

    /// Pairs of nodes of which the second depends on the first.
    fn cuGraphGetEdges(graph: usize, from: Out<usize>, to: Out<usize>, count: Out<usize>) {
        edges(graph, from, to, count)
    }

    /// Pairs of nodes of which the second depends on the first; the data of every edge is zero.
    fn cuGraphGetEdges_v2(graph: usize, from: Out<usize>, to: Out<usize>, data: Out<u64>, count: Out<usize>) {
        let room = if data.is_null() { 0 } else { count.get()? };
        edges(graph, from, to, count)?;
        (0..count.get()?.min(room)).for_each(|index| data.set_at(index, 0));
        Ok(())
    }

    /// Type of a node.
    fn cuGraphNodeGetType(node: usize, kind: Out<c_int>) {
        device::all()?;
        kind.set(NODES.get(node)?.work.node_type())
    }

    /// Makes a graph ready to be launched.
    fn cuGraphInstantiateWithFlags(exec: Out<usize>, graph: usize, flags: c_ulonglong) {
        instantiate(exec, graph, flags)
    }

    /// Makes a graph ready to be launched; nothing is written to the log.
    fn cuGraphInstantiate_v2(exec: Out<usize>, graph: usize, node: Out<usize>, log: Out<c_char>, bytes: usize) {
        node.set_if_wanted(0);
        if bytes > 0 {
            log.set_if_wanted(0);
        }
        instantiate(exec, graph, 0)
    }

    /// Readies a launch on a stream: nothing is left to do.
    fn cuGraphUpload(exec: usize, stream: usize) {
        let context = current::context()?;
        EXECS.get(exec)?;
        capture::refuse_on(&*stream::resolve(stream, &context)?)
    }

    /// Runs a graph in the order of a stream.
    fn cuGraphLaunch(exec: usize, stream: usize) {
        let context = current::context()?;
        let exec = EXECS.get(exec)?;
        let stream = stream::resolve(stream, &context)?;
        stream::enqueue(&stream, Work::Graph(exec))
    }

    /// Destroys a graph that was made ready.
    fn cuGraphExecDestroy(exec: usize) {
        device::all()?;
        EXECS.remove(exec).map(|_| ())
    }
}

fn capture_status(invalidated: bool) -> c_int {
    if invalidated { CAPTURE_INVALIDATED } else { CAPTURE_ACTIVE }
}
