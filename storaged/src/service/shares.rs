//! `Shares`: this node's shares. Lengths and checksums are checked before a share is stored.
//!
//! A request that is meant for another node or another cluster is refused. So is the work of a leader that this
//! node knows to be deposed, and a delete without a mandate ([`crate::obeyed`]).

use crate::joined::Joined;
use crate::obeyed::{Disobeyed, Obeyed};
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
    obeyed: Obeyed,
    joined: Arc<Joined>,
    /// Kibibytes that may still wait to be durable.
    room: Arc<Semaphore>,
}

impl SharesService {
    pub(crate) fn new(
        store: Option<Arc<ShareStore>>,
        gate: Arc<ShareGate>,
        obeyed: Obeyed,
        joined: Arc<Joined>,
    ) -> SharesService {
        SharesService { store, gate, obeyed, joined, room: Arc::new(Semaphore::new(WAITING_KIB_MAX)) }
    }

    /// Lets a request in and counts it until the guard is dropped. Fails where the request is meant for another
    /// node, on a witness, and while the shares are off.
    fn begin(&self, to: Option<v1::Addressee>) -> Result<(Arc<ShareStore>, UnderWay), Status> {
        let (cluster, node) = convert::read_addressee(to)?;
        let who = match self.joined.member() {
            Some(member) if member == (cluster, node) => None,
            Some((own, number)) => Some(format!("node {number} of cluster {own}")),
            None => Some("a node of no cluster yet".to_owned()),
        };
        if let Some(who) = who {
            return Err(Status::failed_precondition(format!(
                "this is {who}; the request is meant for node {node} of cluster {cluster}, which had this address"
            )));
        }
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
        let mut request = request.into_inner();
        let (store, _under_way) = self.begin(request.to.take())?;
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
        // A client that writes has no mandate, and needs none.
        let obeying = match convert::read_mandate(request.mandate) {
            Some(mandate) => Some(self.obeyed.obey(mandate).await.map_err(|error| disobeyed_status(&error))?),
            None => None,
        };
        let (done, durable) = tokio::sync::oneshot::channel();
        store.put_with(meta, crcs, request.payload, move |result| {
            drop((room, obeying));
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
        let mut request = request.into_inner();
        let (store, _under_way) = self.begin(request.to.take())?;
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
        let request = request.into_inner();
        let (store, _under_way) = self.begin(request.to)?;
        let mandate = convert::read_mandate(request.mandate).ok_or_else(|| {
            Status::invalid_argument(
                "a delete without a leader's mandate: only the namespace's leader deletes shares",
            )
        })?;
        let mut keys = Vec::new();
        for key in request.keys {
            let (block, index) = convert::read_share_key(Some(key))?;
            keys.push(ShareKey { block, index });
        }
        let obeying = self.obeyed.obey_strictly(mandate).await.map_err(|error| disobeyed_status(&error))?;
        let deleting = tokio::task::spawn_blocking(move || {
            let deleted = store.delete(&keys);
            // Kept also where the caller is gone: no newer mandate is obeyed before the end.
            drop(obeying);
            deleted
        });
        let deleted = deleting
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(v1::DeleteSharesResponse { deleted }))
    }

    async fn list(
        &self,
        request: Request<v1::ListSharesRequest>,
    ) -> Result<Response<v1::ListSharesResponse>, Status> {
        let mut request = request.into_inner();
        let (store, _under_way) = self.begin(request.to.take())?;
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

fn disobeyed_status(error: &Disobeyed) -> Status {
    match error {
        Disobeyed::TermOver { .. } => Status::permission_denied(error.to_string()),
        Disobeyed::PlacesOld { .. } => Status::aborted(error.to_string()),
        Disobeyed::Io { .. } => Status::internal(error.to_string()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::DiskMedia;
    use crate::share::StoreOptions;
    use rain_proto::convert::Mandate;
    use rain_types::{ClusterId, LeaderTerm, NodeId};
    use tempfile::TempDir;
    use tonic::Code;

    const OWN: (ClusterId, NodeId) = (ClusterId(7), NodeId(3));

    fn service(member: Option<(ClusterId, NodeId)>) -> (TempDir, SharesService) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = ShareStore::open(&folder.path().join("shares"), StoreOptions::default()).expect("opened");
        let obeyed = Obeyed::open(&DiskMedia, &folder.path().join("m"), false).expect("opened");
        let joined = Arc::new(Joined::new("here:1".into(), Arc::default()));
        if let Some((cluster, node)) = member {
            joined.set_member(cluster, node);
        }
        (folder, SharesService::new(Some(Arc::new(store)), Arc::default(), obeyed, joined))
    }

    fn to((cluster, node): (ClusterId, NodeId)) -> Option<v1::Addressee> {
        Some(convert::addressee(cluster, node))
    }

    fn mandate(term: u64, node: u32, places: u64) -> Option<v1::Mandate> {
        Some(Mandate { term: LeaderTerm { term, node: NodeId(node) }, places }.into())
    }

    fn key() -> v1::ShareKey {
        convert::share_key(BlockId { session: SessionId(5), seq: 6 }, ShareIndex(1))
    }

    fn put_request(to: Option<v1::Addressee>, mandate: Option<v1::Mandate>) -> v1::PutShareRequest {
        let payload = vec![9; 1024];
        v1::PutShareRequest {
            key: Some(key()),
            code: Some(v1::Code { codec: 8, k: 1, m: 2 }),
            block_len: 1024,
            chunk_crcs: convert::checksum_table(&rain_client::block::chunk_checksums(&payload)),
            payload: payload.into(),
            to,
            mandate,
        }
    }

    async fn put(service: &SharesService, mandate: Option<v1::Mandate>) -> Result<(), Status> {
        service.put(Request::new(put_request(to(OWN), mandate))).await.map(drop)
    }

    async fn delete(
        service: &SharesService,
        to: Option<v1::Addressee>,
        mandate: Option<v1::Mandate>,
    ) -> Result<u64, Status> {
        let request = v1::DeleteSharesRequest { keys: vec![key()], to, mandate };
        Ok(service.delete(Request::new(request)).await?.into_inner().deleted)
    }

    fn get_request(to: Option<v1::Addressee>) -> Request<v1::GetShareRequest> {
        Request::new(v1::GetShareRequest { key: Some(key()), offset: 0, length: 10, only: None, to })
    }

    async fn has_share(service: &SharesService) -> bool {
        match service.get(get_request(to(OWN))).await {
            Ok(_) => true,
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound, "{status}");
                false
            }
        }
    }

    fn list_request(to: Option<v1::Addressee>) -> Request<v1::ListSharesRequest> {
        Request::new(v1::ListSharesRequest { session: 0, after: None, limit: 9, verify: false, to })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_the_node_that_is_meant_does_what_it_is_asked_for() {
        let (_folder, service) = service(Some(OWN));
        put(&service, None).await.expect("stored");
        let others = [(ClusterId(7), NodeId(4)), (ClusterId(8), NodeId(3)), (ClusterId(0), NodeId(0))];
        for other in others {
            let refusals = [
                service.put(Request::new(put_request(to(other), None))).await.map(drop),
                service.get(get_request(to(other))).await.map(drop),
                service.list(list_request(to(other))).await.map(drop),
                delete(&service, to(other), mandate(9, 1, 9)).await.map(drop),
            ];
            for refused in refusals {
                let status = refused.expect_err("meant for another node");
                assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
                let said = status.message();
                let meant = format!("node {} of cluster {}", other.1, other.0);
                let own = format!("node {} of cluster {}", OWN.1, OWN.0);
                assert!(said.contains(&meant) && said.contains(&own), "{said}");
            }
        }
        let status = delete(&service, None, mandate(9, 1, 9)).await.expect_err("meant for nobody");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(has_share(&service).await, "something was deleted");
        assert_eq!(service.list(list_request(to(OWN))).await.expect("listed").into_inner().shares.len(), 1);
        assert_eq!(delete(&service, to(OWN), mandate(9, 1, 9)).await.expect("meant for it"), 1);
        assert!(!has_share(&service).await);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_of_no_cluster_yet_does_nothing() {
        let (_folder, service) = service(None);
        let refusals = [
            put(&service, None).await,
            service.get(get_request(to(OWN))).await.map(drop),
            service.list(list_request(to(OWN))).await.map(drop),
            delete(&service, to(OWN), mandate(1, 1, 1)).await.map(drop),
        ];
        for refused in refusals {
            let status = refused.expect_err("no member");
            assert!(status.code() == Code::FailedPrecondition && status.message().contains("no cluster yet"));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_deleted_by_an_older_mandate_or_by_none() {
        let (_folder, service) = service(Some(OWN));
        put(&service, None).await.expect("stored");
        let status = delete(&service, to(OWN), None).await.expect_err("no mandate");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let status = delete(&service, to(OWN), mandate(0, 1, 1)).await.expect_err("no term");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        // The leader of term 3 takes the share for stray. The next leader moves the block here; then the late
        // delete arrives.
        put(&service, mandate(4, 2, 8)).await.expect("moved");
        let status = delete(&service, to(OWN), mandate(3, 1, 7)).await.expect_err("an older term");
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().contains("4.2"), "{status}");
        // The same within one term: the delete was decided by an older layout.
        let status = delete(&service, to(OWN), mandate(4, 2, 7)).await.expect_err("an older layout");
        assert_eq!(status.code(), Code::Aborted, "{status}");
        let status = put(&service, mandate(4, 1, 8)).await.expect_err("an older leader's put");
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(has_share(&service).await, "something was deleted");
        put(&service, None).await.expect("a client's put needs no mandate");
        put(&service, mandate(4, 2, 6)).await.expect("a put by an older layout harms nothing");
        assert_eq!(delete(&service, to(OWN), mandate(4, 2, 8)).await.expect("the newest"), 1);
        assert!(!has_share(&service).await);
    }
}
