//! Work that is done aside, because it waits for a disk: on threads of its own in a daemon, by tasks of the runtime in a simulation, where
//! it takes the time that the media says and one thread does everything, in an order that a seed decides.

use crate::disk::Media;
use std::io;
use std::sync::{Arc, mpsc};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc as tasks;

/// A piece of work.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Jobs done one after the other. Clones are one; the queue ends when the last is gone.
#[derive(Debug, Clone)]
pub(crate) enum Queue {
    Thread(mpsc::Sender<Job>),
    Task(tasks::UnboundedSender<Job>),
}

impl Queue {
    /// Begins one.
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

    /// Adds a job; false: nobody does it any more.
    pub(crate) fn add(&self, job: Job) -> bool {
        match self {
            Queue::Thread(queue) => queue.send(job).is_ok(),
            Queue::Task(queue) => queue.send(job).is_ok(),
        }
    }
}

/// Does something that waits for a disk where that holds up nobody. None: it panicked, or the runtime ends.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        // One thread for everything: a simulation, or a test that wants it so.
        return Some(work());
    }
    tokio::task::spawn_blocking(work).await.ok()
}
