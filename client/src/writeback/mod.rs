//! Write-back of names: the directories that are delegated to this client, and the queue of changes that it
//! has acknowledged to programs and the namespace has not applied yet.
//!
//! ```text
//!   change -> decide --- local --------> apply here, queue, acknowledge
//!                    \-- confirm ------> apply here, queue, wait for the outcome
//!                    \-- remote -------> wait for queued changes of the same inodes, ask the leader
//!   queue -> sender -> leader, in order, many commands at a time
//! ```
//!
//! [`rain_namespace::delegation`] decides what may be applied here; this module drives it. [`changes`]
//! applies commands and answers queries, [`decide`] takes one step of a command, [`queue`] is the state,
//! [`sender`] empties the queue, [`interest`] chooses the directories to ask for, [`delegations`] requests
//! and returns them.
//!
//! Invariants:
//! 1. Commands apply at the leader in the order in which they were applied here, and each once, whatever
//!    connection breaks.
//! 2. A delegation is used only within [`LAST_CONTACT_MAX`] of the last contact with the leader, because
//!    after that the leader may have revoked it.
//! 3. A call that asks for durability ([`Writeback::drain`], and a flush) returns after every change
//!    acknowledged before it is applied.
//! 4. A directory is returned after every closed file in it is stored and every queued change is applied.
//! 5. The queue is bounded ([`queue::COMMANDS_MAX`], [`queue::BYTES_MAX`]); a caller that finds it full
//!    waits.
//! 6. An acknowledged change can be refused later only if the delegation was revoked while this client was
//!    away. Such a change is logged and is the error of the next `drain`
//!    (`what_is_refused_for_good_is_told_to_the_next_who_asks_for_durability`).
//!
//! This rung knows no file's data. It asks the rung above to store files through [`UnstoredFiles`].

mod changes;
mod decide;
mod delegations;
mod interest;
mod queue;
mod sender;

pub(crate) use changes::{UnstoredFiles, Writeback};
pub(crate) use decide::{ChangeOptions, now};

use crate::placement::Placement;
use crate::session::Session;
use queue::Queue;
use std::sync::{Arc, Weak};

/// Makes the write-back of a volume and starts its tasks.
pub(crate) fn start(
    session: Arc<Session>,
    placement: Arc<Placement>,
    files: Weak<dyn UnstoredFiles>,
) -> Arc<Writeback> {
    let writeback = Arc::new(Writeback { session, placement, files, queue: Arc::new(Queue::new()) });
    if writeback.is_enabled() {
        let (session, queue) = (&writeback.session, &writeback.queue);
        session.spawn_owned(sender::send_forever(queue.clone(), Arc::downgrade(&writeback)));
        session.spawn_owned(delegations::watch_forever(queue.clone(), Arc::downgrade(&writeback)));
    }
    writeback
}
