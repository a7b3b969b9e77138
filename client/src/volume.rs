//! A volume: names and attributes. Each operation is a command or a query, through the write-back.
//!
//! Invariant: attributes from here include every write of this client, committed or not, so that a program
//! sees its own writes. An answer of the namespace that a commit of this client has overtaken is asked for
//! again.
//!
//! This rung leaves files' data to [`crate::file`].

use crate::block::{BlockLocation, Blocks};
use crate::error::Error;
use crate::file::{FileTable, KernelCache, OpenFile, Question};
use crate::placement::Placement;
use crate::rpc::direct;
use crate::session::Session;
use crate::writeback::{UnstoredFiles, Writeback};
use rain_namespace::command::{AttrChange, Command, Known, Outcome, RenameMode, Whiteout, XattrMode};
use rain_namespace::error::NsError;
use rain_namespace::lease::Subject;
use rain_namespace::query::{Answer, DirectoryEntry, Query};
use rain_namespace::record::{Attr, Extent, FileKind, VolumeRecord};
use rain_proto::v1::LeaseKind;
use rain_types::Ino;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// The properties of an inode that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInode {
    /// Its kind.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u16,
    /// Permission bits to take away, unless the directory has a default ACL. Default: none.
    pub umask: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, for a device.
    pub rdev: u32,
    /// Target, for a symlink.
    pub target: Vec<u8>,
    /// For a file: an existing file of this name is taken instead.
    pub or_existing: bool,
}

impl NewInode {
    /// A file, directory, pipe or socket.
    pub fn new(kind: FileKind, mode: u16, uid: u32, gid: u32) -> NewInode {
        NewInode { kind, mode, umask: 0, uid, gid, rdev: 0, target: Vec::new(), or_existing: false }
    }
}

/// An extended attribute, and the value that it must have for a change to be made; none: it must not exist.
#[derive(Debug, Clone, Copy)]
pub struct Guard<'a> {
    /// Inode of the attribute.
    pub ino: Ino,
    /// Name of the attribute.
    pub name: &'a [u8],
    /// Its value.
    pub value: Option<&'a [u8]>,
}

impl Guard<'_> {
    fn before(&self, command: Command) -> Command {
        let (name, value) = (self.name.to_vec(), self.value.map(<[u8]>::to_vec));
        Command::Guarded { ino: self.ino, name, value, command: Box::new(command) }
    }
}

/// Space in a volume, in bytes of user data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Space {
    /// Capacity.
    pub total_bytes: u64,
    /// Capacity that is left.
    pub free_bytes: u64,
    /// Inodes in use.
    pub inodes: u64,
}

/// A volume in use by this client.
#[derive(Debug)]
pub struct Volume {
    record: VolumeRecord,
    session: Arc<Session>,
    placement: Arc<Placement>,
    writeback: Arc<Writeback>,
    files: Arc<FileTable>,
}

impl Volume {
    /// Begins to use a volume, and starts its tasks. Fails on a record without usable placement groups.
    pub(crate) fn attach(
        session: Arc<Session>,
        blocks: Arc<Blocks>,
        record: VolumeRecord,
    ) -> Result<Arc<Volume>, Error> {
        let placement = Arc::new(Placement::new(record.clone())?);
        let files = FileTable::start(session.clone(), blocks, placement.clone());
        let writeback = files.writeback().clone();
        Ok(Arc::new(Volume { record, session, placement, writeback, files }))
    }

    /// The volume's record in the namespace, as it was when the volume was opened.
    pub fn record(&self) -> &VolumeRecord {
        &self.record
    }

    /// The root directory.
    pub fn root(&self) -> Ino {
        self.record.root
    }

    /// The session in which the volume is used.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The location of an extent's block. Fails on a group that this client does not know.
    pub fn locate(&self, extent: &Extent) -> Result<BlockLocation, Error> {
        self.placement.locate(extent)
    }

    /// Sets what has cached this volume's names, attributes and pages: it is told what to drop.
    pub fn set_kernel_cache(&self, kernel: Weak<dyn KernelCache>) {
        self.files.set_kernel_cache(kernel);
    }

    /// For how long from now the attributes of an inode, or a name, may be used as they were told last, without
    /// asking again. None: nothing tells this client of others' changes ([`crate::Options::caches`]).
    pub fn read_for(&self, subject: &Subject) -> Option<Duration> {
        self.writeback.read_for(subject)
    }

    /// Whether a kernel need not be told after a rename in a directory that the lease on the old name says nothing
    /// of the new one: no other client changes names there, or nothing tells this client of it.
    pub fn decides_names(&self, dir: Ino) -> bool {
        self.writeback.decides_names(dir)
    }

    /// The volume's files in this client.
    pub(crate) fn files(&self) -> &Arc<FileTable> {
        &self.files
    }

    /// Asks for attributes until no change of this client has overtaken the answer.
    async fn attr_of(&self, query: &Query) -> Result<Attr, Error> {
        let begun = Instant::now();
        loop {
            let question = self.files.question();
            let Answer::Attr(attr) = self.writeback.ask(query).await? else {
                return Err(Error::unexpected("an inode"));
            };
            if let Some(attr) = question.current(attr) {
                return Ok(attr);
            }
            self.check_deadline(begun)?;
        }
    }

    async fn attr_from(&self, command: Command) -> Result<Attr, Error> {
        let question = self.files.question();
        match self.writeback.change(command).await? {
            Outcome::Attr(attr) => self.current(&question, attr).await,
            _ => Err(Error::unexpected("an inode")),
        }
    }

    /// The attributes of an answer to a question, or newer ones where the answer is overtaken.
    async fn current(&self, question: &Question<'_>, attr: Attr) -> Result<Attr, Error> {
        let ino = attr.ino;
        match question.current(attr) {
            Some(attr) => Ok(attr),
            None => self.attr(ino).await,
        }
    }

    /// Each answer that is overtaken means that this client has changed the file once more. Still, an operation
    /// ends.
    fn check_deadline(&self, begun: Instant) -> Result<(), Error> {
        let after = self.session.options().slow_after;
        if begun.elapsed() > after {
            return Err(Error::TimedOut {
                what: "asking for attributes that this client changes".into(),
                after,
            });
        }
        Ok(())
    }

    /// The attributes of the inode that a name in a directory names.
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, Error> {
        self.attr_of(&Query::Lookup { parent, name: name.to_vec() }).await
    }

    /// The attributes of an inode.
    pub async fn attr(&self, ino: Ino) -> Result<Attr, Error> {
        self.attr_of(&Query::GetAttr { ino }).await
    }

    /// Changes attributes. A new length or modification time comes after everything written before.
    pub async fn set_attr(&self, ino: Ino, change: AttrChange) -> Result<Attr, Error> {
        let question = self.files.question();
        let attr = self.files.set_attr(ino, change).await?;
        self.current(&question, attr).await
    }

    /// Makes an inode under a name.
    pub async fn make(&self, parent: Ino, name: &[u8], new: NewInode) -> Result<Attr, Error> {
        let NewInode { kind, mode, umask, uid, gid, rdev, target, or_existing } = new;
        let (name, ino) = (name.to_vec(), None);
        let command =
            Command::Make { parent, name, kind, mode, umask, uid, gid, rdev, target, or_existing, ino };
        self.attr_from(command).await
    }

    /// Makes a file and opens it. With `or_existing` it opens the file of that name, if there is one.
    pub async fn create(
        self: &Arc<Self>,
        parent: Ino,
        name: &[u8],
        new: NewInode,
    ) -> Result<(Attr, Arc<OpenFile>), Error> {
        let _opening = self.session.openings().begin();
        let made = !new.or_existing;
        let question = self.files.question();
        let attr = self.make(parent, name, new).await?;
        self.open_made(attr, made, question).await
    }

    /// Makes a file without a name and opens it (O_TMPFILE). It inherits from the directory and is in the
    /// directory's volume. [`Volume::link`] may give it a name; else its last close frees it.
    pub async fn create_unnamed(
        self: &Arc<Self>,
        dir: Ino,
        new: NewInode,
    ) -> Result<(Attr, Arc<OpenFile>), Error> {
        let _opening = self.session.openings().begin();
        let NewInode { mode, umask, uid, gid, .. } = new;
        let question = self.files.question();
        let attr = self.attr_from(Command::MakeUnnamed { dir, mode, umask, uid, gid }).await?;
        self.open_made(attr, true, question).await
    }

    async fn open_made(
        self: &Arc<Self>,
        attr: Attr,
        made: bool,
        question: Question<'_>,
    ) -> Result<(Attr, Arc<OpenFile>), Error> {
        match self.files.open(attr.clone(), made, &question) {
            Some(file) => Ok((attr, file)),
            None => {
                drop(question);
                let file = self.open(attr.ino).await?;
                Ok((file.attr(), file))
            }
        }
    }

    /// Gives a file one more name. What was written to a file without a name is stored before the file gets its
    /// first one: a crash leaves no name, or a name with the data.
    pub async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, Error> {
        let unnamed = self.files.hold_unnamed(ino);
        if let Some(file) = &unnamed {
            file.store().await?;
        }
        let attr = self.attr_from(Command::Link { ino, parent, name: name.to_vec() }).await?;
        if let Some(file) = &unnamed {
            file.named(attr.nlink);
        }
        Ok(attr)
    }

    /// Removes a name. A file that is open, on this client or another, lives on until it is closed.
    pub async fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), Error> {
        self.remove(Command::Unlink { parent, name: name.to_vec() }).await
    }

    /// Removes an empty directory. Returns its number.
    pub async fn remove_directory(&self, parent: Ino, name: &[u8]) -> Result<Ino, Error> {
        match self.writeback.change(Command::RemoveDirectory { parent, name: name.to_vec() }).await? {
            Outcome::Removed { ino, .. } => Ok(ino),
            _ => Err(Error::unexpected("a removed inode")),
        }
    }

    /// Moves a name.
    pub async fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), Error> {
        self.rename_known(Vec::new(), None, (parent, name), (new_parent, new_name), mode).await.map(|_| ())
    }

    /// As [`Volume::rename`], if an extended attribute has a value; else `GuardFailed`.
    pub async fn rename_guarded(
        &self,
        guard: Guard<'_>,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<(), Error> {
        let (name, new_name) = (name.to_vec(), new_name.to_vec());
        let command = Command::Rename { parent, name, new_parent, new_name, mode, whiteout: None };
        self.renamed(guard.before(command)).await.map(|_| ())
    }

    /// Sets an extended attribute that has the value of the guard; else `GuardFailed`.
    pub async fn change_xattr(&self, guard: Guard<'_>, value: &[u8]) -> Result<(), Error> {
        let (ino, name, value) = (guard.ino, guard.name.to_vec(), value.to_vec());
        let command = Command::SetXattr { ino, name, value, mode: XattrMode::Any, clear_set_gid: false };
        self.writeback.change(guard.before(command)).await.map(|_| ())
    }

    /// Moves a name, and leaves a whiteout under the old one if it is given. Returns the inode that was moved.
    ///
    /// `known`: names, and the inodes that the caller knows them by; if another client has changed one of them, nothing
    /// is moved: `NameChanged`.
    pub async fn rename_known(
        &self,
        known: Vec<Known>,
        whiteout: Option<Whiteout>,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<Ino, Error> {
        let replacing = self.writeback.unpublished_over((parent, name), (new_parent, new_name));
        if let Some(file) = replacing.and_then(|ino| self.files.get(ino)) {
            // So a crash at any moment leaves the name with the old contents or the new contents.
            file.flush(&self.files).await?;
        }
        let (name, new_name) = (name.to_vec(), new_name.to_vec());
        let command = Command::Rename { parent, name, new_parent, new_name, mode, whiteout };
        if known.is_empty() {
            return self.renamed(command).await;
        }
        self.renamed(Command::IfNamed { names: known, command: Box::new(command) }).await
    }

    async fn renamed(&self, command: Command) -> Result<Ino, Error> {
        let Outcome::Renamed { moved, other, last_name_gone } = self.writeback.change(command).await? else {
            return Err(Error::unexpected("a moved inode"));
        };
        if let Some(replaced) = other.filter(|_| last_name_gone) {
            self.files.unlinked(replaced);
        }
        Ok(moved)
    }

    async fn remove(&self, command: Command) -> Result<(), Error> {
        let Outcome::Removed { ino, last_name_gone } = self.writeback.change(command).await? else {
            return Err(Error::unexpected("a removed inode"));
        };
        if last_name_gone {
            self.files.unlinked(ino);
        }
        Ok(())
    }

    /// The target of a symlink.
    pub async fn read_link(&self, ino: Ino) -> Result<Vec<u8>, Error> {
        self.bytes_of(&Query::ReadLink { ino }).await
    }

    async fn bytes_of(&self, query: &Query) -> Result<Vec<u8>, Error> {
        match self.writeback.ask(query).await? {
            Answer::Bytes(bytes) => Ok(bytes),
            _ => Err(Error::unexpected("bytes")),
        }
    }

    /// The entries of a directory in byte order, after a name, and whether there are more.
    pub async fn read_directory(
        &self,
        dir: Ino,
        after: Option<&[u8]>,
        limit: u32,
    ) -> Result<(Vec<DirectoryEntry>, bool), Error> {
        let question = self.files.question();
        let (listed, more) = self.writeback.list(dir, after, limit).await?;
        let mut entries = Vec::with_capacity(listed.len());
        for DirectoryEntry { name, attr } in listed {
            match self.current(&question, attr).await {
                Ok(attr) => entries.push(DirectoryEntry { name, attr }),
                // The inode was removed since the names were listed.
                Err(Error::Refused(NsError::NotFound)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((entries, more))
    }

    /// The value of an extended attribute.
    pub async fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, Error> {
        self.bytes_of(&Query::GetXattr { ino, name: name.to_vec() }).await
    }

    /// The names of the extended attributes.
    pub async fn list_xattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>, Error> {
        match self.writeback.ask(&Query::ListXattr { ino }).await? {
            Answer::Names(names) => Ok(names),
            _ => Err(Error::unexpected("names")),
        }
    }

    /// Sets an extended attribute. `clear_set_gid`: with an access ACL, also clear the set-group-id bit.
    pub async fn set_xattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        clear_set_gid: bool,
    ) -> Result<(), Error> {
        let (name, value) = (name.to_vec(), value.to_vec());
        let command = Command::SetXattr { ino, name, value, mode, clear_set_gid };
        self.writeback.change(command).await.map(|_| ())
    }

    /// Removes an extended attribute.
    pub async fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<(), Error> {
        self.writeback.change(Command::RemoveXattr { ino, name: name.to_vec() }).await.map(|_| ())
    }

    /// The attributes of the inode at a path of the volume (`/dir/file`). Symlinks are not followed, because
    /// commands name what is stored.
    pub async fn resolve(&self, path: &[u8]) -> Result<Attr, Error> {
        let mut attr = None;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let parent = attr.as_ref().map_or(self.root(), |attr: &Attr| attr.ino);
            attr = Some(self.lookup(parent, name).await?);
        }
        match attr {
            Some(attr) => Ok(attr),
            None => self.attr(self.root()).await,
        }
    }

    /// The volume's space: the space that its nodes report, less the part for parity. A node that does not
    /// answer counts as full.
    pub async fn space(&self) -> Result<Space, Error> {
        let members = self.placement.groups().members();
        let asked = members.iter().map(|node| direct::node_status(self.session.nodes(), *node));
        let reports = futures::future::join_all(asked).await;
        let (mut total, mut free) = (0u64, Vec::new());
        for report in reports.iter().flatten() {
            total += report.used_bytes + report.free_bytes;
            free.push(report.free_bytes);
        }
        let code = self.record.code;
        let data_part = |raw: u64| (u128::from(raw) * u128::from(code.k) / code.n() as u128) as u64;
        // Every block puts a share on n nodes, so with n nodes in all the fullest decides.
        let free_raw = if members.len() == code.n() {
            free.iter().min().copied().unwrap_or(0) * free.len() as u64
        } else {
            free.iter().sum()
        };
        let inodes = self.placement.read_record(&self.session).await?.inodes;
        Ok(Space { total_bytes: data_part(total), free_bytes: data_part(free_raw), inodes })
    }

    /// Opens a file. Everything that other clients committed before is seen from here on. A file whose name was
    /// looked up just before can be opened even if the name has gone meanwhile.
    pub async fn open(self: &Arc<Self>, ino: Ino) -> Result<Arc<OpenFile>, Error> {
        self.open_to(ino, false).await
    }

    /// As [`Volume::open`]. `write`: the file is going to be written, so a write lease is taken if it is free.
    pub async fn open_to(self: &Arc<Self>, ino: Ino, write: bool) -> Result<Arc<OpenFile>, Error> {
        let _opening = self.session.openings().begin();
        let begun = Instant::now();
        loop {
            let question = self.files.question();
            let open_here = self.files.get(ino).is_some_and(|file| file.is_open());
            let query = if open_here { Query::GetAttr { ino } } else { Query::Open { ino } };
            let kind = if write { LeaseKind::LeaseWriteIfFree } else { LeaseKind::LeaseReadOpen };
            let (answer, grant) = self.writeback.ask_for(&query, kind).await?;
            let Answer::Attr(attr) = answer else { return Err(Error::unexpected("an inode")) };
            match attr.kind {
                FileKind::File => {}
                FileKind::Directory => return Err(NsError::IsDirectory.into()),
                _ => return Err(NsError::Invalid("only files have data".into()).into()),
            }
            if let Some(file) = self.files.open(attr, false, &question) {
                file.take_lease(&grant);
                return Ok(file);
            }
            self.check_deadline(begun)?;
        }
    }

    /// Stores and commits everything written so far to any file, and applies every change of a name. Tries
    /// all files and returns the first error.
    pub async fn flush_all(&self) -> Result<(), Error> {
        self.files.flush_all().await
    }

    /// Returns when every change of a name acknowledged before the call is applied at the leader. Fails with
    /// the error of a change that was acknowledged and then refused.
    pub async fn drain(&self) -> Result<(), Error> {
        self.writeback.drain().await
    }
}
