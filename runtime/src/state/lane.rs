//! What goes between ranks while the host goes on: jobs, done one after the other in the order in which they were given.
//!
//! Without overlap a job is done at once, in the stream of the call. With it, on the CPU device a thread of the state does
//! the jobs, on a CUDA device a stream of its own; who needs their outcome waits for them, in stream order.

use crate::comm::{Comm, Communicator, Named, Reduction};
use crate::device::DeviceKind;
use crate::error::{Error, Result, Status};
use crate::event::Event;
use crate::runtime::Runtime;
use crate::stream::{Queue, Stream};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::accumulate::Accumulate;
use scalert_kernels::view::View;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// One thing to do. The memory is the state's.
pub(super) enum Action {
    /// x becomes its sum over the ranks.
    AllReduce(View<'static>),
    /// input becomes its sum over the ranks, on `root`.
    Reduce { input: View<'static>, root: u32 },
    /// The parts of the ranks become a whole.
    AllGather { input: View<'static>, output: View<'static> },
    /// x becomes that of `root`.
    Broadcast { x: View<'static>, root: u32 },
    /// `to` becomes `from`, of as many bytes.
    Copy { from: View<'static>, to: View<'static> },
    /// A sum enters its accumulators.
    Accumulate(Box<Accumulate<'static>>),
}

/// Things to do one after the other.
pub(super) struct Job {
    /// What the calls are named while they are done.
    pub(super) name: String,
    pub(super) actions: Vec<Action>,
}

// SAFETY: the memory of a job is the state's, which ends its lane before it gives memory back; between giving a job and waiting
// for it the state leaves that memory to it.
unsafe impl Send for Job {}

impl Job {
    fn run(&self, ranks: &dyn Communicator, queue: &mut Queue<'_>) -> Result<()> {
        let _named = Named::new(ranks, &self.name)?;
        for action in &self.actions {
            match action {
                Action::AllReduce(x) => ranks.all_reduce(queue, *x, Reduction::Sum)?,
                Action::Reduce { input, root } => {
                    let output = (*root == ranks.rank()).then_some(*input);
                    ranks.reduce(queue, *input, output, Reduction::Sum, *root)?;
                }
                Action::AllGather { input, output } => ranks.all_gather(queue, *input, *output)?,
                Action::Broadcast { x, root } => ranks.broadcast(queue, *x, *root)?,
                Action::Copy { from, to } => {
                    // SAFETY: both are whole views of as many bytes, apart from each other.
                    unsafe { queue.copy(to.data(), from.data(), from.numel() * from.dtype().size()) }?;
                }
                Action::Accumulate(op) => queue.submit(&**op)?,
            }
        }
        Ok(())
    }
}

/// Which job of a lane: 1, 2, ...; 0 = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// Where jobs are done.
pub(super) struct Lane {
    comm: Comm,
    given: u64,
    place: Place,
}

enum Place {
    /// In the stream of who gives the job.
    Here,
    /// On a thread.
    Thread(Worker),
    /// On a stream of the device, with an event after the last job.
    Stream { stream: Stream, given: Event, done: Event },
}

impl Lane {
    /// A lane of this rank.
    pub(super) fn new(runtime: &Runtime, comm: &Comm, overlap: bool) -> Result<Lane> {
        let place = match (overlap, runtime.device()) {
            (false, _) => Place::Here,
            (true, DeviceKind::Cpu) => {
                let stream = Stream::new(runtime)?;
                stream.reserve(workspace(runtime)?)?;
                Place::Thread(Worker::new(stream, comm.clone())?)
            }
            (true, DeviceKind::Cuda) => {
                Place::Stream { stream: Stream::new(runtime)?, given: Event::new(runtime)?, done: Event::new(runtime)? }
            }
        };
        Ok(Lane { comm: comm.clone(), given: 0, place })
    }

    /// Gives a job, which begins after all that is enqueued in `queue` so far.
    pub(super) fn give(&mut self, queue: &mut Queue<'_>, job: Job) -> Result<Ticket> {
        match &mut self.place {
            Place::Here => job.run(self.comm.communicator(), queue)?,
            Place::Thread(worker) => worker.give(job)?,
            Place::Stream { stream, given, done } => {
                given.record_in(queue)?;
                let mut lane = stream.begin()?;
                lane.follow(given)?;
                job.run(self.comm.communicator(), &mut lane)?;
                done.record_in(&lane)?;
            }
        }
        self.given += 1;
        Ok(Ticket(self.given))
    }

    /// Work that is enqueued in `queue` from now on comes after the job.
    pub(super) fn wait(&self, queue: &mut Queue<'_>, ticket: Ticket) -> Result<()> {
        match &self.place {
            _ if ticket == Ticket::default() => Ok(()),
            Place::Here => Ok(()),
            Place::Thread(worker) => worker.wait(ticket.0),
            Place::Stream { done, .. } => queue.follow(done),
        }
    }

    /// [`Lane::wait`] for all jobs given so far.
    pub(super) fn drain(&self, queue: &mut Queue<'_>) -> Result<()> {
        self.wait(queue, Ticket(self.given))
    }
}

/// What a job's operations need on the CPU device: had before, so that no job fails for want of it.
fn workspace(runtime: &Runtime) -> Result<u64> {
    // SAFETY: a tensor without elements reaches no memory.
    let empty = unsafe { View::new("empty", std::ptr::null_mut(), DType::F32, &[0], &[1]) }?;
    let op = Accumulate {
        x: empty,
        overwrite: true,
        y: empty,
        nonfinite: empty,
        square_sum: None,
        overflow: None,
        overflow_mark: 0,
    };
    Ok(op.workspace(runtime.threads() as usize) as u64)
}

#[derive(Default)]
struct Progress {
    done: u64,
    /// The first failure, which ends the lane.
    failure: Option<Error>,
}

/// A thread that does jobs.
struct Worker {
    jobs: Option<Sender<Job>>,
    progress: Arc<(Mutex<Progress>, Condvar)>,
    thread: Option<JoinHandle<()>>,
    /// The process that has the thread.
    process: u32,
}

impl Worker {
    fn new(stream: Stream, comm: Comm) -> Result<Worker> {
        let (jobs, given) = channel::<Job>();
        let progress = Arc::new((Mutex::new(Progress::default()), Condvar::new()));
        let shared = Arc::clone(&progress);
        let work = move || {
            for job in given {
                let (progress, changed) = &*shared;
                let outcome = match &progress.lock().expect("nobody panics with it").failure {
                    Some(failure) => Err(failure.clone()),
                    None => Ok(()),
                };
                let outcome = outcome.and_then(|()| {
                    let run = || stream.begin().and_then(|mut queue| job.run(comm.communicator(), &mut queue));
                    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
                        Err(Error::new(Status::Internal, "a panic while gradients or weights went between ranks"))
                    })
                });
                let mut progress = progress.lock().expect("nobody panics with it");
                progress.done += 1;
                if let Err(error) = outcome {
                    progress.failure.get_or_insert(error);
                }
                changed.notify_all();
            }
        };
        let thread = std::thread::Builder::new().name("scaleRT ranks".to_owned()).spawn(work).map_err(|error| {
            Error::new(Status::OutOfMemory, format!("no thread for what goes between ranks: {error}"))
        })?;
        Ok(Worker { jobs: Some(jobs), progress, thread: Some(thread), process: std::process::id() })
    }

    fn expect_process(&self) -> Result<()> {
        if std::process::id() == self.process {
            return Ok(());
        }
        Err(Error::precondition("the state's thread is of the process before fork; make a state in the new one"))
    }

    fn give(&self, job: Job) -> Result<()> {
        self.expect_process()?;
        let jobs = self.jobs.as_ref().expect("it is taken when the worker is dropped");
        jobs.send(job).map_err(|_| Error::new(Status::Internal, "the state's thread has ended"))
    }

    fn wait(&self, number: u64) -> Result<()> {
        self.expect_process()?;
        let (progress, changed) = &*self.progress;
        let progress = progress.lock().expect("nobody panics with it");
        let progress = changed.wait_while(progress, |progress| progress.done < number).expect("nobody panics with it");
        progress.failure.clone().map_or(Ok(()), Err)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        // In a forked child there is no such thread.
        if let Some(thread) = self.thread.take().filter(|_| std::process::id() == self.process) {
            let _ = thread.join();
        }
    }
}
