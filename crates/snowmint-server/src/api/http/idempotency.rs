//! `Idempotency-Key`: a batch that is asked for again, by a caller who saw no answer, is the same batch.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use snowmint::IdRange;
use tokio::sync::OnceCell;

use crate::error::{Code, Error};

/// How long an answer is kept, in seconds: 24 hours.
const KEEP_S: u64 = 86_400;

/// The longest key, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// How many ranges all answers have together. A batch is a few ranges, but up to one for each ID where the
/// sequence is short; at 16 bytes each this is 16 MB.
const RANGES_MAX: usize = 1_000_000;

/// A batch as it was minted: ranges, not lists, so that ten thousand of them are small.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) ranges: Arc<[IdRange]>,
    pub(super) generation_time_ms: f64,
}

/// The newest keys and what was answered to them.
pub(super) struct Answers {
    keys_max: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_key: HashMap<Arc<str>, Entry>,
    /// Oldest first.
    order: VecDeque<(Instant, Arc<str>)>,
    ranges: usize,
}

struct Entry {
    request: Arc<Request>,
    ranges: usize,
}

struct Request {
    count: u32,
    batch: OnceCell<Batch>,
}

impl Answers {
    pub(super) fn new(keys_max: usize) -> Self {
        Self { keys_max, kept: Mutex::default() }
    }

    /// The batch that `key` stands for: minted now, or when the key was first used. Requests with one key at
    /// the same time wait for the first of them.
    pub(super) async fn batch<E: From<Error>>(
        &self,
        key: &[u8],
        count: u32,
        mint: impl AsyncFnOnce() -> Result<Batch, E>,
    ) -> Result<Batch, E> {
        let key = usable(key)?;
        if self.keys_max == 0 {
            return mint().await;
        }
        let request = self.request(key, count)?;
        let mut minted = false;
        let batch = request
            .batch
            .get_or_try_init(async || {
                minted = true;
                mint().await
            })
            .await?
            .clone();
        if minted {
            self.kept().weigh(key, &request, batch.ranges.len());
        }
        Ok(batch)
    }

    fn request(&self, key: &str, count: u32) -> Result<Arc<Request>, Error> {
        let mut kept = self.kept();
        let now = Instant::now();
        kept.forget_before(now);
        if let Some(entry) = kept.by_key.get(key) {
            let first = entry.request.count;
            return if first == count {
                Ok(Arc::clone(&entry.request))
            } else {
                let message = format!(
                    "this Idempotency-Key was used for a count of {first}, this request is for {count}: \
                     another request needs another key"
                );
                Err(Error::new(Code::InvalidRequest, message))
            };
        }
        while kept.order.len() >= self.keys_max {
            kept.forget_oldest();
        }
        let request = Arc::new(Request { count, batch: OnceCell::new() });
        let key: Arc<str> = key.into();
        kept.order.push_back((now, Arc::clone(&key)));
        kept.by_key.insert(key, Entry { request: Arc::clone(&request), ranges: 0 });
        Ok(request)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget_before(&mut self, now: Instant) {
        while let Some((since, _)) = self.order.front()
            && now.duration_since(*since) >= Duration::from_secs(KEEP_S)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front()
            && let Some(entry) = self.by_key.remove(&key)
        {
            self.ranges -= entry.ranges;
        }
    }

    /// Counts the ranges of an answer, unless it was forgotten meanwhile, and forgets others for it.
    fn weigh(&mut self, key: &str, request: &Arc<Request>, ranges: usize) {
        match self.by_key.get_mut(key) {
            Some(entry) if Arc::ptr_eq(&entry.request, request) => entry.ranges = ranges,
            _ => return,
        }
        self.ranges += ranges;
        while self.ranges > RANGES_MAX {
            self.forget_oldest();
        }
    }
}

fn usable(key: &[u8]) -> Result<&str, Error> {
    let is_usable = (1..=KEY_BYTES_MAX).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(key).ok().filter(|_| is_usable).ok_or_else(|| {
        let message = format!("an Idempotency-Key has 1 to {KEY_BYTES_MAX} visible ASCII characters");
        Error::parameter("Idempotency-Key", message)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use snowmint::Id;

    use super::*;

    fn batch(first: u64, ranges: usize) -> Batch {
        let range = IdRange::new(Id::new(first).unwrap(), 1).unwrap();
        Batch { ranges: vec![range; ranges].into(), generation_time_ms: 0.5 }
    }

    async fn first_id(answers: &Answers, key: &str, mint: u64) -> u64 {
        let batch = answers.batch(key.as_bytes(), 1, async || Ok::<_, Error>(batch(mint, 1))).await.unwrap();
        batch.ranges[0].first().get()
    }

    #[tokio::test]
    async fn the_oldest_key_is_forgotten_first() {
        let answers = Answers::new(2);
        assert_eq!(first_id(&answers, "a", 1).await, 1);
        assert_eq!(first_id(&answers, "b", 2).await, 2);
        assert_eq!(first_id(&answers, "a", 3).await, 1);
        assert_eq!(first_id(&answers, "c", 4).await, 4);
        assert_eq!(first_id(&answers, "a", 5).await, 5);
    }

    #[tokio::test]
    async fn a_key_outlives_a_refusal_but_not_its_day() {
        let answers = Answers::new(2);
        let refused = answers.batch(b"a", 1, async || Err(Error::new(Code::WorkerUnavailable, "no"))).await;
        assert_eq!(refused.unwrap_err().code, Code::WorkerUnavailable);
        assert_eq!(first_id(&answers, "a", 1).await, 1);
        answers.kept().forget_before(Instant::now() + Duration::from_secs(KEEP_S));
        assert_eq!(first_id(&answers, "a", 2).await, 2);
    }

    #[tokio::test]
    async fn the_ranges_of_all_answers_are_bounded() {
        let answers = Answers::new(10);
        for (key, first) in [("a", 1), ("b", 2)] {
            let mint = async || Ok::<_, Error>(batch(first, RANGES_MAX / 2 + 1));
            answers.batch(key.as_bytes(), 1, mint).await.unwrap();
        }
        assert_eq!(answers.kept().ranges, RANGES_MAX / 2 + 1);
        assert_eq!(first_id(&answers, "b", 3).await, 2);
        assert_eq!(first_id(&answers, "a", 4).await, 4);
    }
}
