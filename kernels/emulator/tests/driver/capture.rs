//! Capture: graphs that are recorded and run again, and what is illegal meanwhile.

use crate::api::*;

const GLOBAL: i32 = 0;
const THREAD_LOCAL: i32 = 1;
const RELAXED: i32 = 2;

fn begin(stream: usize, mode: i32) {
    assert_eq!(cuStreamBeginCapture_v2(stream, mode), SUCCESS);
}

/// Ends a capture: its graph, or the error.
fn end(stream: usize) -> Result<usize, i32> {
    let mut graph = 9;
    match cuStreamEndCapture(stream, &mut graph) {
        SUCCESS => Ok(graph),
        error => {
            assert_eq!(graph, 0);
            Err(error)
        }
    }
}

fn instantiate(graph: usize) -> usize {
    let mut exec = 0;
    assert_eq!(cuGraphInstantiateWithFlags(&mut exec, graph, 0), SUCCESS);
    exec
}

fn status(stream: usize) -> i32 {
    let mut status = 9;
    assert_eq!(cuStreamIsCapturing(stream, &mut status), SUCCESS);
    status
}

/// Types of the nodes of a graph, and the number of its edges.
fn shape(graph: usize) -> (Vec<i32>, usize) {
    let (mut nodes, mut count, mut edges) = ([0; 16], 16, 0);
    assert_eq!(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count), SUCCESS);
    let none = std::ptr::null_mut();
    assert_eq!(cuGraphGetEdges(graph, none, none, &mut edges), SUCCESS);
    let kind = |node: &usize| {
        let mut kind = 0;
        assert_eq!(cuGraphNodeGetType(*node, &mut kind), SUCCESS);
        kind
    };
    (nodes[..count].iter().map(kind).collect(), edges)
}

#[test]
fn what_is_recorded_runs_when_it_is_launched() {
    let session = Session::new();
    let (function, stream) = (session.function("add"), session.stream());
    let (one, sum, copy) = (session.upload(&[1.0]), session.upload(&[0.0]), session.upload(&[0.0]));
    let mut out = [-1.0_f32];
    assert_eq!(status(stream), 0);
    begin(stream, GLOBAL);
    assert_eq!(status(stream), 1);
    assert_eq!(cuMemsetD32Async(copy, 0, 1, stream), SUCCESS);
    assert_eq!(add(function, stream, [one, sum, sum], 1), SUCCESS);
    assert_eq!(cuMemcpyDtoDAsync_v2(copy, sum, 4, stream), SUCCESS);
    assert_eq!(cuMemcpyDtoHAsync_v2(out.as_mut_ptr().cast(), copy, 4, stream), SUCCESS);
    let graph = end(stream).unwrap();
    assert_eq!(status(stream), 0);
    assert_eq!(session.download(sum, 1), [0.0], "nothing has run");
    assert_eq!(shape(graph), (vec![2, 0, 1, 1], 3));
    let exec = instantiate(graph);
    assert_eq!(cuGraphDestroy(graph), SUCCESS);
    assert_eq!(cuGraphDestroy(graph), INVALID_HANDLE);
    for round in 1..=3 {
        assert_eq!(cuGraphLaunch(exec, stream), SUCCESS);
        assert_eq!(cuStreamSynchronize(stream), SUCCESS);
        // SAFETY: the graph has written the value, and no reference is held while it runs.
        assert_eq!(unsafe { (&raw const out[0]).read_volatile() }, round as f32);
    }
    assert_eq!(cuGraphExecDestroy(exec), SUCCESS);
    assert_eq!(cuGraphLaunch(exec, stream), INVALID_HANDLE);
    assert_eq!(cuGraphInstantiateWithFlags(&mut 0, graph, 0), INVALID_HANDLE);
}

#[test]
fn streams_join_through_events_and_graphs_nest() {
    let session = Session::new();
    let (function, stream, side) = (session.function("add"), session.stream(), session.stream());
    let (one, left, right) = (session.upload(&[1.0]), session.upload(&[0.0]), session.upload(&[0.0]));
    let (fork, join) = (session.event(), session.event());
    begin(stream, GLOBAL);
    assert_eq!(add(function, stream, [one, left, left], 1), SUCCESS);
    assert_eq!(cuEventRecord(fork, stream), SUCCESS);
    assert_eq!(cuStreamWaitEvent(side, fork, 0), SUCCESS);
    assert_eq!((status(stream), status(side)), (1, 1));
    assert_eq!(add(function, side, [one, right, right], 1), SUCCESS);
    assert_eq!(add(function, stream, [one, left, left], 1), SUCCESS);
    assert_eq!(cuEventRecord(join, side), SUCCESS);
    let (mut id, mut captured, mut dependencies, mut count, mut state) = (0, 0, std::ptr::null(), 0, 0);
    let mut info = |stream: usize, count: &mut usize| {
        cuStreamGetCaptureInfo_v2(stream, &mut state, &mut id, &mut captured, &mut dependencies, count)
    };
    assert_eq!((info(stream, &mut count), count), (SUCCESS, 1));
    assert_eq!(cuStreamWaitEvent(stream, join, 0), SUCCESS);
    assert_eq!((info(stream, &mut count), count), (SUCCESS, 2));
    assert_eq!(add(function, stream, [left, right, right], 1), SUCCESS);
    let graph = end(stream).unwrap();
    assert_eq!((captured, state), (graph, 1));
    assert_eq!((status(stream), status(side)), (0, 0));
    assert_eq!(shape(graph), (vec![0, 0, 0, 0], 4));
    let inner = instantiate(graph);
    assert_eq!(cuEventQuery(join), CAPTURED_EVENT);

    begin(stream, GLOBAL);
    assert_eq!(cuGraphLaunch(inner, stream), SUCCESS);
    assert_eq!(cuGraphLaunch(inner, stream), SUCCESS);
    assert_eq!(cuEventRecordWithFlags(fork, stream, 1), SUCCESS);
    let outer = end(stream).unwrap();
    assert_eq!(shape(outer), (vec![4, 4, 7], 2));
    let outer = instantiate(outer);
    assert_eq!(cuGraphLaunch(outer, stream), SUCCESS);
    assert_eq!(cuEventSynchronize(fork), SUCCESS, "recorded by the graph, seen outside");
    assert_eq!((session.download(left, 1), session.download(right, 1)), (vec![4.0], vec![8.0]));
}

#[test]
fn illegal_calls_make_a_capture_invalid() {
    let session = Session::new();
    let (function, stream, other) = (session.function("store"), session.stream(), session.stream());
    let address = session.upload(&[0.0]);
    let outside = session.event();
    assert_eq!(cuEventRecord(outside, other), SUCCESS);
    let spoil = |name: &str, expected: i32, illegal: &dyn Fn() -> i32| {
        begin(stream, GLOBAL);
        assert_eq!(store(function, stream, address, 1), SUCCESS);
        assert_eq!(illegal(), expected, "{name}");
        assert_eq!(status(stream), 2, "{name}");
        assert_eq!(store(function, stream, address, 1), CAPTURE_INVALIDATED, "{name}");
        assert_eq!(end(stream), Err(CAPTURE_INVALIDATED), "{name}");
        assert_eq!(status(stream), 0, "{name}");
    };
    spoil("allocation", CAPTURE_UNSUPPORTED, &|| cuMemAlloc_v2(&mut 0, 4));
    spoil("free", CAPTURE_UNSUPPORTED, &|| cuMemFree_v2(address));
    spoil("pinned", CAPTURE_UNSUPPORTED, &|| cuMemAllocHost_v2(&mut std::ptr::null_mut(), 4));
    spoil("wait", CAPTURE_UNSUPPORTED, &|| cuStreamSynchronize(stream));
    spoil("query", CAPTURE_UNSUPPORTED, &|| cuStreamQuery(stream));
    spoil("wait for all", CAPTURE_UNSUPPORTED, &cuCtxSynchronize);
    spoil("outside", CAPTURE_ISOLATION, &|| cuStreamWaitEvent(stream, outside, 0));
    spoil("event", CAPTURED_EVENT, &|| {
        let event = session.event();
        assert_eq!(cuEventRecord(event, stream), SUCCESS);
        cuEventQuery(event)
    });
    assert_eq!(session.download(address, 1), [0.0], "nothing ever ran");

    begin(stream, GLOBAL);
    assert_eq!(cuStreamWaitEvent(stream, outside, 1), SUCCESS, "an external wait is a node");
    assert_eq!(shape(end(stream).unwrap()).0, [6]);
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_only() {
    let session = Session::new();
    let (function, free, blocking) = (session.function("store"), session.stream(), session.blocking_stream());
    let address = session.upload(&[0.0]);
    assert_eq!(cuStreamBeginCapture_v2(0, RELAXED), CAPTURE_UNSUPPORTED);
    begin(free, RELAXED);
    assert_eq!(store(function, 0, address, 1), SUCCESS);
    assert!(end(free).is_ok());
    begin(blocking, RELAXED);
    assert_eq!(cuStreamIsCapturing(0, &mut 0), CAPTURE_IMPLICIT);
    assert_eq!(status(blocking), 1, "the question does no harm");
    assert_eq!(store(function, 0, address, 2), CAPTURE_IMPLICIT);
    assert_eq!(end(blocking), Err(CAPTURE_INVALIDATED));
    assert_eq!(store(function, 0, address, 3), SUCCESS);
    begin(blocking, RELAXED);
    let mut word = 0_u32;
    assert_eq!(cuMemcpyDtoH_v2((&raw mut word).cast(), address, 4), CAPTURE_IMPLICIT);
    assert_eq!(end(blocking), Err(CAPTURE_INVALIDATED));
    begin(2, RELAXED);
    assert_eq!(store(function, 2, address, 4), SUCCESS, "the stream of a thread may capture");
    assert!(end(2).is_ok());
}

#[test]
fn captures_end_where_and_how_they_began() {
    let session = Session::new();
    let (stream, side) = (session.stream(), session.stream());
    let (function, address, context) = (session.function("store"), session.upload(&[0.0]), session.context);
    let event = session.event();
    assert_eq!(cuStreamBeginCapture_v2(stream, 3), INVALID_VALUE);
    assert_eq!(end(stream), Err(ILLEGAL_STATE));
    begin(stream, GLOBAL);
    assert_eq!(cuStreamBeginCapture_v2(stream, GLOBAL), ILLEGAL_STATE);
    assert_eq!(cuEventRecord(event, stream), SUCCESS);
    assert_eq!(cuStreamWaitEvent(side, event, 0), SUCCESS);
    assert_eq!(end(side), Err(CAPTURE_UNMATCHED));
    let elsewhere = std::thread::spawn(move || {
        assert_eq!(cuCtxPushCurrent_v2(context), SUCCESS);
        end(stream)
    });
    assert_eq!(elsewhere.join().unwrap(), Err(CAPTURE_WRONG_THREAD));
    assert_eq!(store(function, side, address, 1), SUCCESS);
    assert_eq!(end(stream), Err(CAPTURE_UNJOINED));
    assert_eq!((status(stream), status(side)), (0, 0));
    assert_eq!(cuStreamWaitEvent(side, event, 0), CAPTURED_EVENT, "its capture is over");

    begin(stream, RELAXED);
    begin(side, RELAXED);
    assert_eq!(cuEventRecord(event, stream), SUCCESS);
    assert_eq!(cuStreamWaitEvent(side, event, 0), CAPTURE_MERGE);
    assert_eq!((end(stream), end(side)), (Err(CAPTURE_INVALIDATED), Err(CAPTURE_INVALIDATED)));

    begin(stream, RELAXED);
    assert_eq!(cuStreamDestroy_v2(stream), SUCCESS);
    assert_eq!(cuStreamEndCapture(stream, &mut 0), INVALID_HANDLE);
    assert_eq!(cuMemAlloc_v2(&mut 0, 4), SUCCESS, "the capture went with its stream");
}

#[test]
fn the_mode_says_which_threads_are_disturbed() {
    let session = Session::new();
    let (stream, context) = (session.stream(), session.context);
    let other_allocates = |mode: i32| {
        let call = move || {
            assert_eq!(cuCtxPushCurrent_v2(context), SUCCESS);
            let mut mode = mode;
            assert_eq!(cuThreadExchangeStreamCaptureMode(&mut mode), SUCCESS);
            assert_eq!(mode, GLOBAL, "every thread begins so");
            cuMemAlloc_v2(&mut 0, 4)
        };
        std::thread::spawn(call).join().unwrap()
    };
    begin(stream, GLOBAL);
    assert_eq!(other_allocates(THREAD_LOCAL), SUCCESS);
    assert_eq!(other_allocates(RELAXED), SUCCESS);
    assert_eq!(status(stream), 1);
    assert_eq!(other_allocates(GLOBAL), CAPTURE_UNSUPPORTED);
    assert_eq!(end(stream), Err(CAPTURE_INVALIDATED));

    begin(stream, THREAD_LOCAL);
    assert_eq!(other_allocates(GLOBAL), SUCCESS);
    let mut mode = RELAXED;
    assert_eq!(cuThreadExchangeStreamCaptureMode(&mut mode), SUCCESS);
    assert_eq!(cuMemAlloc_v2(&mut 0, 4), SUCCESS);
    assert_eq!(cuThreadExchangeStreamCaptureMode(&mut mode), SUCCESS);
    assert_eq!((mode, status(stream)), (RELAXED, 1));
    assert_eq!(cuMemAlloc_v2(&mut 0, 4), CAPTURE_UNSUPPORTED);
    assert_eq!(end(stream), Err(CAPTURE_INVALIDATED));

    begin(stream, RELAXED);
    assert_eq!(cuMemAlloc_v2(&mut 0, 4), SUCCESS);
    assert_eq!(cuThreadExchangeStreamCaptureMode(&mut 3), INVALID_VALUE);
    assert!(end(stream).is_ok());
}

#[test]
fn threads_capture_at_the_same_time() {
    let session = Session::new();
    let (function, context) = (session.function("add"), session.context);
    let one = session.upload(&[1.0]);
    let capture = move |sum: u64| {
        assert_eq!(cuCtxPushCurrent_v2(context), SUCCESS);
        let mut stream = 0;
        assert_eq!(cuStreamCreate(&mut stream, 1), SUCCESS);
        for _ in 0..20 {
            begin(stream, THREAD_LOCAL);
            (0..3).for_each(|_| assert_eq!(add(function, stream, [one, sum, sum], 1), SUCCESS));
            let graph = end(stream).unwrap();
            assert_eq!(shape(graph), (vec![0, 0, 0], 2));
            let exec = instantiate(graph);
            assert_eq!(cuGraphDestroy(graph), SUCCESS);
            assert_eq!(cuGraphLaunch(exec, stream), SUCCESS);
            assert_eq!(cuStreamSynchronize(stream), SUCCESS);
            assert_eq!(cuGraphExecDestroy(exec), SUCCESS);
            assert_eq!(cuMemAlloc_v2(&mut 0, 16), SUCCESS);
        }
    };
    let sums: Vec<u64> = (0..4).map(|_| session.upload(&[0.0])).collect();
    let threads: Vec<_> = sums.iter().copied().map(|sum| std::thread::spawn(move || capture(sum))).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    sums.iter().for_each(|sum| assert_eq!(session.download(*sum, 1), [60.0]));
}

#[test]
fn what_no_graph_holds_is_refused() {
    let session = Session::new();
    let stream = session.stream();
    let mut ordered = 0;
    assert_eq!(cuMemAllocAsync(&mut ordered, 4, stream), SUCCESS);
    begin(stream, RELAXED);
    assert_eq!(cuMemAllocAsync(&mut 0, 4, stream), CAPTURE_UNSUPPORTED);
    assert_eq!(end(stream), Err(CAPTURE_INVALIDATED));
    begin(stream, RELAXED);
    assert_eq!(cuMemFreeAsync(ordered, stream), CAPTURE_UNSUPPORTED);
    assert_eq!(end(stream), Err(CAPTURE_INVALIDATED));
    assert_eq!(cuMemFreeAsync(ordered, stream), SUCCESS, "it was not freed");
}

#[test]
fn a_graph_finds_memory_that_was_freed() {
    let session = Session::new();
    let stream = session.stream();
    let (from, to) = (session.upload(&[1.0]), session.upload(&[2.0]));
    begin(stream, GLOBAL);
    assert_eq!(cuMemcpyDtoDAsync_v2(to, from, 4, stream), SUCCESS);
    let exec = instantiate(end(stream).unwrap());
    assert_eq!(cuGraphLaunch(exec, stream), SUCCESS);
    assert_eq!(cuStreamSynchronize(stream), SUCCESS);
    assert_eq!(cuMemFree_v2(from), SUCCESS);
    assert_eq!(cuGraphLaunch(exec, stream), SUCCESS);
    assert_eq!(cuStreamSynchronize(stream), ILLEGAL_ADDRESS);
}
