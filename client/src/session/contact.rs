//! The contact that keeps this client's leases: registers with every new leader, gives up what others want,
//! and gives back what is not used any more.

use super::leases::{Claims, LeaseHolder, Registration};
use super::moment::Moment;
use super::state::{Session, namespace_client};
use crate::error::Error;
use rain_namespace::lease::{CONTACT_MAX, Claim, Subject, Wanted};
use rain_namespace::wire;
use rain_proto::v1;
use rain_types::{Ino, LeaderTerm, SessionId};
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Longest wait of one question for wanted leases. Each answer is a contact, so it is well below
/// [`CONTACT_MAX`]; and below the time after which a call to the leader makes the client look for another.
const WANTED_WAIT: Duration = Duration::from_millis(100);

/// Pause after a contact that has failed.
const RETRY: Duration = Duration::from_millis(50);

/// Keeps the leases until the session is dropped.
pub(super) async fn keep_forever(session: Weak<Session>) {
    // The number of the last demand that was taken in, of the leader with which this client is registered.
    let mut after = 0;
    loop {
        let Some(session) = session.upgrade() else { return };
        if let Err(error) = session.keep_leases(&mut after).await {
            tracing::debug!(%error, "keeping the leases; it is tried again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Drops everything when there was no contact for too long: until the next contact nobody tells this client of
/// changes.
pub(super) async fn watch_forever(session: Weak<Session>) {
    loop {
        let Some(session) = session.upgrade() else { return };
        let pause = match session.leases.last_contact() {
            Some(contact) => (contact + CONTACT_MAX).saturating_duration_since(Instant::now()),
            None => CONTACT_MAX,
        };
        if pause.is_zero() {
            tracing::info!("no contact with the leader for {CONTACT_MAX:?}: what is cached is dropped");
            session.begin_registration(None).await;
        }
        drop(session);
        tokio::time::sleep(pause.max(RETRY)).await;
    }
}

impl Session {
    /// One contact. Returns when it is over, after at most [`WANTED_WAIT`].
    async fn keep_leases(self: &Arc<Self>, after: &mut u64) -> Result<(), Error> {
        self.give_back_unused().await?;
        self.ask_anew();
        let (id, asked) = (self.id(), Moment::now());
        let registered = self.leases.term();
        let wait = if registered.is_some() { WANTED_WAIT } else { Duration::ZERO };
        let response = self
            .call_leader("keeping the leases", |channel| {
                let wait_ms = wait.as_millis() as u32;
                let request = v1::LeasesRequest { session: id.0, after: *after, wait_ms };
                let mut client = namespace_client(channel);
                async move { client.leases(request).await }
            })
            .await?;
        let Some(term) = response.term else { return Err(Error::unexpected("a leader's term")) };
        let term = LeaderTerm::from(term);
        if !response.open {
            // With its session the leases have ended.
            self.begin_registration(None).await;
            self.reopen(id).await?;
        }
        let is_registered = response.open && response.registered && registered == Some(term);
        if !is_registered || self.leases.are_claimed() {
            *after = self.register().await?;
            return Ok(());
        }
        self.leases.contact(asked, term);
        *after = response.last;
        if response.wanted.is_empty() {
            return Ok(());
        }
        let wanted: Vec<Wanted> = response.wanted.iter().map(wanted).collect::<Result<_, _>>()?;
        self.give_up_wanted(term, wanted);
        Ok(())
    }

    /// Gives up leases, in a task of its own, so that contact with the leader goes on meanwhile.
    fn give_up_wanted(self: &Arc<Self>, term: LeaderTerm, wanted: Vec<Wanted>) {
        self.leases.begin_release(&wanted);
        let session = self.clone();
        self.spawn_owned(async move {
            for holder in session.leases.holders() {
                holder.give_up(&wanted).await;
            }
            let released = wanted.iter().map(|Wanted { subject, up_to, keep_read }| v1::ReleasedLease {
                subject: wire::encode(subject).into(),
                up_to: *up_to,
                keep_read: *keep_read,
            });
            if let Err(error) = session.release(term, released.collect()).await {
                tracing::debug!(%error, "giving up leases; the leader asks again or they end by time");
            }
        });
    }

    /// Asks in the background what is in use and whose leases end soon.
    fn ask_anew(self: &Arc<Self>) {
        let due = self.leases.take_due();
        if due.is_empty() {
            return;
        }
        let session = self.clone();
        self.spawn_owned(async move {
            for query in due {
                if let Err(error) = session.renew_kept(&query).await {
                    tracing::debug!(%error, ?query, "asking anew; it is asked when the lease has ended");
                }
            }
        });
    }

    async fn give_back_unused(self: &Arc<Self>) -> Result<(), Error> {
        let (unused, early) = self.leases.take_unused();
        self.give_up_early(early);
        match self.leases.term() {
            Some(term) if !unused.is_empty() => {
                let leases = unused.iter().map(|(ino, up_to)| v1::ReleasedLease {
                    subject: wire::encode(&Subject::Inode(*ino)).into(),
                    up_to: *up_to,
                    keep_read: false,
                });
                let told = self.release(term, leases.collect()).await;
                if told.is_err() {
                    self.leases.not_given_back(term, unused);
                }
                told
            }
            _ => Ok(()),
        }
    }

    /// Gives leases back whose time is not over: as if others wanted them.
    fn give_up_early(self: &Arc<Self>, early: Vec<Wanted>) {
        if let (Some(term), false) = (self.leases.term(), early.is_empty()) {
            self.give_up_wanted(term, early);
        }
    }

    async fn release(&self, term: LeaderTerm, leases: Vec<v1::ReleasedLease>) -> Result<(), Error> {
        let id = self.id();
        self.call_leader("giving up leases", |channel| {
            let term = Some(term.into());
            let request = v1::ReleaseRequest { session: id.0, term, leases: leases.clone() };
            let mut client = namespace_client(channel);
            async move {
                match client.release(request).await {
                    // Another leader, which knows nothing of these leases, is as good.
                    Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                        Ok(tonic::Response::new(v1::ReleaseResponse {}))
                    }
                    released => released,
                }
            }
        })
        .await
        .map(|_| ())
    }

    /// Drops everything that relies on leases, except written data and its leases, and what is claimed.
    async fn begin_registration(&self, may_claim: Option<SessionId>) -> (Claims, Vec<Arc<dyn LeaseHolder>>) {
        let claims = self.leases.begin_registration(may_claim);
        let holders = self.leases.holders();
        for holder in &holders {
            holder.drop_unleased().await;
        }
        (claims, holders)
    }

    /// Registers with the leader. Returns the number of its last demand.
    async fn register(&self) -> Result<u64, Error> {
        if let Some(last) = self.register_with(Some(self.id())).await? {
            return Ok(last);
        }
        tracing::info!("the new leader does not know what this client has leased: what is cached is dropped");
        self.register_with(None).await?.ok_or_else(|| Error::unexpected("a registration"))
    }

    /// Registers with the leader, and claims what is kept or nothing. None: the claims are refused.
    async fn register_with(&self, may_claim: Option<SessionId>) -> Result<Option<u64>, Error> {
        let (claims, holders) = self.begin_registration(may_claim).await;
        let id = self.id();
        let writes: Vec<u64> = holders.iter().flat_map(|holder| holder.writes()).map(|ino| ino.0).collect();
        let claimed = claims.claims.iter().map(|Claim { subject, for_good }| v1::ClaimedLease {
            subject: wire::encode(subject).into(),
            for_good: *for_good,
        });
        let claimed: Vec<v1::ClaimedLease> = claimed.collect();
        let asked = Moment::now();
        let response = self
            .call_leader("registering for leases", |channel| {
                let (writes, claims) = (writes.clone(), claimed.clone());
                let request = v1::RegisterRequest { session: id.0, writes, claims };
                let mut client = namespace_client(channel);
                async move { client.register(request).await }
            })
            .await?;
        let Some(term) = response.term.filter(|_| response.open) else {
            return Err(Error::unexpected("an open session"));
        };
        // A node that does not know claims grants none.
        let is_ignored = !claims.claims.is_empty() && response.claimed <= response.granted;
        if response.refused || is_ignored {
            return Ok(None);
        }
        let kept: HashMap<Ino, u64> = response.kept.iter().map(|kept| (Ino(kept.ino), kept.number)).collect();
        for holder in &holders {
            holder.writes_kept(&kept);
        }
        let v1::RegisterResponse { granted, claimed, .. } = response;
        let registration = Registration { session: id, asked, term: term.into(), granted, claimed };
        Ok(self.leases.registered(registration, &claims, &kept).then_some(response.last))
    }

    /// Starts the tasks that keep the leases, and waits for the first registration.
    pub(super) async fn begin_leases(self: &Arc<Self>) -> Result<(), Error> {
        self.register().await?;
        self.spawn_owned(keep_forever(Arc::downgrade(self)));
        self.spawn_owned(watch_forever(Arc::downgrade(self)));
        Ok(())
    }
}

fn wanted(wanted: &v1::WantedLease) -> Result<Wanted, Error> {
    let subject: Subject = wire::decode(&wanted.subject)?;
    Ok(Wanted { subject, up_to: wanted.up_to, keep_read: wanted.keep_read })
}
