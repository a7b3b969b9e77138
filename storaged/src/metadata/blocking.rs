//! The executor for work that waits for a disk. In a daemon it has threads. In a simulation it has tasks of
//! the runtime: a job takes the time that the media says, and one thread does everything, in an order that a
//! seed decides.

use crate::disk::Media;
use std::io;
use std::sync::{Arc, mpsc};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc as tasks;

/// A piece of work.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Jobs done one after the other. Clones share the queue, which ends with the last of them.
#[derive(Debug, Clone)]
pub(crate) enum Queue {
    Thread(mpsc::Sender<Job>),
    Task(tasks::UnboundedSender<Job>),
}

impl Queue {
    /// Makes a queue and starts its thread or task.
    pub(crate) fn new(name: &str, media: &Arc<dyn Media>) -> io::Result<Queue> {
        if media.virtual_delay().is_some() {
            let (queue, mut jobs) = tasks::unbounded_channel::<Job>();
            let media = media.clone();
            tokio::spawn(async move {
                while let Some(job) = jobs.recv().await {
                    tokio::time::sleep(media.virtual_delay().unwrap_or_default()).await;
                    job();
                }
            });
            return Ok(Queue::Task(queue));
        }
        let (queue, jobs) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new().name(name.into());
        thread.spawn(move || jobs.iter().for_each(|job| job()))?;
        Ok(Queue::Thread(queue))
    }

    /// Adds a job; returns false where the queue has ended.
    pub(crate) fn add(&self, job: Job) -> bool {
        match self {
            Queue::Thread(queue) => queue.send(job).is_ok(),
            Queue::Task(queue) => queue.send(job).is_ok(),
        }
    }
}

/// Does work that waits for a disk: on a thread for blocking work, or inline in a runtime with one thread (a
/// simulation). `None`: the work panicked, or the runtime ends.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        // One thread does everything: a simulation, or a test of that kind.
        return Some(work());
    }
    tokio::task::spawn_blocking(work).await.ok()
}
