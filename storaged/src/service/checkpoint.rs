//! `Checkpoint`: RAINCheck for programs in any language. This node is their client, as for `Store`.
//!
//! A rank that is saved by a stream which breaks off is removed. The next call of the rank finds nothing of it.

use super::files::{check_piece, status as client_status};
use crate::own_client::OwnClient;
use bytes::Bytes;
use rain_checkpoint::{
    Checkpoints, EpochInfo, Error, Incarnation, Job, Keep, PartRecord, PartSave, RankSave, Slice,
};
use rain_proto::v1;
use rain_proto::v1::checkpoint_server::Checkpoint;
use rain_proto::v1::save_rank_request::{Begin, Step};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Pieces that are read ahead of the caller.
const PIECES_AHEAD: usize = 2;

/// Longest wait for ranks.
const COMMIT_WAIT_MAX: Duration = Duration::from_secs(3600);

/// The service.
#[derive(Debug)]
pub(crate) struct CheckpointService {
    own_client: Arc<OwnClient>,
}

impl CheckpointService {
    pub(crate) fn new(own_client: Arc<OwnClient>) -> CheckpointService {
        CheckpointService { own_client }
    }

    async fn checkpoints(&self, job: Option<v1::JobName>) -> Result<(Checkpoints, String), Status> {
        let v1::JobName { volume, job } = job.ok_or_else(|| Status::invalid_argument("no job is named"))?;
        let found = self.own_client.volume(&volume).await;
        let found = found.map_err(|error| client_status(&format!("volume {volume}"), &error))?;
        Ok((Checkpoints::new(found), job))
    }

    async fn job(&self, job: Option<v1::JobName>) -> Result<Job, Status> {
        let (checkpoints, job) = self.checkpoints(job).await?;
        checkpoints.job(&job).await.map_err(status)
    }

    async fn join(&self, job: Option<v1::JobName>, number: u64) -> Result<Incarnation, Status> {
        let (checkpoints, job) = self.checkpoints(job).await?;
        checkpoints.join(&job, number).await.map_err(status)
    }
}

/// Maps the errors of checkpoints to statuses; the `.proto` file has the table.
fn status(error: Error) -> Status {
    let text = error.to_string();
    match error {
        Error::NotFound { .. } => Status::not_found(text),
        Error::Name { .. } | Error::NoSuchRank { .. } | Error::Part { .. } | Error::Source { .. } => {
            Status::invalid_argument(text)
        }
        Error::EpochGoesBack { .. } => Status::out_of_range(text),
        Error::RankTwice { .. } => Status::already_exists(text),
        Error::Fenced { .. } => Status::aborted(text),
        Error::MissingRanks { .. } => Status::deadline_exceeded(text),
        Error::Mismatch { .. } => Status::failed_precondition(text),
        Error::Damaged { .. } => Status::data_loss(text),
        Error::Cluster { doing, source } => client_status(&doing, &source),
    }
}

fn saved_part(record: PartRecord) -> v1::SavedPart {
    let PartRecord { name, bytes, blake3, slice, stored_bytes } = record;
    let slice = slice.map(|Slice { offset, total }| v1::ItemSlice { offset, total });
    v1::SavedPart { name, slice, bytes, blake3, stored_bytes }
}

fn epoch_entry(info: EpochInfo) -> v1::EpochEntry {
    let EpochInfo { epoch, incarnation, ranks, bytes, stored_bytes, saved_at, pinned } = info;
    v1::EpochEntry { epoch, incarnation, ranks, bytes, stored_bytes, saved_at, pinned }
}

/// Takes the parts of a rank from a stream.
async fn receive(rank: &RankSave, messages: &mut Streaming<v1::SaveRankRequest>) -> Result<(), Status> {
    let mut part: Option<PartSave> = None;
    while let Some(message) = messages.message().await? {
        match message.step {
            Some(Step::Part(next)) => {
                if let Some(part) = part.take() {
                    part.finish().await.map_err(status)?;
                }
                let begun = match next.slice {
                    Some(v1::ItemSlice { offset, total }) => {
                        rank.slice(&next.name, Slice { offset, total }).await
                    }
                    None => rank.part(&next.name).await,
                };
                part = Some(begun.map_err(status)?);
            }
            Some(Step::Data(data)) => {
                check_piece(&data)?;
                let part = part.as_mut().ok_or_else(|| Status::invalid_argument("data before its part"))?;
                part.write(&data).await.map_err(status)?;
            }
            Some(Step::Begin(_)) => {
                return Err(Status::invalid_argument("a rank begins twice in one stream"));
            }
            None => return Err(Status::invalid_argument("a message that says nothing")),
        }
    }
    if let Some(part) = part {
        part.finish().await.map_err(status)?;
    }
    Ok(())
}

#[tonic::async_trait]
impl Checkpoint for CheckpointService {
    async fn take_over(
        &self,
        request: Request<v1::TakeOverRequest>,
    ) -> Result<Response<v1::TakeOverResponse>, Status> {
        let (checkpoints, job) = self.checkpoints(request.into_inner().job).await?;
        let incarnation = checkpoints.take_over(&job).await.map_err(status)?.number();
        Ok(Response::new(v1::TakeOverResponse { incarnation }))
    }

    async fn save_rank(
        &self,
        request: Request<Streaming<v1::SaveRankRequest>>,
    ) -> Result<Response<v1::SaveRankResponse>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|message| message.step);
        let Some(Step::Begin(Begin { job, incarnation, epoch, rank, ranks, replace })) = first else {
            return Err(Status::invalid_argument("the first message of a rank is `begin`"));
        };
        let incarnation = self.join(job, incarnation).await?;
        let save = incarnation.save(epoch, ranks).await.map_err(status)?;
        let begun = if replace { save.replace_rank(rank).await } else { save.rank(rank).await };
        let saving = begun.map_err(status)?;
        match receive(&saving, &mut messages).await {
            Ok(()) => {
                let record = saving.finish().await.map_err(status)?;
                let parts = record.parts.into_iter().map(saved_part).collect();
                Ok(Response::new(v1::SaveRankResponse { parts }))
            }
            Err(refused) => {
                if let Err(error) = saving.abandon().await {
                    tracing::debug!(%error, "removing a rank whose stream broke off");
                }
                Err(refused)
            }
        }
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        let v1::CommitRequest { job, incarnation, epoch, ranks, wait_ms } = request.into_inner();
        let incarnation = self.join(job, incarnation).await?;
        let wait = Duration::from_millis(wait_ms.into()).min(COMMIT_WAIT_MAX);
        let committed = incarnation.commit(epoch, ranks, wait).await.map_err(status)?;
        let info = incarnation.job().info(committed.epoch).await.map_err(status)?;
        Ok(Response::new(v1::CommitResponse { epoch: Some(epoch_entry(info)) }))
    }

    async fn list_epochs(
        &self,
        request: Request<v1::ListEpochsRequest>,
    ) -> Result<Response<v1::ListEpochsResponse>, Status> {
        let job = self.job(request.into_inner().job).await?;
        let epochs = job.list().await.map_err(status)?.into_iter().map(epoch_entry).collect();
        Ok(Response::new(v1::ListEpochsResponse { epochs }))
    }

    async fn show(&self, request: Request<v1::ShowRequest>) -> Result<Response<v1::ShowResponse>, Status> {
        let v1::ShowRequest { job, epoch } = request.into_inner();
        let checkpoint = self.job(job).await?.open(epoch).await.map_err(status)?;
        let ranks = checkpoint.ranks().iter().map(|rank| v1::SavedRank {
            rank: rank.rank,
            parts: rank.parts.iter().cloned().map(saved_part).collect(),
        });
        let manifest = checkpoint.manifest();
        Ok(Response::new(v1::ShowResponse {
            epoch: manifest.epoch,
            incarnation: manifest.incarnation,
            saved_at: manifest.saved_at,
            ranks: ranks.collect(),
        }))
    }

    type RestoreStream = Pin<Box<dyn Stream<Item = Result<v1::RestoreResponse, Status>> + Send>>;

    async fn restore(
        &self,
        request: Request<v1::RestoreRequest>,
    ) -> Result<Response<Self::RestoreStream>, Status> {
        let v1::RestoreRequest { job, epoch, name, rank, offset, length } = request.into_inner();
        let checkpoint = self.job(job).await?.open(epoch).await.map_err(status)?;
        let item = match rank {
            Some(rank) => checkpoint.part(rank, &name).await,
            None => checkpoint.item(&name).await,
        };
        let item = item.map_err(status)?;
        let (size, epoch) = (item.bytes(), checkpoint.epoch());
        if offset > size {
            return Err(Status::out_of_range(format!(
                "{name} has {size} bytes, offset {offset} is past them"
            )));
        }
        let end = length.map_or(size, |length| offset.saturating_add(length));
        let (pieces, stream) = mpsc::channel(PIECES_AHEAD);
        tokio::spawn(async move {
            let mut restored = item.read(offset..end);
            let mut first = Some(v1::RestoreResponse { data: Bytes::new(), size, epoch });
            loop {
                let next = restored.next().await;
                let ends = !matches!(next, Ok(Some(_)));
                let piece = match next {
                    Ok(None) if first.is_none() => return,
                    Ok(data) => Ok(v1::RestoreResponse {
                        data: data.unwrap_or_default(),
                        ..first.take().unwrap_or_default()
                    }),
                    Err(error) => Err(status(error)),
                };
                // The caller may have gone away.
                if pieces.send(piece).await.is_err() || ends {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn pin(&self, request: Request<v1::PinRequest>) -> Result<Response<v1::PinResponse>, Status> {
        let v1::PinRequest { job, epoch, pinned } = request.into_inner();
        self.job(job).await?.pin(epoch, pinned).await.map_err(status)?;
        Ok(Response::new(v1::PinResponse {}))
    }

    async fn prune(&self, request: Request<v1::PruneRequest>) -> Result<Response<v1::PruneResponse>, Status> {
        let v1::PruneRequest { job, newest, younger_than_secs } = request.into_inner();
        let keep = Keep { newest, younger_than: younger_than_secs.map(Duration::from_secs) };
        if keep.newest.is_none() && keep.younger_than.is_none() {
            return Err(Status::invalid_argument("say what to keep: newest, younger_than_secs, or both"));
        }
        let removed = self.job(job).await?.prune(keep, |_| ()).await.map_err(status)?;
        Ok(Response::new(v1::PruneResponse { removed }))
    }
}
