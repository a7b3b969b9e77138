//! From callbacks to tasks: every request that needs waiting is answered in a task of the runtime.

use super::RainFs;
use crate::handles::Opened;
use fuser::{Errno, FileHandle, INodeNo, Request};
use rain_types::Ino;
use std::future::Future;
use std::sync::Arc;

/// The callbacks of fuser's loops.
#[derive(Debug)]
pub(crate) struct Callbacks {
    pub(super) fs: Arc<RainFs>,
}

impl Callbacks {
    pub(crate) fn new(fs: Arc<RainFs>) -> Callbacks {
        Callbacks { fs }
    }

    pub(super) fn ino(&self, number: INodeNo) -> Ino {
        self.fs.numbers.namespace(number)
    }

    pub(super) fn opened(&self, handle: FileHandle) -> Result<Arc<Opened>, Errno> {
        self.fs.files.get(handle).ok_or(Errno::EBADF)
    }

    /// Answers in a task. If the task panics, the reply answers EIO as it is dropped.
    pub(super) fn answer<F, T>(&self, task: F)
    where
        F: FnOnce(Arc<RainFs>) -> T,
        T: Future<Output = ()> + Send + 'static,
    {
        self.fs.runtime.spawn(task(self.fs.clone()));
    }

    /// As [`Callbacks::answer`], for an operation in directories, which the kernel may have locked until it has the
    /// reply.
    pub(super) fn answer_in<const N: usize, F, T>(&self, request: &Request, directories: [Ino; N], task: F)
    where
        F: FnOnce(Arc<RainFs>) -> T,
        T: Future<Output = ()> + Send + 'static,
    {
        let under_way = directories.map(|directory| self.fs.coherence.begin_in(directory, request.pid()));
        let task = task(self.fs.clone());
        self.fs.runtime.spawn(async move {
            task.await;
            drop(under_way);
        });
    }
}
