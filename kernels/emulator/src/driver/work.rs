//! Pieces of work: what a stream does at once, and what a graph holds.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use super::context::Context;
use super::copy::{Copy, Fill};
use super::event::Event;
use super::export;
use super::graph::GraphExec;
use super::launch::Kernel;

/// A function of the host.
pub(super) type HostFunction = unsafe extern "C" fn(*mut c_void);

/// One piece of work.
pub(super) enum Work {
    Kernel(Kernel),
    Copy(Copy),
    Fill(Fill),
    Host {
        function: HostFunction,
        user: usize,
    },
    /// A graph within a graph, or one that is launched.
    Graph(Arc<GraphExec>),
    /// A wait for an event outside of the graph; it has been recorded, if ever, by work that is done.
    Await,
    /// The record of an event that is seen outside of the graph.
    Record(Arc<Event>),
}

impl Work {
    /// Does the work; what goes wrong is left in the context.
    pub(super) fn run(&self, context: &Context) {
        match self {
            Self::Kernel(kernel) => kernel.run(context),
            Self::Copy(copy) => copy.run(context),
            Self::Fill(fill) => fill.run(context),
            Self::Host { function, user } => run_host_function(*function, *user),
            Self::Graph(graph) => graph.run(context),
            Self::Await => {}
            Self::Record(event) => event.record_now(),
        }
    }

    /// The type of a graph's node that holds it.
    pub(super) fn node_type(&self) -> c_int {
        match self {
            Self::Kernel(_) => 0,
            Self::Copy(_) => 1,
            Self::Fill(_) => 2,
            Self::Host { .. } => 3,
            Self::Graph(_) => 4,
            Self::Await => 6,
            Self::Record(_) => 7,
        }
    }
}

/// A thread of its own, as with a real driver: what the caller keeps per thread is not seen there.
fn run_host_function(function: HostFunction, user: usize) {
    let call = move || {
        export::enter_host_function();
        // SAFETY: the program handed in the function with this argument, and may not touch what it uses meanwhile.
        unsafe { function(user as *mut c_void) }
    };
    let _ = std::thread::spawn(call).join();
}
