//! `Store`: files by path for programs in any language. This node is their client: it encodes and gathers.
//!
//! A put writes to a temporary name beside its target. When the file is whole and durable, it is renamed over
//! the target, so that nobody sees half of it. A put that breaks off removes its temporary file; if this node
//! dies in the middle, a file `.rain-put-*` stays behind.

use crate::joined::Joined;
use crate::own_client::OwnClient;
use bytes::Bytes;
use rain_client::{Error, NewInode, OpenFile, Volume};
use rain_namespace::command::RenameMode;
use rain_namespace::error::NsError;
use rain_namespace::record::{Attr, FileKind};
use rain_proto::v1;
use rain_proto::v1::file_info::Kind;
use rain_proto::v1::store_server::Store;
use rain_types::Ino;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// Bytes of a piece of a get: one block.
const PIECE_BYTES: u64 = 1 << 20;

/// Pieces of a get that are read ahead of the caller: read-ahead against memory.
const PIECES_AHEAD: usize = 4;

/// Largest piece of a put, bytes.
const PUT_PIECE_BYTES_MAX: usize = 4 << 20;

/// Entries of one message of a list.
const LIST_PAGE: u32 = 1024;

/// The service.
#[derive(Debug)]
pub(crate) struct StoreService {
    own_client: Arc<OwnClient>,
    joined: Arc<Joined>,
    /// Puts begun: a part of the temporary names.
    puts: AtomicU64,
}

type Stream1<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A parsed path: the volume, the directories, and the last name (`None` for a volume's root).
struct Target {
    volume: Arc<Volume>,
    directories: Vec<Vec<u8>>,
    name: Option<Vec<u8>>,
}

impl StoreService {
    pub(crate) fn new(own_client: Arc<OwnClient>, joined: Arc<Joined>) -> StoreService {
        StoreService { own_client, joined, puts: AtomicU64::new(0) }
    }

    async fn target(&self, path: &str) -> Result<Target, Status> {
        let wrong = || Status::invalid_argument(format!("{path:?} is no path of the form /VOLUME/dir/file"));
        let mut names = path.strip_prefix('/').ok_or_else(wrong)?.split('/').filter(|name| !name.is_empty());
        let volume = names.next().ok_or_else(wrong)?;
        let mut directories: Vec<Vec<u8>> = names.map(|name| name.as_bytes().to_vec()).collect();
        if directories.iter().any(|name| name == b"." || name == b"..") {
            return Err(wrong());
        }
        let name = directories.pop();
        let volume = self.own_client.volume(volume).await.map_err(|error| status(path, &error))?;
        Ok(Target { volume, directories, name })
    }

    async fn attr(&self, path: &str) -> Result<(Target, Attr), Status> {
        let target = self.target(path).await?;
        let parent = walk(&target, false).await.map_err(|error| status(path, &error))?;
        let attr = match &target.name {
            Some(name) => target.volume.lookup(parent, name).await,
            None => target.volume.attr(parent).await,
        };
        let attr = attr.map_err(|error| status(path, &error))?;
        Ok((target, attr))
    }
}

/// Returns the directory of the last name. With `make_parents` missing directories are made.
async fn walk(target: &Target, make_parents: bool) -> Result<Ino, Error> {
    let mut at = target.volume.root();
    for name in &target.directories {
        let attr = match target.volume.lookup(at, name).await {
            Err(Error::Refused(NsError::NotFound)) if make_parents => {
                let new = NewInode::new(FileKind::Directory, 0o755, 0, 0);
                match target.volume.make(at, name, new).await {
                    Err(Error::Refused(NsError::Exists)) => target.volume.lookup(at, name).await?,
                    made => made?,
                }
            }
            found => found?,
        };
        if attr.kind != FileKind::Directory {
            return Err(NsError::NotDirectory.into());
        }
        at = attr.ino;
    }
    Ok(at)
}

#[tonic::async_trait]
impl Store for StoreService {
    async fn put(
        &self,
        request: Request<Streaming<v1::PutRequest>>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        let mut pieces = request.into_inner();
        let first =
            pieces.message().await?.ok_or_else(|| Status::invalid_argument("a put without any message"))?;
        let path = first.path.clone();
        let target = self.target(&path).await?;
        let name = target
            .name
            .clone()
            .ok_or_else(|| Status::invalid_argument(format!("{path:?} is a volume's root")))?;
        let parent = walk(&target, first.make_parents).await.map_err(|error| status(&path, &error))?;
        let mode = if first.mode == 0 { 0o644 } else { (first.mode & 0o7777) as u16 };
        if first.must_not_exist && target.volume.lookup(parent, &name).await.is_ok() {
            return Err(Status::already_exists(format!("{path:?} exists")));
        }
        let session = target.volume.session().id();
        let number = self.puts.fetch_add(1, Relaxed);
        let temporary =
            format!(".rain-put-{session}-{}-{number}", self.joined.node().unwrap_or_default()).into_bytes();
        let rename = if first.must_not_exist { RenameMode::NoReplace } else { RenameMode::Replace };
        let work = async {
            let new = NewInode::new(FileKind::File, mode, 0, 0);
            let made = target.volume.create(parent, &temporary, new).await;
            let (made, file) = made.map_err(|error| status(&path, &error))?;
            let (size, hash) = receive(&file, first.data, &mut pieces, &path).await?;
            let renamed = target.volume.rename(parent, &temporary, parent, &name, rename).await;
            renamed.map_err(|error| status(&path, &error))?;
            Ok((size, made.ino, hash))
        };
        match work.await {
            Ok((size, ino, hash)) => Ok(Response::new(v1::PutResponse {
                size,
                ino: ino.0,
                blake3: hash.as_bytes().to_vec().into(),
            })),
            Err(refused) => {
                if let Err(error) = target.volume.unlink(parent, &temporary).await {
                    tracing::debug!(%error, %path, "removing the temporary file of a put that broke off");
                }
                Err(refused)
            }
        }
    }

    type GetStream = Stream1<v1::GetResponse>;

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let request = request.into_inner();
        let (target, attr) = self.attr(&request.path).await?;
        let file = target.volume.open(attr.ino).await.map_err(|error| status(&request.path, &error))?;
        let size = file.size();
        if request.offset > size {
            return Err(Status::out_of_range(format!(
                "{:?} has {size} bytes, offset {} is past them",
                request.path, request.offset
            )));
        }
        let end = request.length.map_or(size, |length| request.offset.saturating_add(length).min(size));
        let (pieces, stream) = mpsc::channel(PIECES_AHEAD);
        tokio::spawn(async move {
            let mut at = request.offset;
            let mut told_size = size;
            loop {
                let len = (end - at).min(PIECE_BYTES - at % PIECE_BYTES) as u32;
                let piece = match file.read(at, len).await {
                    Ok(data) if data.len() < len as usize => {
                        Err(Status::aborted("the file was cut while it was read"))
                    }
                    Ok(data) => Ok(v1::GetResponse { data, size: std::mem::take(&mut told_size) }),
                    Err(error) => Err(status(&request.path, &error)),
                };
                at += u64::from(len);
                let ends = piece.is_err() || at >= end;
                // The caller may have gone away.
                if pieces.send(piece).await.is_err() || ends {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn stat(&self, request: Request<v1::StatRequest>) -> Result<Response<v1::StatResponse>, Status> {
        let path = request.into_inner().path;
        let (target, attr) = self.attr(&path).await?;
        let name = target.name.unwrap_or_default();
        Ok(Response::new(v1::StatResponse { info: Some(file_info(name, &attr)) }))
    }

    type ListStream = Stream1<v1::ListResponse>;

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let path = request.into_inner().path;
        let (target, attr) = self.attr(&path).await?;
        if attr.kind != FileKind::Directory {
            return Err(Status::failed_precondition(format!("{path:?} is not a directory")));
        }
        let (pages, stream) = mpsc::channel(2);
        tokio::spawn(async move {
            let mut after: Option<Vec<u8>> = None;
            loop {
                let read = target.volume.read_directory(attr.ino, after.as_deref(), LIST_PAGE).await;
                let (page, more) = match read {
                    Ok((entries, more)) => {
                        after = entries.last().map(|entry| entry.name.clone());
                        let entries =
                            entries.into_iter().map(|entry| file_info(entry.name, &entry.attr)).collect();
                        (Ok(v1::ListResponse { entries }), more)
                    }
                    Err(error) => (Err(status(&path, &error)), false),
                };
                if pages.send(page).await.is_err() || !more {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let request = request.into_inner();
        let (target, attr) = self.attr(&request.path).await?;
        let name = target
            .name
            .clone()
            .ok_or_else(|| Status::invalid_argument(format!("{:?} is a volume's root", request.path)))?;
        let parent = walk(&target, false).await.map_err(|error| status(&request.path, &error))?;
        let deleted = match (attr.kind, request.recursive) {
            (FileKind::Directory, true) => delete_tree(&target.volume, parent, &name, attr.ino).await,
            (FileKind::Directory, false) => target.volume.remove_directory(parent, &name).await.map(|_| ()),
            _ => target.volume.unlink(parent, &name).await,
        };
        deleted.map_err(|error| status(&request.path, &error))?;
        Ok(Response::new(v1::DeleteResponse {}))
    }
}

/// Refuses a piece that is too long for one message.
pub(super) fn check_piece(data: &[u8]) -> Result<(), Status> {
    if data.len() <= PUT_PIECE_BYTES_MAX {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "a piece of {} bytes; at most {PUT_PIECE_BYTES_MAX} in one message",
        data.len()
    )))
}

/// Writes all pieces of a put and makes them durable; returns size and hash.
async fn receive(
    file: &OpenFile,
    first: Bytes,
    pieces: &mut Streaming<v1::PutRequest>,
    path: &str,
) -> Result<(u64, blake3::Hash), Status> {
    let mut hasher = blake3::Hasher::new();
    let mut size = 0;
    let mut next = Some(first);
    while let Some(data) = next {
        check_piece(&data)?;
        hasher.update(&data);
        file.write(size, &data).await.map_err(|error| status(path, &error))?;
        size += data.len() as u64;
        next = pieces.next().await.transpose()?.map(|piece| piece.data);
    }
    file.flush().await.map_err(|error| status(path, &error))?;
    Ok((size, hasher.finalize()))
}

/// Deletes a directory with everything below it. Without recursion: the directories on the way down are a
/// list.
async fn delete_tree(volume: &Volume, parent: Ino, name: &[u8], ino: Ino) -> Result<(), Error> {
    let mut way = vec![(parent, name.to_vec(), ino)];
    while let Some((parent, name, dir)) = way.last().cloned() {
        let (entries, more) = volume.read_directory(dir, None, LIST_PAGE).await?;
        let mut deeper = None;
        for entry in entries {
            if entry.attr.kind == FileKind::Directory {
                deeper = Some((dir, entry.name, entry.attr.ino));
            } else {
                volume.unlink(dir, &entry.name).await?;
            }
        }
        match deeper {
            Some(next) => way.push(next),
            None if more => {}
            None => {
                volume.remove_directory(parent, &name).await?;
                way.pop();
            }
        }
    }
    Ok(())
}

fn file_info(name: Vec<u8>, attr: &Attr) -> v1::FileInfo {
    let kind = match attr.kind {
        FileKind::File => Kind::File,
        FileKind::Directory => Kind::Directory,
        FileKind::Symlink => Kind::Symlink,
        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => Kind::Other,
    };
    v1::FileInfo {
        name: name.into(),
        kind: kind.into(),
        ino: attr.ino.0,
        size: attr.size,
        mode: attr.mode.into(),
        uid: attr.uid,
        gid: attr.gid,
        nlink: attr.nlink,
        mtime_ns: attr.mtime.secs.saturating_mul(1_000_000_000).saturating_add(attr.mtime.nanos.into()),
        held: attr.stored_bytes,
    }
}

/// Maps the client's errors to statuses: the only table.
pub(super) fn status(path: &str, error: &Error) -> Status {
    let text = format!("{path}: {error}");
    match error {
        Error::Refused(refused) => match refused {
            NsError::NotFound | NsError::Stale => Status::not_found(text),
            NsError::Exists => Status::already_exists(text),
            NsError::NotDirectory | NsError::IsDirectory | NsError::NotEmpty => {
                Status::failed_precondition(text)
            }
            NsError::SessionEnded(_) => Status::aborted(text),
            _ => Status::invalid_argument(text),
        },
        Error::NoSpace { .. } => Status::resource_exhausted(text),
        Error::Damaged { .. } => Status::data_loss(text),
        Error::TimedOut { .. } => Status::deadline_exceeded(text),
        Error::Unreachable { .. } | Error::NoCluster { .. } => Status::unavailable(text),
        Error::NoMajority { .. } | Error::LockLost => Status::aborted(text),
        Error::NoData => Status::out_of_range(text),
        Error::Foreign { .. } | Error::Protocol(_) => Status::internal(text),
    }
}
