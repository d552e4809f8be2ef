//! Work that stands back for requests.

/// Lets the threads that answer requests go first, as far as a niceness from 0 to 19 says. Threads of the runtime are not for this: what they do next may
/// be extending a window.
pub(crate) fn give_way(niceness: i32) {
    if let Err(error) = rustix::process::setpriority_process(None, niceness) {
        tracing::debug!("the priority of a thread in the background cannot be lowered: {error}");
    }
}
