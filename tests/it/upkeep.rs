//! Chores: each at its time, by one process at a time, whatever becomes of bells and of the process that began it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use logoutd::lifecycle::{Stop, Tasks};
use logoutd::model::ReplicaId;
use logoutd::model::schedule::{Schedule, Timetable};
use logoutd::seams::{Clock, Entropy};
use logoutd::store::{ChoreCall, ChoreOccasion, ChoreTurn, Forgettable, Store, StoreError};
use logoutd::upkeep::{Chore, Settings, Step, StepOf, keep};
use tokio::sync::Notify;

use crate::harness::database::{Database, on_both_engines};
use crate::harness::server::{KEEP, bare_tools};
use crate::harness::until;

const SECONDLY: &str = "* * * * * *";
const YEARLY: &str = "0 0 0 1 1 *";

fn schedule(text: &str) -> Schedule {
    Schedule::parse(text).unwrap()
}

fn call(clock: &Clock, schedule: Option<&str>) -> ChoreCall {
    let occasion = schedule.map_or(ChoreOccasion::Ring, |text| ChoreOccasion::Schedule(self::schedule(text)));
    ChoreCall { name: "chore", holder: Entropy::os().id(clock.now()), hold: Duration::from_secs(10), occasion }
}

/// A process that keeps one chore; what its bells are, and the stop it obeys.
struct Keeper {
    bell: Arc<Notify>,
    tasks: Tasks,
}

impl Keeper {
    fn of(store: &Store, clock: &Clock, text: &str, hold: Duration, step: StepOf) -> Self {
        let tasks = Tasks::new(Stop::new());
        let replica: ReplicaId = Entropy::os().id(clock.now());
        let tools = bare_tools(store, clock, &tasks);
        let each = schedule(text);
        let timetable = Timetable {
            works: each.clone(),
            expiry: each.clone(),
            horizon: each.clone(),
            lanes: each.clone(),
            retention: each.clone(),
            keys: each.clone(),
            audit: each.clone(),
        };
        let settings = Settings { replica, timetable, hold, beat: Duration::from_secs(5) };
        let bell = Arc::new(Notify::new());
        let chore = Chore { name: "chore", schedule: each, bell: Arc::clone(&bell), step };
        // Nobody rings by the schedule.
        drop(tasks.spawn("keeper", keep(chore, Arc::new(Notify::new()), tools, settings, tasks.clone())));
        Self { bell, tasks }
    }

    /// With a step that counts how often it is called, and is dry at once.
    fn counting(store: &Store, clock: &Clock, text: &str, count: &Arc<AtomicUsize>) -> Self {
        let count = Arc::clone(count);
        let step: StepOf = Box::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Ok(Step::Dry) })
        });
        Self::of(store, clock, text, Duration::from_secs(10), step)
    }

    async fn stop(self) {
        self.tasks.stop().request();
        tokio::time::timeout(crate::harness::DEADLINE, self.tasks.wait()).await.expect("a keeper ends");
    }
}

async fn reaches(count: &Arc<AtomicUsize>, number: usize) {
    until(&format!("the chore was done {number} times"), || async { (count.load(Ordering::SeqCst) >= number).then_some(()) }).await;
}

on_both_engines! {
    async fn a_chore_belongs_to_one_process_until_it_lets_go_or_its_hold_is_over(database) {
        let clock = Clock::system();
        let store = database.open(&clock).await;
        let (one, two) = (call(&clock, None), call(&clock, None));
        let ChoreTurn::Ours { at } = store.take_chore(one.clone()).await.unwrap() else { panic!("nobody has it") };
        assert!(matches!(store.take_chore(two.clone()).await.unwrap(), ChoreTurn::Held { left } if left <= one.hold));
        assert!(matches!(store.take_chore(one.clone()).await.unwrap(), ChoreTurn::Ours { .. }), "one's own is taken again");
        assert!(store.hold_chore(one.clone()).await.unwrap() && !store.hold_chore(two.clone()).await.unwrap());

        clock.advance(Duration::from_secs(11));
        assert!(store.hold_chore(one.clone()).await.unwrap(), "nobody else took it");
        clock.advance(Duration::from_secs(11));
        assert!(matches!(store.take_chore(two.clone()).await.unwrap(), ChoreTurn::Ours { .. }), "whoever dies is replaced");
        assert!(!store.hold_chore(one.clone()).await.unwrap());
        store.leave_chore("chore", &one.holder, Some(at)).await.unwrap();
        assert!(matches!(store.take_chore(one.clone()).await.unwrap(), ChoreTurn::Held { .. }), "only the holder lets go");

        store.leave_chore("chore", &two.holder, None).await.unwrap();
        assert!(matches!(store.take_chore(one).await.unwrap(), ChoreTurn::Ours { .. }));
    }

    async fn what_was_done_since_its_time_is_not_done_again_for_that_time(database) {
        let clock = Clock::system();
        let store = database.open(&clock).await;
        let (one, two) = (call(&clock, Some(YEARLY)), call(&clock, Some(YEARLY)));
        let ChoreTurn::Ours { at } = store.take_chore(one.clone()).await.unwrap() else { panic!("it was never done") };
        store.leave_chore("chore", &one.holder, Some(at)).await.unwrap();
        for other in [&one, &two] {
            assert_eq!(store.take_chore(other.clone()).await.unwrap(), ChoreTurn::Done);
        }
        assert!(matches!(store.take_chore(call(&clock, None)).await.unwrap(), ChoreTurn::Ours { .. }), "who rings wants it done now");
        clock.advance(Duration::from_hours(366 * 24));
        assert!(matches!(store.take_chore(two).await.unwrap(), ChoreTurn::Ours { .. }));
    }

    async fn replicas_are_counted_while_they_are_seen_and_forgotten_after_a_day(database) {
        let clock = Clock::system();
        let store = database.open(&clock).await;
        let [one, two]: [ReplicaId; 2] = [Entropy::os().id(clock.now()), Entropy::os().id(clock.now().plus(Duration::from_secs(1)))];
        let within = Duration::from_secs(15);
        assert_eq!(store.beat(&two, within).await.unwrap(), std::slice::from_ref(&two));
        assert_eq!(store.beat(&one, within).await.unwrap(), [one.clone(), two.clone()]);
        clock.advance(Duration::from_secs(16));
        assert_eq!(store.beat(&two, within).await.unwrap(), std::slice::from_ref(&two), "one was silent for too long");
        assert_eq!(store.beat(&one, within).await.unwrap(), [one.clone(), two.clone()], "and is counted again");
        store.leave(&two).await.unwrap();
        assert_eq!(store.beat(&one, within).await.unwrap(), std::slice::from_ref(&one));

        let day = Duration::from_hours(24);
        assert_eq!(store.forget(Forgettable::Replicas, KEEP).await.unwrap(), 0);
        clock.advance(day + Duration::from_secs(1));
        assert_eq!(store.forget(Forgettable::Replicas, KEEP).await.unwrap(), 1);
    }

    async fn a_chore_whose_bell_stays_silent_looks_by_itself(database) {
        let clock = Clock::system();
        let store = database.open(&clock).await;
        let count = Arc::new(AtomicUsize::new(0));
        let keeper = Keeper::counting(&store, &clock, SECONDLY, &count);
        reaches(&count, 3).await;
        keeper.stop().await;
    }

    async fn a_chore_that_is_rung_for_from_inside_is_done_at_once(database) {
        let clock = Clock::system();
        let store = database.open(&clock).await;
        let count = Arc::new(AtomicUsize::new(0));
        let keeper = Keeper::counting(&store, &clock, YEARLY, &count);
        for rings in 1..4 {
            reaches(&count, rings).await;
            keeper.bell.notify_one();
        }
        keeper.stop().await;
    }

    async fn a_chore_is_done_by_one_process_at_a_time_and_once_for_each_time(database) {
        let clock = Clock::system();
        let store = database.open(&clock).await;
        let (at_it, most, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let begun = clock.now();
        let keepers: Vec<_> = (0..3)
            .map(|_| {
                let (at_it, most, done) = (Arc::clone(&at_it), Arc::clone(&most), Arc::clone(&done));
                let step: StepOf = Box::new(move |_| {
                    let (at_it, most, done) = (Arc::clone(&at_it), Arc::clone(&most), Arc::clone(&done));
                    Box::pin(async move {
                        most.fetch_max(at_it.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        at_it.fetch_sub(1, Ordering::SeqCst);
                        done.fetch_add(1, Ordering::SeqCst);
                        Ok(Step::Dry)
                    })
                });
                Keeper::of(&store, &clock, SECONDLY, Duration::from_secs(10), step)
            })
            .collect();
        reaches(&done, 4).await;
        let (times, seconds) = (done.load(Ordering::SeqCst), clock.now().since(begun).as_secs());
        for keeper in keepers {
            keeper.stop().await;
        }
        assert_eq!(most.load(Ordering::SeqCst), 1, "never two at once");
        assert!(times as u64 <= seconds + 2, "{times} times in {seconds} s");
    }

    async fn a_chore_is_held_on_to_while_it_goes_on(database) {
        let clock = Clock::system();
        let store = database.open(&clock).await;
        let (steps, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let step: StepOf = {
            let (steps, gate) = (Arc::clone(&steps), Arc::clone(&gate));
            Box::new(move |_| {
                let (steps, gate) = (Arc::clone(&steps), Arc::clone(&gate));
                Box::pin(async move {
                    steps.fetch_add(1, Ordering::SeqCst);
                    let open = tokio::time::timeout(Duration::from_millis(100), gate.notified()).await;
                    Ok(if open.is_ok() { Step::Dry } else { Step::More })
                })
            })
        };
        let keeper = Keeper::of(&store, &clock, YEARLY, Duration::from_secs(1), step);
        // Twice as many as a hold lasts.
        reaches(&steps, 20).await;
        assert!(matches!(store.take_chore(call(&clock, None)).await.unwrap(), ChoreTurn::Held { .. }));
        gate.notify_one();
        until("it is let go", || async {
            matches!(store.take_chore(call(&clock, None)).await.unwrap(), ChoreTurn::Ours { .. }).then_some(())
        })
        .await;
        keeper.stop().await;
    }

    async fn a_chore_goes_on_after_a_failure_and_after_a_panic(database) {
        let clock = Clock::system();
        let store = database.open(&clock).await;
        let count = Arc::new(AtomicUsize::new(0));
        let step: StepOf = {
            let count = Arc::clone(&count);
            Box::new(move |_| {
                let number = count.fetch_add(1, Ordering::SeqCst);
                Box::pin(async move {
                    match number {
                        0 => Err(StoreError::Corrupt { table: "chores", column: "name" }),
                        1 => panic!("a poisoned row"),
                        _ => Ok(Step::Dry),
                    }
                })
            })
        };
        let keeper = Keeper::of(&store, &clock, YEARLY, Duration::from_secs(10), step);
        reaches(&count, 3).await;
        until("it is done to its end", || async {
            (store.take_chore(call(&clock, Some(YEARLY))).await.unwrap() == ChoreTurn::Done).then_some(())
        })
        .await;
        keeper.stop().await;
    }

    async fn a_stop_ends_a_chore_between_two_steps_and_leaves_it_to_others(database) {
        let clock = Clock::system();
        let store = database.open(&clock).await;
        let count = Arc::new(AtomicUsize::new(0));
        let step: StepOf = {
            let count = Arc::clone(&count);
            Box::new(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                Box::pin(async { Ok(Step::More) })
            })
        };
        let keeper = Keeper::of(&store, &clock, YEARLY, Duration::from_secs(10), step);
        reaches(&count, 3).await;
        keeper.stop().await;
        assert!(matches!(store.take_chore(call(&clock, Some(YEARLY))).await.unwrap(), ChoreTurn::Ours { .. }), "it was not done to its end");
    }
}

/// What `check-config` says of these variables.
fn checked(variables: &[(&str, &str)]) -> Result<String, String> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let config = logoutd::config::Config::load(&Default::default(), variables);
    config.map(|config| format!("{:?}", config.settings())).map_err(|mistakes| mistakes.to_string())
}

#[test]
fn a_schedule_that_is_none_is_a_mistake_and_a_good_one_is_shown() {
    let mistakes = checked(&[("LOGOUTD_SCHEDULE__EXPIRY", "often"), ("LOGOUTD_SCHEDULE__RETENTION", "0 0 0 30 2 *")]).unwrap_err();
    assert!(mistakes.contains("schedule.expiry (LOGOUTD_SCHEDULE__EXPIRY): must have six fields"), "{mistakes}");
    assert!(mistakes.contains("schedule.retention (LOGOUTD_SCHEDULE__RETENTION): must name a day that exists"), "{mistakes}");
    let shown = checked(&[("LOGOUTD_SCHEDULE__WORKS", "*/2 * * * * *")]).unwrap();
    assert!(shown.contains("*/2 * * * * *") && shown.contains("0 17 * * * *"), "{shown}");
}

#[tokio::test]
async fn check_config_lists_a_schedule_that_is_none() {
    let database = Database::fresh(crate::harness::database::Engine::Sqlite).await.unwrap();
    let mut process = crate::harness::process::Process::spawn(&database, &["check-config"], &[("LOGOUTD_SCHEDULE__LANES", "hourly")]);
    assert_eq!(process.ended().await.code(), Some(1));
    assert!(process.log().contains("schedule.lanes (LOGOUTD_SCHEDULE__LANES)"), "{}", process.log());
}
