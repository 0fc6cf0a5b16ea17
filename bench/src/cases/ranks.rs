//! Collective operations of ranks that are threads of this process: one rank with one thread of its own for each thread of the
//! row. Bytes are those that the ranks read and write.

use super::{Cases, add};
use crate::buffer::Buffer;
use crate::ceiling::{Ceiling, Traffic};
use crate::measure::{Case, Unit};
use scalert_runtime::DType::{BF16, F32};
use scalert_runtime::comm::Reduction;
use scalert_runtime::{Comm, CommDesc, DType, Runtime, RuntimeDesc, Stream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// Bytes of the larger tensor of each rank.
const BYTES: usize = 256 << 20;

/// What a rank does in one run.
type Work = fn(&Comm, &Stream, &Buffer, &Buffer);

fn reduce_scatter(comm: &Comm, stream: &Stream, whole: &Buffer, part: &Buffer) {
    comm.reduce_scatter(stream, whole.view(), part.view(), Reduction::Sum).expect("all ranks come");
}

fn all_gather(comm: &Comm, stream: &Stream, whole: &Buffer, part: &Buffer) {
    comm.all_gather(stream, part.view(), whole.view()).expect("all ranks come");
}

fn all_reduce(comm: &Comm, stream: &Stream, whole: &Buffer, _: &Buffer) {
    comm.all_reduce(stream, whole.view(), Reduction::Max).expect("all ranks come");
}

pub(super) fn add_all(cases: &mut Cases) {
    for dtype in [F32, BF16] {
        let of = format!("{dtype} {} MiB on a rank per thread", BYTES >> 20);
        // Every rank reads its share of every rank's tensor, and writes a share.
        case(cases, format!("local reduce_scatter {of}"), dtype, reduce_scatter, |world| Traffic {
            update: Vec::new(),
            read: vec![BYTES; world],
            write: vec![BYTES / world; world],
        });
        case(cases, format!("local all_gather {of}"), dtype, all_gather, |world| Traffic {
            update: Vec::new(),
            read: vec![BYTES; world],
            write: vec![BYTES; world],
        });
        case(cases, format!("local all_reduce {of}"), dtype, all_reduce, |world| Traffic {
            update: vec![BYTES; world],
            ..Traffic::default()
        });
    }
}

fn case(cases: &mut Cases, name: String, dtype: DType, work: Work, traffic: fn(usize) -> Traffic) {
    add(cases, name, move |stream, name| {
        let threads = stream.runtime().threads() as usize;
        let desc = RuntimeDesc { threads: 1, simd: Some(stream.runtime().level()), ..RuntimeDesc::default() };
        let runtimes: Vec<Runtime> = (0..threads).map(|_| Runtime::new(&desc).expect("a CPU runtime")).collect();
        let comms = Comm::local(&runtimes, &CommDesc::default()).expect("a group");
        let ranks: Vec<Rank> = comms.into_iter().map(|comm| Rank::start(comm, dtype, work)).collect();
        let traffic = traffic(threads);
        let bytes = traffic.bytes() as f64;
        let run = Box::new(move || {
            ranks.iter().for_each(|rank| rank.go.as_ref().expect("it runs").send(()).expect("the rank runs"));
            ranks.iter().for_each(|rank| rank.done.recv().expect("the rank runs"));
        });
        Case { name, unit: Unit::Bytes, work: bytes, bytes, ceiling: Some(Ceiling::Traffic(traffic)), run }
    });
}

/// The thread of a rank, with memory that it has touched itself.
struct Rank {
    /// Dropped to end the thread.
    go: Option<SyncSender<()>>,
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Rank {
    fn start(comm: Comm, dtype: DType, work: Work) -> Rank {
        let (go, going) = sync_channel(1);
        let (finished, done) = sync_channel(1);
        let thread = thread::spawn(move || {
            let stream = Stream::new(comm.runtime()).expect("a CPU stream");
            let n = BYTES / dtype.size();
            let whole = Buffer::filled(&stream, dtype, &[n], 1.0);
            let part = Buffer::filled(&stream, dtype, &[n / comm.world() as usize], 1.0);
            while going.recv().is_ok() {
                work(&comm, &stream, &whole, &part);
                if finished.send(()).is_err() {
                    break;
                }
            }
        });
        Rank { go: Some(go), done, thread: Some(thread) }
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        self.go = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
