//! What watches operations sees each of them once, with its tensors' bytes, and its end however it ends.

mod harness;

use harness::{Probe, Tensor, runtime};
use scalert_runtime::device::DeviceKind;
use scalert_runtime::ops::add::Add;
use scalert_runtime::ops::fill::Fill;
use scalert_runtime::trace::{Observer, Span};
use scalert_runtime::{DType, Stream};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Log(Mutex<Vec<(&'static str, Span)>>);

impl Log {
    fn take(&self) -> Vec<(&'static str, Span)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Log {
    fn begin(&self, span: &Span) {
        self.0.lock().unwrap().push(("begin", *span));
    }
    fn end(&self, span: &Span) {
        self.0.lock().unwrap().push(("end", *span));
    }
}

#[test]
fn each_operation_is_seen_from_begin_to_end() {
    let runtime = runtime(1);
    let (first, second) = (Stream::new(&runtime).unwrap(), Stream::new(&runtime).unwrap());
    let (a, b) = (Tensor::new(DType::F32, &[4, 3]), Tensor::new(DType::F32, &[4, 3]));
    let y = Tensor::new(DType::F32, &[4, 3]);
    let fill = Fill { value: 1.0, y: y.view() };
    first.submit(&fill).unwrap();
    let log = Arc::new(Log::default());
    runtime.observe(Some(log.clone()));
    first.submit(&fill).unwrap();
    second.submit(&Add { a: a.view(), b: b.view(), y: y.view() }).unwrap();
    let seen = log.take();
    let kinds: Vec<_> = seen.iter().map(|(what, span)| (*what, span.name, span.bytes)).collect();
    assert_eq!(kinds, [("begin", "fill", 48), ("end", "fill", 48), ("begin", "add", 144), ("end", "add", 144)]);
    assert!(seen.iter().all(|(_, span)| span.device == DeviceKind::Cpu));
    assert_ne!(seen[0].1.stream, seen[2].1.stream);

    // What is refused never begins, and what fails ends.
    let wrong = Tensor::new(DType::I32, &[4]);
    first.submit(&Fill { value: 1.0, y: wrong.view() }).unwrap_err();
    assert_eq!(log.take(), []);
    let broken = Probe::new(0, |_| panic!("on purpose"));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| first.submit(&broken))).unwrap_err();
    let seen = log.take();
    assert_eq!(
        seen.iter().map(|(what, span)| (*what, span.name)).collect::<Vec<_>>(),
        [("begin", "probe"), ("end", "probe")]
    );
    runtime.observe(None);
    second.submit(&fill).unwrap();
    assert_eq!(log.take(), []);
}
