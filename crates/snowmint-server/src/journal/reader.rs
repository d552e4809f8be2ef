//! A sink's place in the journal.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use uuid::Uuid;

use super::Batch;
use super::cursor::{Cursor, CursorFile};
use super::record::{Position, Step, Walk};
use super::{JournalError, Progress, Shared, cursor_path, file_error};
use crate::event::Event;

/// Tells how far a sink is behind.
#[derive(Clone)]
pub struct Lag {
    shared: Arc<Shared>,
    sink: String,
}

impl Lag {
    /// How many events of the journal the sink has not taken.
    #[must_use]
    pub fn events(&self) -> u64 {
        let end = self.shared.progress.borrow().end;
        self.shared.state().cursors.get(&self.sink).map_or(0, |next| end.saturating_sub(*next))
    }
}

/// Gives one sink the events of the journal, in batches that are the same each time they are offered.
pub struct Reader {
    progress: watch::Receiver<Progress>,
    place: Arc<Mutex<Place>>,
}

impl Reader {
    pub(super) fn open(shared: Arc<Shared>, sink: &str) -> Result<Self, JournalError> {
        let path = cursor_path(&shared.directory, sink);
        let opened = CursorFile::open(&path, shared.id).and_then(|(file, cursor)| {
            let cursor =
                cursor.ok_or_else(|| io::Error::other("the journal was not opened for this sink"))?;
            Ok((file, cursor))
        });
        let (file, cursor) = opened.map_err(|source| file_error("cannot read", &path, source))?;
        let progress = shared.progress.subscribe();
        let place = Place { shared, sink: sink.to_owned(), file, cursor, position: None, after_batch: None };
        Ok(Self { progress, place: Arc::new(Mutex::new(place)) })
    }

    /// The journal's UUID.
    #[must_use]
    pub fn journal(&self) -> Uuid {
        self.place().shared.id
    }

    /// What tells how far the sink is behind.
    #[must_use]
    pub fn lag(&self) -> Lag {
        let place = self.place();
        Lag { shared: Arc::clone(&place.shared), sink: place.sink.clone() }
    }

    /// Waits until so many events can be had, or a batch that was offered before, or the journal has ended.
    pub async fn wait_for(&mut self, events: u64) {
        let Cursor { next, offered } = self.place().cursor;
        let end = if offered > next { offered } else { next + events };
        // Without its writer the journal has ended.
        let _ = self.progress.wait_for(|progress| progress.closed || progress.end >= end).await;
    }

    /// The batch that was offered last, if it was not [`done`](Self::done); or else a new one, which is waited
    /// for. `None` at the end of a journal that was closed.
    ///
    /// May be dropped at any point and called again.
    pub async fn next_batch(
        &mut self,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Option<Batch>, JournalError> {
        loop {
            self.wait_for(1).await;
            let end = self.progress.borrow().end;
            if end <= self.place().cursor.next {
                return Ok(None);
            }
            let batch = self.blocking(move |place| place.offer(end, events_max, bytes_max)).await?;
            if batch.is_some() {
                return Ok(batch);
            }
        }
    }

    /// The sink has taken the batch: the place moves behind it.
    ///
    /// Where that cannot be written down, it is done with the next batch's, and until then a restart offers
    /// this one again.
    pub async fn done(&mut self, batch: &Batch) -> Result<(), JournalError> {
        let end = batch.end();
        self.blocking(move |place| place.pass(end)).await
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        lock(&self.place)
    }

    /// Works on files where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Place) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let place = Arc::clone(&self.place);
        match tokio::task::spawn_blocking(move || work(&mut lock(&place))).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is ending, and this task with it.
            Err(_) => std::future::pending().await,
        }
    }
}

fn lock(place: &Mutex<Place>) -> MutexGuard<'_, Place> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Place {
    shared: Arc<Shared>,
    sink: String,
    file: CursorFile,
    cursor: Cursor,
    /// Where in the files the next event is, and where the one after the batch, if that is known.
    position: Option<Position>,
    after_batch: Option<Position>,
}

/// What a look into the journal has found.
struct Found {
    /// The number of the first event.
    first: u64,
    events: Vec<Event>,
    after: Option<Position>,
}

impl Place {
    /// Reads a batch and writes down that it is offered; `None` where nothing but damage was found, which is
    /// then passed.
    fn offer(
        &mut self,
        end: u64,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Option<Batch>, JournalError> {
        let Cursor { next, offered } = self.cursor;
        let again = offered > next;
        let found = if again {
            self.read(offered.min(end), usize::MAX, usize::MAX)
        } else {
            self.read(end, events_max, bytes_max)
        };
        let Found { first, events, after } =
            found.map_err(|source| file_error("cannot read", &self.shared.directory, source))?;
        if first > next {
            self.lost(next, first);
        }
        let batch = Batch { journal: self.shared.id, first, events };
        let cursor = Cursor { next: first, offered: batch.end() };
        if cursor != self.cursor {
            self.write(cursor)?;
        }
        self.after_batch = after;
        Ok((!batch.events.is_empty()).then_some(batch))
    }

    fn pass(&mut self, end: u64) -> Result<(), JournalError> {
        self.cursor = Cursor { next: end, offered: end };
        self.position = self.after_batch.take().filter(|position| position.number == end);
        self.write(self.cursor)
    }

    fn write(&mut self, cursor: Cursor) -> Result<(), JournalError> {
        let path = cursor_path(&self.shared.directory, &self.sink);
        self.file.write(cursor).map_err(|source| file_error("cannot write", &path, source))?;
        self.cursor = cursor;
        self.shared.move_cursor(&self.sink, cursor.next);
        Ok(())
    }

    fn lost(&self, from: u64, to: u64) {
        let lost = to - from;
        tracing::error!(
            sink = self.sink,
            "{lost} events of the journal {} cannot be read back, from number {from}: the sink does not get them",
            self.shared.directory.display()
        );
        self.shared.metrics.journal_lost.with_label_values(&[&self.sink]).inc_by(lost);
    }

    /// Reads consecutive events before the number `until`, from the next one that can be read.
    fn read(&self, until: u64, events_max: usize, bytes_max: usize) -> io::Result<Found> {
        let next = self.cursor.next;
        let mut found = Found { first: next, events: Vec::new(), after: None };
        let mut bytes = 0;
        for (segment, end) in self.segments(until) {
            let number = found.first + found.events.len() as u64;
            if number < segment {
                // Those between were given away and lost, or their segment is gone.
                if !found.events.is_empty() {
                    return Ok(found);
                }
                found.first = segment;
            }
            let known = self.position.filter(|position| position.segment == segment);
            let mut walk = match File::open(self.shared.path(segment)) {
                Ok(file) => Walk::new(file, known.unwrap_or(Position::start(segment))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            while walk.position().number < end {
                let before = walk.position();
                let event = match walk.next()? {
                    Step::Record(_) if before.number < found.first => continue,
                    Step::Record(payload) => {
                        bytes += payload.len();
                        postcard::from_bytes(payload).ok()
                    }
                    Step::Damaged => None,
                    Step::Broken | Step::End => break,
                };
                let full = found.events.len() >= events_max || bytes > bytes_max;
                match event {
                    _ if full && !found.events.is_empty() => return Ok(found),
                    Some(event) => {
                        found.events.push(event);
                        found.after = Some(walk.position());
                    }
                    None if found.events.is_empty() => found.first = found.first.max(before.number + 1),
                    None => return Ok(found),
                }
            }
        }
        if found.events.is_empty() {
            found.first = found.first.max(until);
        }
        Ok(found)
    }

    /// The segments that have events from the next one to before `until`: each by its first number, with the
    /// number at which it ends.
    fn segments(&self, until: u64) -> Vec<(u64, u64)> {
        let state = self.shared.state();
        let firsts = state.segments.iter().map(|segment| segment.first);
        let ends = firsts.clone().skip(1).chain([u64::MAX]);
        let next = self.cursor.next;
        let range = firsts.zip(ends).map(|(first, end)| (first, end.min(until)));
        range.filter(|(first, end)| *end > next && first < end).collect()
    }
}
