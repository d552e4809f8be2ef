#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{OnceLock, Weak};

use proptest::prelude::*;

use super::*;

const EPOCH_MS: u64 = 1_609_459_200_000;
const START_MS: u64 = 1_704_310_200_000;
const HOUR_MS: u64 = 3_600_000;
const CONFIRM_MS: u64 = 60_000;

fn settings() -> ClockSettings {
    ClockSettings { epoch_ms: EPOCH_MS, leap_confirm_s: CONFIRM_MS / 1000, ..ClockSettings::default() }
}

fn started() -> (Arc<ManualTime>, ServingClock) {
    let time = Arc::new(ManualTime::new(START_MS));
    let clock = ServingClock::start(time.clone(), settings()).unwrap();
    (time, clock)
}

/// Lets time pass as [`run`] does, checks that the clock always goes on, and returns what was reported.
fn pass(time: &ManualTime, clock: &ServingClock, ms: u64) -> Vec<ClockEvent> {
    let mut events = Vec::new();
    for _ in 0..ms / DISCIPLINE_MS {
        let before_ms = clock.now_ms();
        time.advance(DISCIPLINE_MS);
        let passed_ms = clock.now_ms() - before_ms;
        assert!((899..=1101).contains(&passed_ms), "{passed_ms} ms in {DISCIPLINE_MS}");
        events.extend(clock.discipline());
    }
    events
}

/// NTP says now that the wall clock is ahead by so much, and knows it within `error_ms`.
fn refer(time: &ManualTime, clock: &ServingClock, ahead_ms: i64, error_ms: i64) -> CorrectiveAction {
    let ns = |ms| i128::from(ms) * i128::from(NS_PER_MS);
    let time_ns = time.wall_ns() - ns(ahead_ms);
    clock.refer(Reference { boot_ns: time.boot_ns(), time_ns, error_ns: ns(error_ms) })
}

/// Asserts wall minus serving, but for the few microseconds that are not worth a correction.
#[track_caller]
fn assert_offset_ms(clock: &ServingClock, wanted_ms: i64) {
    let offset_ms = clock.status().offset_ms;
    #[expect(clippy::cast_precision_loss, reason = "the offsets of these tests are small")]
    let error_ms = (offset_ms - wanted_ms as f64).abs();
    assert!(error_ms < 0.02, "{offset_ms} ms, and not {wanted_ms}");
}

#[test]
fn a_steady_wall_clock_is_followed_exactly() {
    let (time, clock) = started();
    assert_eq!(clock.now_ms(), START_MS);
    assert_eq!(pass(&time, &clock, HOUR_MS), []);
    assert_eq!(clock.now_ms(), START_MS + HOUR_MS);
    assert_eq!(clock.now_ns(), (START_MS + HOUR_MS) * NS_PER_MS);
    let status = clock.status();
    assert_eq!((status.offset_ms, status.slewing, status.leap), (0.0, false, None));
}

#[test]
fn a_small_step_back_is_reported_once_and_slewed_away() {
    let (time, clock) = started();
    time.step_wall(-5);
    let event = clock.discipline().unwrap();
    assert_eq!(event, ClockEvent::Regressed { step_ms: 5, behind_ms: 5, denied: false });
    assert_eq!(event.corrective_action(), CorrectiveAction::Slew);
    assert!(clock.status().slewing);
    assert_eq!(pass(&time, &clock, 60_000), []);
    assert_offset_ms(&clock, 0);
    assert_eq!(clock.status().regressions, 1);
}

#[test]
fn an_hour_back_shrinks_at_the_slew_rate_and_converges() {
    let (time, clock) = started();
    time.step_wall(-HOUR_MS.cast_signed());
    let event = clock.discipline().unwrap();
    assert_eq!(event, ClockEvent::Regressed { step_ms: HOUR_MS, behind_ms: HOUR_MS, denied: false });

    assert_eq!(pass(&time, &clock, HOUR_MS), []);
    let hour_left_ms = (HOUR_MS - HOUR_MS / 10).cast_signed();
    assert_offset_ms(&clock, -hour_left_ms);

    assert_eq!(pass(&time, &clock, 10 * HOUR_MS), []);
    assert_offset_ms(&clock, 0);
    assert!(!clock.status().slewing);
    assert_eq!(clock.status().regressions, 1);
}

#[test]
fn half_a_second_ahead_is_slewed_without_doubt() {
    let (time, clock) = started();
    time.step_wall(500);
    assert_eq!(pass(&time, &clock, 120_000), []);
    assert_offset_ms(&clock, 0);
}

#[test]
fn an_hour_ahead_is_held_and_believed_when_it_lasts() {
    let (time, clock) = started();
    time.step_wall(HOUR_MS.cast_signed());
    let event = clock.discipline().unwrap();
    assert_eq!(event, ClockEvent::LeapPending { ahead_ms: HOUR_MS, confirm_s: 60 });
    assert_eq!(event.corrective_action(), CorrectiveAction::Hold);

    assert_eq!(pass(&time, &clock, CONFIRM_MS - DISCIPLINE_MS), []);
    assert_eq!(clock.now_ms(), START_MS + CONFIRM_MS - DISCIPLINE_MS);
    let leap = PendingLeap { ahead_ms: HOUR_MS, since_ms: START_MS, denied: false };
    assert_eq!(clock.status().leap, Some(leap));

    time.advance(DISCIPLINE_MS);
    let event = clock.discipline().unwrap();
    let believed = ClockEvent::LeapBelieved { ahead_ms: HOUR_MS, held_ms: CONFIRM_MS, confirmed: false };
    assert_eq!((event, event.corrective_action()), (believed, CorrectiveAction::Step));
    assert_eq!(clock.now_ms(), time.wall_ms());
    let status = clock.status();
    assert_eq!((status.leap, status.leaps_pending, status.leaps_believed), (None, 1, 1));
}

#[test]
fn a_confirmed_leap_is_believed_at_once() {
    let (time, clock) = started();
    refer(&time, &clock, 0, 1); // Before the leap: says nothing of it.
    time.advance(1);
    time.step_wall(HOUR_MS.cast_signed());
    assert_eq!(clock.discipline().unwrap().corrective_action(), CorrectiveAction::Hold);
    assert_eq!(pass(&time, &clock, 5000), []);
    assert_eq!(refer(&time, &clock, 0, 1), CorrectiveAction::Nothing);
    let believed = ClockEvent::LeapBelieved { ahead_ms: HOUR_MS, held_ms: 5000, confirmed: true };
    assert_eq!(clock.discipline(), Some(believed));
    assert_offset_ms(&clock, 0);
}

#[test]
fn a_leap_that_ntp_denies_is_not_believed_however_long_it_lasts() {
    let (time, clock) = started();
    let ahead_ms = HOUR_MS.cast_signed();
    time.step_wall(ahead_ms);
    clock.discipline().unwrap();
    refer(&time, &clock, ahead_ms, 1);
    assert_eq!(clock.discipline(), Some(ClockEvent::LeapDenied { ahead_ms: HOUR_MS }));
    // Nobody says anything any more, and what was said holds.
    assert_eq!(pass(&time, &clock, 3 * CONFIRM_MS), []);
    assert_eq!(clock.now_ms(), START_MS + 3 * CONFIRM_MS);
    assert!(clock.status().leap.unwrap().denied);
    // It comes back to where it was, and leaps to where NTP is, too, by then.
    time.step_wall(-ahead_ms);
    assert!(matches!(clock.discipline(), Some(ClockEvent::LeapDropped { denied: false, .. })));
    time.step_wall(ahead_ms);
    clock.discipline().unwrap();
    refer(&time, &clock, 5, 1);
    let believed = ClockEvent::LeapBelieved { ahead_ms: HOUR_MS, held_ms: 0, confirmed: true };
    assert_eq!(clock.discipline(), Some(believed));
    assert_offset_ms(&clock, 4);
}

#[test]
fn a_leap_that_is_not_denied_any_more_is_counted_from_then() {
    let (time, clock) = started();
    time.step_wall(5_000);
    clock.discipline().unwrap();
    refer(&time, &clock, 5_000, 1);
    assert_eq!(pass(&time, &clock, 2 * CONFIRM_MS), [ClockEvent::LeapDenied { ahead_ms: 5_000 }]);
    // Too vague to say either.
    refer(&time, &clock, 5_000, 9_000);
    assert_eq!(pass(&time, &clock, CONFIRM_MS - DISCIPLINE_MS), []);
    let believed = ClockEvent::LeapBelieved { ahead_ms: 5_000, held_ms: CONFIRM_MS, confirmed: false };
    assert_eq!(pass(&time, &clock, DISCIPLINE_MS), [believed]);
}

#[test]
fn the_serving_clock_goes_with_ntp_and_not_with_a_wall_clock_that_it_denies() {
    for ahead_ms in [250, -80] {
        let (time, clock) = started();
        assert_eq!(refer(&time, &clock, ahead_ms, 1), CorrectiveAction::Slew);
        assert_eq!(pass(&time, &clock, 2 * CONFIRM_MS), []);
        assert_eq!(refer(&time, &clock, ahead_ms, 1), CorrectiveAction::Hold);
        assert_offset_ms(&clock, ahead_ms);
        // Then it says that the wall clock is right.
        assert_eq!(refer(&time, &clock, 0, 1), CorrectiveAction::Nothing);
        assert_eq!(pass(&time, &clock, 2 * CONFIRM_MS), []);
        assert_offset_ms(&clock, 0);
    }
}

#[test]
fn a_wall_clock_that_was_wrong_at_the_start_is_left_without_a_leap() {
    for ahead_ms in [HOUR_MS.cast_signed(), -HOUR_MS.cast_signed()] {
        let (time, clock) = started();
        refer(&time, &clock, ahead_ms, 1);
        assert_eq!(pass(&time, &clock, CONFIRM_MS), []);
        let status = clock.status();
        assert!(status.slewing && status.leap.is_none());
        let slewed_ms = (CONFIRM_MS - DISCIPLINE_MS).cast_signed() / 10;
        assert_offset_ms(&clock, ahead_ms.signum() * slewed_ms);
    }
}

#[test]
fn a_step_back_that_ntp_denies_slows_nothing_down() {
    let (time, clock) = started();
    refer(&time, &clock, 0, 1);
    time.step_wall(-HOUR_MS.cast_signed());
    let event = clock.discipline().unwrap();
    assert_eq!(event, ClockEvent::Regressed { step_ms: HOUR_MS, behind_ms: HOUR_MS, denied: true });
    assert_eq!(event.corrective_action(), CorrectiveAction::Hold);
    assert_eq!(pass(&time, &clock, 2 * CONFIRM_MS), []);
    assert_eq!(clock.now_ms(), START_MS + 2 * CONFIRM_MS);
}

#[test]
fn clocks_too_far_off_ntp_are_told_until_both_are_near_again() {
    let time = Arc::new(ManualTime::new(START_MS));
    let settings = ClockSettings { refuse_above_ms: Some(200), ..settings() };
    let clock = ServingClock::start(time.clone(), settings).unwrap();
    assert_eq!(clock.too_far_ms(), None, "NTP has said nothing");
    assert_eq!(refer(&time, &clock, 150, 1), CorrectiveAction::Slew);
    assert_eq!(clock.too_far_ms(), None);
    assert_eq!(refer(&time, &clock, 250, 300), CorrectiveAction::Nothing, "NTP does not know so well");
    assert_eq!(refer(&time, &clock, 250, 1), CorrectiveAction::Refuse);
    assert_eq!(clock.too_far_ms(), Some(250));
    // The wall clock is put right, and the serving clock follows.
    time.step_wall(-250);
    clock.discipline();
    assert_eq!(clock.too_far_ms(), Some(250));
    pass(&time, &clock, 10_000);
    assert_eq!(clock.too_far_ms(), None);
}

#[test]
fn a_leap_that_goes_away_is_dropped_and_is_no_regression() {
    let (time, clock) = started();
    time.step_wall(HOUR_MS.cast_signed());
    clock.discipline().unwrap();
    assert_eq!(pass(&time, &clock, 30_000), []);
    time.step_wall(-HOUR_MS.cast_signed());
    let dropped = ClockEvent::LeapDropped { ahead_ms: HOUR_MS, held_ms: 30_000, denied: false };
    assert_eq!(clock.discipline(), Some(dropped));
    assert_eq!(pass(&time, &clock, 2 * CONFIRM_MS), []);
    assert_eq!(clock.now_ms(), START_MS + 30_000 + 2 * CONFIRM_MS);
    let status = clock.status();
    assert_eq!((status.leaps_dropped, status.leaps_believed, status.regressions), (1, 0, 0));
}

#[test]
fn a_leap_that_changes_its_size_is_counted_anew() {
    let (time, clock) = started();
    time.step_wall(HOUR_MS.cast_signed());
    clock.discipline().unwrap();
    assert_eq!(pass(&time, &clock, 50_000), []);
    refer(&time, &clock, 0, 1); // Of the old size.
    time.advance(1);
    time.step_wall(HOUR_MS.cast_signed());
    let again = ClockEvent::LeapPending { ahead_ms: 2 * HOUR_MS, confirm_s: 60 };
    assert_eq!(clock.discipline(), Some(again));
    assert_eq!(pass(&time, &clock, CONFIRM_MS - DISCIPLINE_MS), []);
    assert_eq!(pass(&time, &clock, DISCIPLINE_MS).len(), 1);
    assert_offset_ms(&clock, 0);
}

#[test]
fn a_leap_that_falls_behind_is_a_regression() {
    let (time, clock) = started();
    time.step_wall(HOUR_MS.cast_signed());
    clock.discipline().unwrap();
    time.step_wall(-2 * HOUR_MS.cast_signed());
    let event = clock.discipline().unwrap();
    assert_eq!(event, ClockEvent::Regressed { step_ms: 2 * HOUR_MS, behind_ms: HOUR_MS, denied: false });
    assert_eq!((clock.status().leaps_dropped, clock.status().regressions), (1, 1));
}

#[test]
fn a_suspended_host_or_a_stopped_process_is_no_leap() {
    let (time, clock) = started();
    time.advance(8 * HOUR_MS);
    assert_eq!(clock.now_ms(), START_MS + 8 * HOUR_MS);
    assert_eq!(clock.discipline(), None);
    assert_offset_ms(&clock, 0);
}

#[test]
fn a_pause_in_the_middle_of_a_slew_does_not_run_past_the_wall_clock() {
    for step_ms in [900, -900] {
        let (time, clock) = started();
        time.step_wall(step_ms);
        clock.discipline();
        time.advance(8 * HOUR_MS);
        assert_offset_ms(&clock, 0);
        assert_eq!(clock.discipline(), None);
    }
}

#[test]
fn a_wall_clock_that_shows_no_time_or_one_without_timestamps_is_held_for_ever_and_does_not_panic() {
    let no_timestamp = ClockSettings::default().end_ms.cast_signed() - START_MS.cast_signed();
    for step_ms in [i64::MAX, WALL_MS_END.cast_signed(), no_timestamp] {
        let (time, clock) = started();
        time.step_wall(step_ms);
        assert_eq!(clock.discipline().unwrap().corrective_action(), CorrectiveAction::Hold);
        refer(&time, &clock, 0, 1);
        time.advance(2 * CONFIRM_MS);
        assert_eq!(clock.discipline(), None);
        assert!(clock.now_ms() <= START_MS + 2 * CONFIRM_MS + 2 * CONFIRM_MS / 10);
    }
    let (time, clock) = started();
    time.step_wall(i64::MIN);
    assert_eq!(clock.discipline().unwrap().corrective_action(), CorrectiveAction::Slew);
    pass(&time, &clock, 2 * CONFIRM_MS);
}

#[test]
fn a_start_before_the_epoch_or_past_the_end_is_refused() {
    let start = |wall_ms| ServingClock::start(Arc::new(ManualTime::new(wall_ms)), settings()).err();
    let early = ClockError::BeforeEpoch { wall_ms: EPOCH_MS - 1, epoch_ms: EPOCH_MS };
    assert_eq!(start(EPOCH_MS - 1), Some(early));
    assert!(early.to_string().contains("before the epoch, 1609459200000 ms"), "{early}");
    assert_eq!(start(EPOCH_MS), None);
    assert_eq!(start(WALL_MS_END - 1), None);
    assert_eq!(start(WALL_MS_END), Some(ClockError::NoTime));
    assert_eq!(start(u64::MAX), Some(ClockError::NoTime));
}

/// A host on which a reader gets in between while the control loop reads the clocks.
struct Overtaken {
    time: ManualTime,
    clock: OnceLock<Weak<ServingClock>>,
    seen_ms: AtomicU64,
}

impl TimeSource for Overtaken {
    fn boot_ns(&self) -> u64 {
        self.time.boot_ns()
    }

    fn wall_ns(&self) -> i128 {
        if let Some(clock) = self.clock.get().and_then(Weak::upgrade) {
            self.time.advance(20);
            self.seen_ms.fetch_max(clock.now_ms(), Ordering::Relaxed);
        }
        self.time.wall_ns()
    }
}

#[test]
fn a_reader_that_overtakes_a_change_of_the_line_does_not_make_it_step_back() {
    let time = ManualTime::new(START_MS);
    let host = Arc::new(Overtaken { time, clock: OnceLock::new(), seen_ms: AtomicU64::new(0) });
    let clock = Arc::new(ServingClock::start(host.clone(), settings()).unwrap());
    host.clock.set(Arc::downgrade(&clock)).unwrap();
    // From faster to slower: the reader saw the old line at a time that the new one reaches later.
    for step_ms in [900, -1800] {
        host.time.step_wall(step_ms);
        clock.discipline();
        let seen_ms = host.seen_ms.load(Ordering::Relaxed);
        assert!(clock.now_ms() >= seen_ms, "{} after {seen_ms}", clock.now_ms());
        assert!(clock.now_ns() >= seen_ms * NS_PER_MS);
    }
}

#[test]
fn the_host_has_both_clocks() {
    let before = Sample::take(&HostTime);
    assert!(before.boot_ns > 0 && before.time_ns().unwrap() > EPOCH_MS * NS_PER_MS);
    assert!(Sample::take(&HostTime).boot_ns >= before.boot_ns);
    let clock = ServingClock::start(Arc::new(HostTime), settings()).unwrap();
    assert!(clock.now_ns() >= before.time_ns().unwrap());
}

#[tokio::test(start_paused = true)]
async fn run_disciplines_and_reports_until_it_is_shut_down() {
    let (time, clock) = started();
    let shutdown = CancellationToken::new();
    let (events, mut reported) = tokio::sync::mpsc::unbounded_channel();
    let on_event = move |event| events.send(event).unwrap();
    let running = tokio::spawn(run(Arc::new(clock), on_event, shutdown.clone()));
    time.step_wall(-5);
    let regressed = ClockEvent::Regressed { step_ms: 5, behind_ms: 5, denied: false };
    assert_eq!(reported.recv().await, Some(regressed));
    time.step_wall(-7);
    assert!(matches!(reported.recv().await, Some(ClockEvent::Regressed { step_ms: 7, .. })));
    shutdown.cancel();
    running.await.unwrap();
    assert_eq!(reported.recv().await, None);
}

#[derive(Clone, Debug)]
enum Op {
    Advance(u64),
    StepWall(i64),
    Discipline,
    /// How far NTP says the wall clock is ahead, and how well it knows.
    Refer(i64, i64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3 * DISCIPLINE_MS).prop_map(Op::Advance),
        1 => (0..u64::from(u32::MAX)).prop_map(Op::Advance),
        2 => (-2000_i64..2000).prop_map(Op::StepWall),
        1 => (-HOUR_MS.cast_signed()..HOUR_MS.cast_signed()).prop_map(Op::StepWall),
        1 => any::<i64>().prop_map(Op::StepWall),
        6 => Just(Op::Discipline),
        1 => (-2000_i64..2000, 0_i64..2000).prop_map(|(ahead, error)| Op::Refer(ahead, error)),
        1 => (-HOUR_MS.cast_signed()..HOUR_MS.cast_signed(), 0_i64..2000)
            .prop_map(|(ahead, error)| Op::Refer(ahead, error)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// It never steps back, runs at 0.9 to 1.1 of real time, and steps forward only by believing a leap.
    #[test]
    fn it_never_steps_back_whatever_the_wall_clock_and_ntp_do(ops in prop::collection::vec(op(), 1..100)) {
        let (time, clock) = started();
        let (mut last_ms, mut last_ns) = (clock.now_ms(), clock.now_ns());
        for op in ops {
            let mut passed_ns = 0;
            let mut event = None;
            match op {
                Op::Advance(ms) => {
                    time.advance(ms);
                    passed_ns = ms * NS_PER_MS;
                }
                Op::StepWall(ms) => time.step_wall(ms),
                Op::Discipline => event = clock.discipline(),
                Op::Refer(ahead_ms, error_ms) => {
                    refer(&time, &clock, ahead_ms, error_ms);
                }
            }
            let (now_ns, now_ms) = (clock.now_ns(), clock.now_ms());
            prop_assert!(now_ms >= last_ms && now_ns >= last_ns);
            let moved_ns = now_ns - last_ns;
            prop_assert!(moved_ns >= passed_ns - passed_ns / 10 - u64::from(passed_ns > 0));
            let believed = matches!(event, Some(ClockEvent::LeapBelieved { .. }));
            prop_assert!(believed || moved_ns <= passed_ns + passed_ns / 10 + 1);
            (last_ms, last_ns) = (now_ms, now_ns);
        }
    }
}
