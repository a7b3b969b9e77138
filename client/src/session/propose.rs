//! Commands: sent to the leader, applied once each, in order within one call.

use super::request::Numbered;
use super::state::{Session, namespace_client};
use crate::error::Error;
use crate::stats::count;
use rain_namespace::command::{Applied, Command, Outcome, Request};
use rain_namespace::error::NsError;
use rain_namespace::wire;
use rain_proto::v1;
use rain_types::SessionId;
use std::time::Instant;

impl Session {
    /// Applies a command once, however often it has to be sent. Waits where another session holds the
    /// directory.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, Error> {
        self.propose_fenced(None, command).await
    }

    /// As [`Session::propose`]. With a fence the command applies in that session or not at all.
    pub(crate) async fn propose_fenced(
        &self,
        fence: Option<SessionId>,
        command: Command,
    ) -> Result<Outcome, Error> {
        let begun = Instant::now();
        loop {
            match self.propose_once(fence, &command).await? {
                Err(NsError::SessionEnded(ended)) => {
                    self.reopen(ended).await?;
                    // Blocks belong to their session. Only the flush, which has their data, can store them
                    // again.
                    if fence.is_some() || matches!(command, Command::Commit { .. }) {
                        return Err(Error::Refused(NsError::SessionEnded(ended)));
                    }
                }
                Err(NsError::Delegated { dir, .. }) => self.recall(dir, begun).await?,
                applied => return applied.map_err(Error::Refused),
            }
        }
    }

    /// As [`Session::propose_fenced`], but returns the refusal where the session has ended or another session
    /// holds the directory.
    pub(crate) async fn propose_once(
        &self,
        fence: Option<SessionId>,
        command: &Command,
    ) -> Result<Applied, Error> {
        let numbered = self.number([command.clone().into()]);
        if let Some(ended) = fence.filter(|fence| *fence != numbered.session) {
            // It was never sent, so it cannot apply later.
            numbered.answered(self, &[]);
            return Ok(Err(NsError::SessionEnded(ended)));
        }
        let mut applied = self.send_numbered(&numbered).await?;
        applied.pop().ok_or_else(|| Error::unexpected("an outcome"))
    }

    /// Sends numbered commands. The leader applies them in their order; the result has an outcome for each.
    pub(crate) async fn send_numbered(&self, numbered: &Numbered<'_>) -> Result<Vec<Applied>, Error> {
        let applied = self.send(numbered.requests.clone()).await?;
        numbered.answered(self, &applied);
        Ok(applied)
    }

    /// Applies a command that needs no session and may be repeated.
    pub(crate) async fn propose_internal(&self, command: Command) -> Result<Outcome, Error> {
        let mut applied = self.send(vec![wire::encode(&Request::internal(command)).into()]).await?;
        applied.pop().ok_or_else(|| Error::unexpected("an outcome"))?.map_err(Error::Refused)
    }

    async fn send(&self, requests: Vec<bytes::Bytes>) -> Result<Vec<Applied>, Error> {
        count(&self.counters.commands);
        let response = self
            .call_leader("changing the namespace", |channel| {
                let request = v1::ProposeRequest { requests: requests.clone() };
                let mut client = namespace_client(channel);
                async move { client.propose(request).await }
            })
            .await?;
        self.seen.saw(response.position);
        if response.applied.len() != requests.len() {
            return Err(Error::unexpected("an outcome for each command"));
        }
        Ok(response.applied.iter().map(|applied| wire::decode(applied)).collect::<Result<_, _>>()?)
    }
}
