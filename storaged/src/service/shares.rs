//! `Shares`: this node's shares. Lengths and checksums are checked before a share is stored.

use crate::joined::Joined;
use crate::share::{GetError, PutError, ShareKey, ShareMeta, ShareRead, ShareStore};
use crate::share_gate::{ShareGate, UnderWay};
use rain_proto::v1::shares_server::Shares;
use rain_proto::{convert, v1};
use rain_types::{BlockId, SessionId, ShareIndex};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

/// Shares of one answer to a list.
const LIST_MAX: usize = 4096;

/// Kibibytes of shares that may wait to be durable at a time: a bound on memory. Further callers wait.
const WAITING_KIB_MAX: usize = 48 << 10;

/// The service.
#[derive(Debug)]
pub(crate) struct SharesService {
    /// `None` on a witness.
    store: Option<Arc<ShareStore>>,
    gate: Arc<ShareGate>,
    joined: Arc<Joined>,
    /// Kibibytes that may still wait to be durable.
    room: Arc<Semaphore>,
}

impl SharesService {
    pub(crate) fn new(
        store: Option<Arc<ShareStore>>,
        gate: Arc<ShareGate>,
        joined: Arc<Joined>,
    ) -> SharesService {
        SharesService { store, gate, joined, room: Arc::new(Semaphore::new(WAITING_KIB_MAX)) }
    }

    /// Lets a request in and counts it until the guard is dropped. Fails on a witness, and while the shares
    /// are off.
    fn begin(&self) -> Result<(Arc<ShareStore>, UnderWay), Status> {
        let store = self.store.clone();
        let store =
            store.ok_or_else(|| Status::failed_precondition("this node is a witness: it keeps no shares"))?;
        let under_way = self.gate.enter();
        let off = || Status::unavailable("the shares of this node are switched off");
        Ok((store, under_way.ok_or_else(off)?))
    }
}

#[tonic::async_trait]
impl Shares for SharesService {
    async fn put(
        &self,
        request: Request<v1::PutShareRequest>,
    ) -> Result<Response<v1::PutShareResponse>, Status> {
        let (store, _under_way) = self.begin()?;
        let request = request.into_inner();
        let (block, index) = convert::read_share_key(request.key)?;
        let code = convert::read_code(request.code)?;
        if usize::from(index.0) >= code.n() {
            return Err(Status::invalid_argument(format!("share {index} of a block of {} shares", code.n())));
        }
        if request.block_len == 0 || request.block_len as usize > rain_client::BLOCK_BYTES_MAX {
            return Err(Status::invalid_argument(format!("a block of {} bytes", request.block_len)));
        }
        let expected = rain_codec::by_name(code.codec.name(), code.k.into(), code.m.into())
            .map_err(|error| Status::invalid_argument(error.to_string()))?
            .share_bytes(request.block_len as usize);
        if request.payload.len() != expected {
            return Err(Status::invalid_argument(format!(
                "the payload has {} bytes; a share of a block of {} bytes in code {code} has {expected}",
                request.payload.len(),
                request.block_len
            )));
        }
        let crcs = convert::read_checksum_table(&request.chunk_crcs)?;
        let meta = ShareMeta {
            key: ShareKey { block, index },
            code,
            block_len: request.block_len,
            share_len: request.payload.len() as u32,
        };
        let kib = request.payload.len().div_ceil(1024) as u32;
        let room = self.room.clone().acquire_many_owned(kib).await;
        let room = room.map_err(|_| Status::unavailable("the node is stopping"))?;
        let (done, durable) = tokio::sync::oneshot::channel();
        store.put_with(meta, crcs, request.payload, move |result| {
            drop(room);
            // The caller may be gone; the share is stored all the same.
            let _ = done.send(result);
        });
        match durable.await {
            Ok(Ok(())) => Ok(Response::new(v1::PutShareResponse {})),
            Ok(Err(error)) => Err(put_status(&error)),
            Err(_) => Err(Status::unavailable("the node is stopping")),
        }
    }

    async fn get(
        &self,
        request: Request<v1::GetShareRequest>,
    ) -> Result<Response<v1::GetShareResponse>, Status> {
        let (store, _under_way) = self.begin()?;
        let request = request.into_inner();
        let (block, index) = convert::read_share_key(request.key)?;
        let key = ShareKey { block, index };
        // A read of cached pages takes microseconds. A read from the disk may take long; then the runtime's
        // other workers go on with other requests.
        let read = tokio::task::block_in_place(|| store.get(key, request.offset, request.length));
        match read {
            Ok(read) if request.only.is_some() => rows_of(&read, &request).map(Response::new),
            Ok(read) => Ok(Response::new(v1::GetShareResponse {
                first_byte: read.first_byte,
                payload: read.payload,
                chunk_crcs: convert::checksum_table(&read.chunk_crcs),
            })),
            Err(error) => {
                let status = get_status(&error);
                if status.code() == tonic::Code::DataLoss {
                    tracing::error!(%block, share = %index, node = %self.joined.node().unwrap_or_default(), %error, "damaged share");
                }
                Err(status)
            }
        }
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteSharesRequest>,
    ) -> Result<Response<v1::DeleteSharesResponse>, Status> {
        let (store, _under_way) = self.begin()?;
        let mut keys = Vec::new();
        for key in request.into_inner().keys {
            let (block, index) = convert::read_share_key(Some(key))?;
            keys.push(ShareKey { block, index });
        }
        let deleted = tokio::task::spawn_blocking(move || store.delete(&keys))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(v1::DeleteSharesResponse { deleted }))
    }

    async fn list(
        &self,
        request: Request<v1::ListSharesRequest>,
    ) -> Result<Response<v1::ListSharesResponse>, Status> {
        let (store, _under_way) = self.begin()?;
        let request = request.into_inner();
        let after = match request.after {
            None => None,
            after => {
                let (block, index) = convert::read_share_key(after)?;
                Some(ShareKey { block, index })
            }
        };
        let limit = (request.limit as usize).clamp(1, LIST_MAX);
        let listed =
            tokio::task::spawn_blocking(move || list(&store, request.session, after, limit, request.verify));
        listed.await.map_err(|error| Status::internal(error.to_string()))?.map(Response::new)
    }
}

fn list(
    store: &ShareStore,
    session: u64,
    after: Option<ShareKey>,
    limit: usize,
    verify: bool,
) -> Result<v1::ListSharesResponse, Status> {
    // Keys are ordered by session first: begin just before the session's.
    let start = match (after, session) {
        (Some(after), _) => Some(after),
        (None, 0) => None,
        (None, session) => Some(ShareKey {
            block: BlockId { session: SessionId(session - 1), seq: u64::MAX },
            index: ShareIndex(u8::MAX),
        }),
    };
    let found = store.list(start, limit).map_err(|error| Status::internal(error.to_string()))?;
    let full = found.len() == limit;
    let mut shares = Vec::with_capacity(found.len());
    for meta in found {
        if session != 0 && meta.key.block.session.0 != session {
            return Ok(v1::ListSharesResponse { shares, more: false });
        }
        let damaged =
            verify && matches!(store.get(meta.key, 0, meta.share_len), Err(GetError::Corrupt { .. }));
        shares.push(v1::ShareEntry {
            key: Some(convert::share_key(meta.key.block, meta.key.index)),
            block_len: meta.block_len,
            share_len: meta.share_len,
            damaged,
        });
    }
    Ok(v1::ListSharesResponse { shares, more: full })
}

fn put_status(error: &PutError) -> Status {
    match error {
        PutError::NoSpace { .. } => Status::resource_exhausted(error.to_string()),
        PutError::Invalid { .. } => Status::invalid_argument(error.to_string()),
        other => Status::internal(other.to_string()),
    }
}

fn get_status(error: &GetError) -> Status {
    match error {
        GetError::NotFound { .. } => Status::not_found(error.to_string()),
        GetError::Corrupt { .. } => Status::data_loss(error.to_string()),
        GetError::Range { .. } => Status::invalid_argument(error.to_string()),
        other => Status::internal(other.to_string()),
    }
}

/// Returns the requested rows, with checksums of their own. Fails unless rows ascend and the range is whole
/// stripes.
fn rows_of(read: &ShareRead, request: &v1::GetShareRequest) -> Result<v1::GetShareResponse, Status> {
    let v1::Rows { row_bytes, stripe_rows, rows } = request.only.clone().unwrap_or_default();
    let stripe = row_bytes.checked_mul(stripe_rows).filter(|stripe| *stripe > 0);
    let whole = |stripe: u32| request.offset.is_multiple_of(stripe) && request.length.is_multiple_of(stripe);
    let ascending = rows.is_sorted_by(|a, b| a < b) && rows.last().is_none_or(|last| *last < stripe_rows);
    if !stripe.is_some_and(whole) || !ascending {
        return Err(Status::invalid_argument(format!(
            "rows {rows:?} of {stripe_rows} with {row_bytes} bytes each in bytes {}+{} of the share: rows ascend, and the bytes are whole \
             stripes",
            request.offset, request.length
        )));
    }
    let begin = (request.offset - read.first_byte) as usize;
    let bytes = &read.payload[begin..begin + request.length as usize];
    let rows: Vec<usize> = rows.iter().map(|row| *row as usize).collect();
    let payload = rain_codec::pack_rows(bytes, row_bytes as usize, stripe_rows as usize, &rows);
    let chunk_crcs = convert::checksum_table(&rain_client::block::chunk_checksums(&payload));
    Ok(v1::GetShareResponse { first_byte: 0, payload: payload.into(), chunk_crcs })
}
