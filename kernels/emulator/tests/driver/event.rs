//! Events.

use crate::api::*;

#[test]
fn events_are_recorded_and_compared() {
    let session = Session::new();
    let (stream, start, end) = (session.stream(), session.event(), session.event());
    assert_eq!((cuEventQuery(start), cuEventSynchronize(start)), (SUCCESS, SUCCESS), "never recorded");
    let mut milliseconds = -1.0;
    assert_eq!(cuEventElapsedTime(&mut milliseconds, start, end), INVALID_HANDLE);
    assert_eq!(cuEventRecord(start, stream), SUCCESS);
    std::thread::sleep(std::time::Duration::from_millis(2));
    assert_eq!(cuEventRecord(end, stream), SUCCESS);
    assert_eq!((cuEventQuery(end), cuEventSynchronize(end)), (SUCCESS, SUCCESS));
    assert_eq!(cuEventElapsedTime(&mut milliseconds, start, end), SUCCESS);
    assert!(milliseconds >= 2.0, "{milliseconds}");
    assert_eq!(cuEventElapsedTime(&mut milliseconds, end, start), SUCCESS);
    assert!(milliseconds <= -2.0, "{milliseconds}");
    assert_eq!(cuStreamWaitEvent(stream, end, 0), SUCCESS);
    assert_eq!(cuStreamWaitEvent(stream, end, 2), INVALID_VALUE);
}

#[test]
fn events_without_time_and_events_that_are_none() {
    let session = Session::new();
    let (mut untimed, timed) = (0, session.event());
    assert_eq!(cuEventCreate(&mut untimed, 2), SUCCESS);
    assert_eq!((cuEventRecord(untimed, 0), cuEventRecord(timed, 0)), (SUCCESS, SUCCESS));
    assert_eq!(cuEventElapsedTime(&mut 0.0, untimed, timed), INVALID_HANDLE);
    assert_eq!(cuEventCreate(&mut untimed, 8), INVALID_VALUE);
    assert_eq!(cuEventCreate(&mut untimed, 4), INVALID_VALUE, "between processes only without time");
    assert_eq!(cuEventDestroy_v2(timed), SUCCESS);
    for handle in [0, 1, timed, session.stream(), usize::MAX] {
        assert_eq!(cuEventRecord(handle, 0), INVALID_HANDLE);
        assert_eq!(cuEventQuery(handle), INVALID_HANDLE);
        assert_eq!(cuEventSynchronize(handle), INVALID_HANDLE);
        assert_eq!(cuStreamWaitEvent(0, handle, 0), INVALID_HANDLE);
        assert_eq!(cuEventDestroy_v2(handle), INVALID_HANDLE);
    }
}
