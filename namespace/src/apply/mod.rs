//! The execution of every command. Checks come before writes, so a refused command leaves nothing except its
//! recorded result.
//!
//! Invariants (held by [`crate::check`] after every step of `the_namespace_does_what_a_plain_tree_does`):
//! 1. A directory's `size` is its number of entries, and its `nlink` is 2 plus its subdirectories.
//! 2. A file's extents do not overlap; `extents` and `stored_bytes` count them.
//! 3. A block's `live` is the sum of the extents that use it; a block without extents is garbage.
//! 4. The counters (inodes and bytes of a volume, totals) equal the result of a scan.
//! 5. A request applies once (`a_repeated_request_gives_its_first_result_and_old_results_go`).

mod acls;
mod blocks;
mod data;
mod delegations;
mod inode;
mod locks;
mod names;
mod setup;
mod table;

use crate::command::{Applied, Command, Entry, Outcome, Request};
use crate::error::NsError;
use crate::key;
use crate::kv::KvTxn;
use crate::record::{FileKind, SessionRecord, Time};
use crate::wire;
use rain_types::SessionId;
use table::Table;

pub(crate) use blocks::margin;
pub(crate) use data::extents_over;
pub(crate) use setup::groups_with;
pub(crate) use table::counters;

/// Applies one request of an entry. A retried request returns its recorded result. A late copy of a request
/// whose result the client has is refused with `Answered`.
pub fn apply(kv: &mut dyn KvTxn, time: Time, request: &Request) -> Applied {
    let asker = request.id.map(|id| id.session);
    let mut table = Table::new(kv, request.time.unwrap_or(time), asker);
    if let Some(id) = request.id {
        let Some(session) = table.read::<SessionRecord>(&key::session(id.session)) else {
            return Err(NsError::SessionEnded(id.session));
        };
        if id.seq < session.done_below {
            return Err(NsError::Answered(id.seq));
        }
        if let Some(recorded) = table.kv.get(&key::result(id)) {
            return wire::decode(&recorded).unwrap_or_else(Err);
        }
    }
    let applied = run(&mut table, request, &request.command);
    table.write_counts();
    // A session that has just ended itself keeps no results.
    if let Some(id) = request.id
        && let Some(mut session) = table.read::<SessionRecord>(&key::session(id.session))
    {
        table.kv.put(&key::result(id), &wire::encode(&applied));
        // The request's own result stays, because the client has not seen it, whatever `done_below` says.
        let done_below = request.done_below.min(id.seq);
        if done_below > session.done_below {
            table.forget_results(id.session, session.done_below, done_below);
            session.done_below = done_below;
            table.write(&key::session(id.session), &session);
        }
    }
    applied
}

/// Applies all requests of an entry in order and returns their results.
pub fn apply_entry(kv: &mut dyn KvTxn, entry: &Entry) -> Vec<Applied> {
    entry.requests.iter().map(|request| apply(kv, entry.time, request)).collect()
}

fn run(table: &mut Table<'_>, request: &Request, command: &Command) -> Applied {
    match command {
        Command::RegisterNode { id, node } => table.register_node(*id, node),
        Command::RemoveNode { id } => table.remove_node(*id),
        Command::SetDraining { id, draining } => table.set_draining(*id, *draining),
        Command::Regroup { volume } => table.regroup(*volume),
        Command::CreateVolume { name, code, groups, uid, gid, mode } => {
            table.create_volume(name, *code, *groups, (*uid, *gid, *mode))
        }
        Command::OpenSession { label, caches } => table.open_session(label, *caches),
        Command::EndSession { session } => table.end_session(*session),
        Command::Make { parent, name, kind, mode, umask, uid, gid, rdev, target, or_existing, ino } => {
            let (kind, mode, umask, uid, gid, rdev) = (*kind, *mode, *umask, *uid, *gid, *rdev);
            let new = names::NewInode { kind, mode, umask, uid, gid, rdev, target, ino: *ino };
            table.make(*parent, name, &new, *or_existing)
        }
        Command::MakeUnnamed { dir, mode, umask, uid, gid } => {
            let (kind, mode, umask, uid, gid) = (FileKind::File, *mode, *umask, *uid, *gid);
            let new = names::NewInode { kind, mode, umask, uid, gid, rdev: 0, target: &[], ino: None };
            table.make_unnamed(*dir, &new)
        }
        Command::Link { ino, parent, name } => table.link(*ino, *parent, name),
        Command::Unlink { parent, name } => table.unlink(*parent, name),
        Command::RemoveDirectory { parent, name } => table.remove_directory(*parent, name),
        Command::Rename { parent, name, new_parent, new_name, mode, whiteout } => {
            table.rename((*parent, name), (*new_parent, new_name), *mode, whiteout.as_ref())
        }
        Command::SetAttr { ino, change } => table.set_attr(*ino, change),
        Command::SetXattr { ino, name, value, mode, clear_set_gid } => {
            table.set_xattr(*ino, name, value, *mode, *clear_set_gid)
        }
        Command::RemoveXattr { ino, name } => table.remove_xattr(*ino, name),
        Command::Commit { ino, blocks, extents, inline, size_at_least, mtime } => {
            let session = request.id.map(|id| id.session);
            let commit =
                data::Commit { blocks, extents, inline, size_at_least: *size_at_least, mtime: *mtime };
            table.commit(*ino, session, &commit)
        }
        Command::Punch { ino, offset, len } => table.punch(*ino, *offset, *len),
        Command::Seal { inos } => table.seal(inos),
        Command::Free { inos } => table.free_unlinked(inos),
        Command::MarkMissing { shares } => table.mark(shares, true),
        Command::MarkPresent { shares } => table.mark(shares, false),
        Command::MoveBlocks { blocks } => table.move_blocks(blocks),
        Command::Reclaimed { shares } => table.reclaimed(shares),
        Command::Lock { ino, lock, ticket } => table.lock(*ino, session_of(request)?, lock, *ticket),
        Command::Unlock { ino, lock } => table.unlock(*ino, session_of(request)?, lock),
        Command::CancelLockWait { ino, ticket } => {
            table.cancel_lock_wait(*ino, session_of(request)?, *ticket)
        }
        Command::Delegate { dir } => table.delegate(*dir, session_of(request)?),
        Command::Recall { dir } => table.recall(*dir),
        Command::ReturnDelegations { dirs } => table.return_delegations(dirs, session_of(request)?),
        Command::RevokeDelegation { dir, session } => table.return_delegations(&[*dir], *session),
        Command::ReserveInos { count } => table.reserve_inos(*count),
        Command::CloneRange { from, offset, len, to, to_offset, mtime } => {
            table.clone_range((*from, *offset), *len, (*to, *to_offset), *mtime)
        }
        Command::Guarded { ino, name, value, command } => {
            if !command.may_be_guarded() {
                return Err(NsError::Invalid("a guard before a command that changes neither".into()));
            }
            table.attr(*ino)?;
            if table.kv.get(&key::xattr(*ino, name)) != *value {
                return Err(NsError::GuardFailed);
            }
            run(table, request, command)
        }
        Command::IfNamed { names, command } => {
            if !command.may_be_guarded() {
                return Err(NsError::Invalid("a condition before a command that changes no name".into()));
            }
            for known in names {
                table.parent_for(known.parent, &known.name)?;
                if table.entry(known.parent, &known.name) != known.ino {
                    return Err(NsError::NameChanged);
                }
            }
            run(table, request, command)
        }
    }
}

/// Returns the request's session; fails when it has none. Locks and delegations belong to sessions.
fn session_of(request: &Request) -> Result<SessionId, NsError> {
    let id = request.id.ok_or_else(|| NsError::Invalid("a lock or a delegation needs a session".into()))?;
    Ok(id.session)
}

/// The result of a successful command without a value.
const DONE: Applied = Ok(Outcome::Done);
