//! Work that stands back for requests.

use std::io;
use std::thread;

use tokio::sync::oneshot;

/// Lets the threads that answer requests go first, as far as a niceness from 0 to 19 says: beside one of 10, a busy
/// thread gets ten times as much, beside one of 19, 68 times. Threads of the runtime are not for this: what they do
/// next may be extending a window.
pub(crate) fn give_way(niceness: i32) {
    if let Err(error) = rustix::process::setpriority_process(None, niceness) {
        tracing::debug!("the priority of a thread in the background cannot be lowered: {error}");
    }
}

/// Does work that may block on a thread of its own, which gives way.
pub(crate) async fn run<T: Send + 'static>(
    name: &str,
    niceness: i32,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (finished, done) = oneshot::channel();
    let work = move || {
        give_way(niceness);
        // Nobody may be waiting any more.
        let _ = finished.send(work());
    };
    thread::Builder::new().name(name.to_owned()).spawn(work)?;
    done.await.map_err(|_panicked| io::Error::other("it failed, and the log says how"))
}
