//! `Keepers`: messages of the other keepers, taken to this node's.

use crate::keeper::ReceiveError;
use crate::node::Shared;
use bytes::Bytes;
use rain_proto::v1::KeeperMessage;
use rain_proto::v1::keepers_server::Keepers;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

#[derive(Debug)]
pub(crate) struct KeepersService {
    pub(crate) shared: Arc<Shared>,
}

fn status(error: ReceiveError) -> Status {
    match error {
        ReceiveError::Foreign(why) => Status::permission_denied(why),
        ReceiveError::Malformed => Status::invalid_argument(error.to_string()),
        ReceiveError::Stopped(why) => Status::internal(why),
    }
}

fn message(bytes: Bytes) -> Response<KeeperMessage> {
    Response::new(KeeperMessage { bytes })
}

#[tonic::async_trait]
impl Keepers for KeepersService {
    async fn tell(&self, request: Request<KeeperMessage>) -> Result<Response<KeeperMessage>, Status> {
        let keeper = self.shared.keeper_or_status()?;
        keeper.message(request.into_inner().bytes).await.map(message).map_err(status)
    }

    type TalkStream = Pin<Box<dyn Stream<Item = Result<KeeperMessage, Status>> + Send>>;

    async fn talk(
        &self,
        request: Request<Streaming<KeeperMessage>>,
    ) -> Result<Response<Self::TalkStream>, Status> {
        let keeper = self.shared.keeper_or_status()?.clone();
        let mut stopping = self.shared.stopping.subscribe();
        let answers = request.into_inner().then(move |said| {
            let keeper = keeper.clone();
            async move {
                let bytes = keeper.message(said?.bytes).await.map_err(status)?;
                Ok(KeeperMessage { bytes })
            }
        });
        let stopped = async move {
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        Ok(Response::new(Box::pin(futures::StreamExt::take_until(answers, Box::pin(stopped)))))
    }

    async fn send(
        &self,
        request: Request<Streaming<KeeperMessage>>,
    ) -> Result<Response<KeeperMessage>, Status> {
        let keeper = self.shared.keeper_or_status()?.clone();
        let mut pieces = request.into_inner();
        let head = pieces.message().await?.ok_or_else(|| Status::invalid_argument("no head"))?;
        let (send, receive) = mpsc::channel(4);
        let pumping = tokio::spawn(async move {
            // The end without an empty piece: the receiver throws what it has away.
            while let Ok(Some(piece)) = pieces.message().await {
                if send.send(piece.bytes).await.is_err() {
                    return;
                }
            }
        });
        let taken = keeper.snapshot(head.bytes, receive).await;
        pumping.abort();
        taken.map(message).map_err(status)
    }
}
