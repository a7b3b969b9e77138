//! `Raft`: messages of the other members, for this node's metadata service.

use crate::joined::Joined;
use crate::metadata::ReceiveError;
use bytes::Bytes;
use rain_proto::v1::RaftMessage;
use rain_proto::v1::raft_server::Raft;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// The service.
#[derive(Debug)]
pub(crate) struct RaftService {
    pub(crate) joined: Arc<Joined>,
    /// True once this node stops: streams end then.
    pub(crate) stopping: watch::Receiver<bool>,
}

fn status(error: ReceiveError) -> Status {
    match error {
        ReceiveError::Foreign(why) => Status::permission_denied(why),
        ReceiveError::Malformed => Status::invalid_argument(error.to_string()),
        ReceiveError::Stopped(why) => Status::internal(why),
    }
}

fn message(bytes: Bytes) -> Response<RaftMessage> {
    Response::new(RaftMessage { bytes })
}

#[tonic::async_trait]
impl Raft for RaftService {
    async fn call(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let metadata = self.joined.metadata_or_status()?;
        metadata.message(request.into_inner().bytes).await.map(message).map_err(status)
    }

    type StreamStream = Pin<Box<dyn Stream<Item = Result<RaftMessage, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<RaftMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let metadata = self.joined.metadata_or_status()?.clone();
        let mut stopping = self.stopping.clone();
        let answers = request.into_inner().then(move |said| {
            let metadata = metadata.clone();
            async move {
                let bytes = metadata.message(said?.bytes).await.map_err(status)?;
                Ok(RaftMessage { bytes })
            }
        });
        let stopped = async move {
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        Ok(Response::new(Box::pin(futures::StreamExt::take_until(answers, Box::pin(stopped)))))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<RaftMessage>>,
    ) -> Result<Response<RaftMessage>, Status> {
        let metadata = self.joined.metadata_or_status()?.clone();
        let mut pieces = request.into_inner();
        let head =
            pieces.message().await?.ok_or_else(|| Status::invalid_argument("a snapshot without its head"))?;
        let (send, receive) = mpsc::channel(4);
        let pumping = tokio::spawn(async move {
            // A stream that ends without an empty piece is cut off: the receiver discards the pieces that it
            // has.
            while let Ok(Some(piece)) = pieces.message().await {
                if send.send(piece.bytes).await.is_err() {
                    return;
                }
            }
        });
        let taken = metadata.snapshot(head.bytes, receive).await;
        pumping.abort();
        taken.map(message).map_err(status)
    }
}
