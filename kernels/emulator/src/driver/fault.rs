//! Faults of kernels: what they leave in the context, and where they are told.

use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::context::Context;
use super::error::Status;
use crate::{Fault, FaultKind};

static LAST: Mutex<Option<Fault>> = Mutex::new(None);

/// The latest fault of any kernel in this process.
pub fn last_fault() -> Option<Fault> {
    LAST.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Leaves a fault in a context, keeps it, and tells it where the environment asks for that.
pub(super) fn raise(context: &Context, fault: Fault) {
    context.poison(status(&fault));
    report(&fault);
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
}

/// The fault of a copy or fill whose memory was freed after a graph had recorded it.
pub(super) fn gone(what: &str, address: u64) -> Fault {
    Fault {
        kind: FaultKind::UseAfterFree,
        kernel: what.to_owned(),
        line: 0,
        instruction: String::new(),
        address: Some(address),
        block: [0; 3],
        thread: [0; 3],
        message: "the memory has been freed since the graph was recorded".to_owned(),
    }
}

/// The error that a real device would leave.
fn status(fault: &Fault) -> Status {
    match fault.kind {
        FaultKind::OutOfBounds | FaultKind::UseAfterFree => Status::ILLEGAL_ADDRESS,
        FaultKind::Misaligned => Status::MISALIGNED_ADDRESS,
        FaultKind::InstructionLimit => Status::LAUNCH_TIMEOUT,
        FaultKind::Trap if fault.message.contains("assert") => Status::ASSERT,
        _ => Status::LAUNCH_FAILED,
    }
}

fn report(fault: &Fault) {
    static PLACE: OnceLock<Option<String>> = OnceLock::new();
    let place = PLACE.get_or_init(|| std::env::var("SCALERT_EMULATOR_REPORT").ok().filter(|place| !place.is_empty()));
    match place.as_deref() {
        None => {}
        Some("stderr") => eprintln!("{fault}"),
        Some(path) => {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            // A report that cannot be written is lost: the error of the context remains.
            let _ = file.and_then(|mut file| writeln!(file, "{fault}"));
        }
    }
}
