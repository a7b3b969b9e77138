//! A program's steps with saves that end when the test wants it.

use super::*;
use crate::runner::program::{Failure, Restoring};

/// Counts steps, and does something after some of them.
struct Counter {
    steps: u64,
    last: u64,
    after: Box<dyn FnMut(u64) -> Result<(), Failure> + Send>,
}

impl Program for Counter {
    fn init(&mut self, _: u32, _: u32) -> Result<(), Failure> {
        Ok(())
    }

    fn restore(&mut self, _: &Restoring) -> Result<(), Failure> {
        Ok(())
    }

    fn step(&mut self) -> Result<Step, Failure> {
        self.steps += 1;
        (self.after)(self.steps)?;
        Ok(if self.steps == self.last { Step::Finished } else { Step::More })
    }

    fn snapshot(&mut self) -> Result<Vec<Part>, Failure> {
        Ok(vec![Part::new("count", self.steps.to_string())])
    }
}

type Answer = Result<Saved, Error>;

/// Notes the saves that are begun.
#[derive(Clone, Default)]
struct Saves {
    /// Epoch, and the program's part.
    begun: Arc<Mutex<Vec<(u64, String)>>>,
    /// Saves that have no answer yet.
    held: Arc<Mutex<Vec<oneshot::Sender<Answer>>>>,
    /// Answers a save at once; none: holds it.
    answer: Option<fn(u64) -> Answer>,
}

impl Saver for Saves {
    fn begin(&mut self, epoch: u64, parts: Vec<Part>) -> oneshot::Receiver<Answer> {
        assert!(self.held.lock().is_empty(), "two saves at once");
        assert_eq!(parts[1].name, OWN_PART);
        let text = match &parts[0].source {
            crate::PartSource::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            crate::PartSource::Reader(_) => String::new(),
        };
        self.begun.lock().push((epoch, text));
        let (send, receive) = oneshot::channel();
        match self.answer {
            Some(answer) => drop(send.send(answer(epoch))),
            None => self.held.lock().push(send),
        }
        receive
    }
}

impl Saves {
    fn begun(&self) -> Vec<(u64, u64)> {
        self.begun.lock().iter().map(|(epoch, steps)| (*epoch, steps.parse().unwrap())).collect()
    }
}

fn good(epoch: u64) -> Answer {
    Ok(Saved { epoch, ranks: 1, bytes: 10, stored_bytes: 3 })
}

fn bad(epoch: u64) -> Answer {
    Err(Error::Mismatch { epoch, why: "a test".into() })
}

fn fenced() -> Error {
    Error::Fenced { job: "job".into(), mine: 1, current: 2 }
}

const EVERY_10: Cadence = Cadence {
    every_steps: Some(10),
    every: None,
    is_exact: false,
    failures_max: 3,
    last_pause: Duration::ZERO,
};

fn drive(
    saves: &Saves,
    cadence: Cadence,
    last: u64,
    after: impl FnMut(u64) -> Result<(), Failure> + Send + 'static,
) -> Drive<Counter, Saves> {
    let program = Counter { steps: 0, last, after: Box::new(after) };
    Drive::new(program, saves.clone(), cadence, Arc::default(), Arc::new(|_| ()), 7)
}

#[test]
fn it_saves_at_each_interval_and_at_the_end() {
    let saves = Saves { answer: Some(good), ..Saves::default() };
    let mut drive = drive(&saves, EVERY_10, 35, |_| Ok(()));
    drive.run_steps().unwrap();
    assert_eq!(saves.begun(), [(7, 10), (8, 20), (9, 30), (10, 35)]);
    let Report { steps, saves, last_epoch, bytes, stored_bytes, is_finished, .. } = drive.report;
    assert_eq!((steps, saves, last_epoch, bytes, stored_bytes), (35, 4, Some(10), 40, 12));
    assert!(is_finished);
}

#[test]
fn one_rank_computes_on_while_a_save_is_under_way_and_many_wait_for_it() {
    // The first save ends after step 25; the next is taken after that step, and the last one ends by itself.
    let saves = Saves::default();
    let held = saves.held.clone();
    let answer_all = move || {
        let held = held.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            held.lock().drain(..).for_each(|save| drop(save.send(good(0))));
        })
    };
    let answer = answer_all.clone();
    let mut one = drive(&saves, EVERY_10, 28, move |step| {
        match step {
            25 => answer().join().unwrap(),
            28 => {
                // This one ends while the end waits for it, and the last save soon after.
                answer();
                let answer = answer.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(60));
                    answer();
                });
            }
            _ => {}
        }
        Ok(())
    });
    one.run_steps().unwrap();
    assert_eq!(saves.begun(), [(7, 10), (8, 25), (9, 28)]);
    assert!(one.report.held_up >= Duration::from_millis(20), "{:?}", one.report);

    let saves = Saves::default();
    let (held, control) = (saves.held.clone(), Arc::new(AtomicBool::new(false)));
    let is_over = control.clone();
    let answering = std::thread::spawn(move || {
        while !is_over.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
            held.lock().drain(..).for_each(|save| drop(save.send(good(0))));
        }
    });
    let mut many = drive(&saves, Cadence { is_exact: true, ..EVERY_10 }, 35, |_| Ok(()));
    many.run_steps().unwrap();
    control.store(true, Relaxed);
    answering.join().unwrap();
    assert_eq!(saves.begun(), [(7, 10), (8, 20), (9, 30), (10, 35)], "each after its steps");
}

#[test]
fn a_failed_save_is_tried_again_at_the_next_interval_and_too_many_end_the_run() {
    let saves =
        Saves { answer: Some(|epoch| if epoch == 8 { bad(8) } else { good(epoch) }), ..Saves::default() };
    let failed: Arc<Mutex<Vec<(u64, u32)>>> = Arc::default();
    let mut one = drive(&saves, EVERY_10, 45, |_| Ok(()));
    let told = failed.clone();
    one.told = Arc::new(move |event| {
        if let Event::SaveFailed { epoch, failures, .. } = event {
            told.lock().push((*epoch, *failures));
        }
    });
    one.run_steps().unwrap();
    assert_eq!(*failed.lock(), [(8, 1)]);
    assert_eq!((one.report.saves, one.report.saves_failed), (4, 1));

    let saves = Saves { answer: Some(bad), ..Saves::default() };
    let mut all = drive(&saves, EVERY_10, 100, |_| Ok(()));
    assert!(matches!(all.run_steps(), Err(RunError::Saves { failures: 3, .. })));
    assert!(all.report.steps <= 31, "{:?}", all.report);

    // At the end as well.
    let saves = Saves { answer: Some(bad), ..Saves::default() };
    let mut end = drive(&saves, EVERY_10, 5, |_| Ok(()));
    assert!(matches!(end.run_steps(), Err(RunError::Saves { failures: 3, .. })));
    assert_eq!(saves.begun(), [(7, 5), (8, 5), (9, 5)]);
}

#[test]
fn no_step_is_done_after_the_process_was_replaced_or_the_run_dropped() {
    let saves = Saves { answer: Some(|_| Err(fenced())), ..Saves::default() };
    let mut by_save = drive(&saves, EVERY_10, 100, |_| Ok(()));
    assert!(matches!(by_save.run_steps(), Err(RunError::Fenced { steps: 11, .. })));

    for is_dropped in [false, true] {
        let saves = Saves { answer: Some(good), ..Saves::default() };
        let mut by_look = drive(&saves, EVERY_10, 100, |_| Ok(()));
        let control = by_look.control.clone();
        by_look.program.after = Box::new(move |step| {
            match step {
                15 if is_dropped => control.drop_run(),
                15 => control.fence(fenced()),
                _ => {}
            }
            Ok(())
        });
        match by_look.run_steps() {
            Err(RunError::Stopped { steps: 15, .. }) if is_dropped => {}
            Err(RunError::Fenced { steps: 15, .. }) if !is_dropped => {}
            ended => panic!("{ended:?}"),
        }
        assert_eq!(saves.begun(), [(7, 10)]);
    }
}

#[test]
fn a_program_that_fails_ends_the_run_with_its_error_and_its_saves() {
    let saves = Saves { answer: Some(good), ..Saves::default() };
    let fail = |step: u64| if step == 11 { Err("no more".into()) } else { Ok(()) };
    let mut drive = drive(&saves, EVERY_10, 100, fail);
    let error = drive.run_steps().unwrap_err();
    assert_eq!(error.to_string(), "the program has failed in a step, after step 10: no more");
    assert_eq!(drive.report.last_epoch, Some(7), "the save under way was waited for");
}

#[test]
fn a_save_by_time_is_due_so_long_after_the_last_one() {
    let saves = Saves { answer: Some(good), ..Saves::default() };
    let cadence = Cadence { every_steps: None, every: Some(Duration::from_millis(50)), ..EVERY_10 };
    let mut drive = drive(&saves, cadence, 30, |_| {
        std::thread::sleep(Duration::from_millis(5));
        Ok(())
    });
    drive.run_steps().unwrap();
    let begun = saves.begun().len();
    assert!((2..=4).contains(&begun), "{begun} saves in 150 ms or more");
}
