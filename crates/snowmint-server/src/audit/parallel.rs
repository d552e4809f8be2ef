//! Many objects, read by several threads and taken in order.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::objects::{Kind, Objects};

/// Threads that read, at most: each holds what it has read of an object.
const THREADS_MAX: usize = 32;

/// Threads for each core where objects come over the network, and are waited for.
const REMOTE_THREADS_PER_CORE: usize = 4;

/// How many objects are read ahead of the one that is wanted next, for each thread.
const AHEAD_PER_THREAD: usize = 2;

/// How many parts of an object are read ahead of the one that is wanted next.
const PARTS_AHEAD: usize = 4;

/// How many threads read from there.
pub(super) fn threads(objects: &Objects) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads =
        if matches!(objects.kind, Kind::Directory(_)) { cores } else { cores * REMOTE_THREADS_PER_CORE };
    threads.min(THREADS_MAX)
}

/// Reads objects with several threads, and has what they give of each taken, part by part, in order. Bounded: no thread
/// reads more than a few objects, or a few parts of one, ahead of what is taken next. Who reads stops where its parts
/// are not taken.
pub(super) fn in_order<S: Sync, T: Send, E>(
    sources: &[S],
    threads: usize,
    read: &(dyn Fn(&S, &SyncSender<T>) + Sync),
    mut take: impl FnMut(&S, Receiver<T>) -> Result<(), E>,
) -> Result<(), E> {
    let ahead = threads * AHEAD_PER_THREAD;
    let (jobs, wanted) = mpsc::sync_channel::<(&S, SyncSender<T>)>(ahead);
    let wanted = Mutex::new(wanted);
    let next_job = || wanted.lock().unwrap_or_else(PoisonError::into_inner).recv();
    thread::scope(|scope| {
        // Without it the threads end, whichever way it goes.
        let jobs = jobs;
        for _ in 0..threads {
            scope.spawn(|| {
                while let Ok((source, parts)) = next_job() {
                    read(source, &parts);
                }
            });
        }
        let mut coming = VecDeque::with_capacity(ahead);
        let mut rest = sources.iter();
        loop {
            for source in rest.by_ref().take(ahead - coming.len()) {
                let (give, parts) = mpsc::sync_channel(PARTS_AHEAD);
                coming.push_back((source, parts));
                let _ = jobs.send((source, give));
            }
            let Some((source, parts)) = coming.pop_front() else { return Ok(()) };
            take(source, parts)?;
        }
    })
}
