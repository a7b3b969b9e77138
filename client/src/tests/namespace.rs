//! A namespace in this process: the functions of `rain-namespace` over a map, with its lease table, behind
//! gRPC. A test can hold an answer back after the namespace has given it, so that later answers overtake it.

use crate::client::Client;
use crate::options::Options;
use crate::volume::Volume;
use parking_lot::Mutex;
use rain_namespace::apply;
use rain_namespace::command::{Applied, Command, NodeSpec, Request};
use rain_namespace::kv::MemoryKv;
use rain_namespace::lease::{Claim, LeaseTable, Subject, Wanted, asked_about, told_by, touched_by};
use rain_namespace::query::{Answer, Answered, Query, answer};
use rain_namespace::record::Time;
use rain_namespace::wire;
use rain_proto::v1;
use rain_proto::v1::namespace_server::{Namespace, NamespaceServer};
use rain_proto::v1::node_server::{Node, NodeServer};
use rain_types::{CodeSpec, Ino, NodeId, SessionId};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Response, Status};

const CLUSTER: &str = "0000000000000000000000000000002a";

/// The first leader's term.
const FIRST_TERM: u64 = 1;

/// Pause between two looks at the lease table.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A request, as [`TestNamespace::hold`] is asked about it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked<'a> {
    Command(&'a Command),
    Query(&'a Query),
}

struct Hold {
    wanted: Box<dyn Fn(Asked<'_>) -> bool + Send>,
    reached: oneshot::Sender<()>,
    released: oneshot::Receiver<()>,
}

/// An answer that is held back from the moment it is given until it is released, or dropped.
pub(super) struct Held {
    reached: oneshot::Receiver<()>,
    release: oneshot::Sender<()>,
}

impl Held {
    /// Returns once the namespace has given the answer.
    pub(super) async fn reached(&mut self) {
        let within = tokio::time::timeout(Duration::from_secs(20), &mut self.reached).await;
        within.expect("the request comes").expect("the namespace is there");
    }

    /// Lets the answer go.
    pub(super) fn release(self) {
        let _ = self.release.send(());
    }
}

#[derive(Default)]
struct State {
    kv: MemoryKv,
    position: u64,
    holds: Vec<Hold>,
    leases: LeaseTable,
    /// When the first lease table began.
    began: Option<Instant>,
    /// The leaders that came after the first.
    new_leaders: u64,
}

impl State {
    fn now(&mut self) -> Duration {
        self.began.get_or_insert_with(Instant::now).elapsed()
    }

    fn lease_term(&self) -> v1::LeaseTerm {
        v1::LeaseTerm { term: FIRST_TERM + self.new_leaders, leader: 1 }
    }
}

/// The namespace, shared by its services.
#[derive(Clone, Default)]
pub(super) struct TestNamespace {
    state: Arc<Mutex<State>>,
    address: String,
}

impl TestNamespace {
    /// Starts a namespace with the volume `main`.
    pub(super) async fn start() -> TestNamespace {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let namespace = TestNamespace { address, ..TestNamespace::default() };
        for node in 1..=3 {
            // Nobody listens there.
            let address = format!("127.0.0.1:{node}");
            let spec = NodeSpec {
                address,
                domain: format!("d{node}"),
                weight: 1,
                witness: false,
                folder: String::new(),
                others: Vec::new(),
            };
            namespace.change(Command::RegisterNode { id: NodeId(node), node: spec });
        }
        let code: CodeSpec = "rs 1+2".parse().expect("a code");
        let name = "main".to_owned();
        namespace.change(Command::CreateVolume { name, code, groups: 1, uid: 0, gid: 0, mode: 0o755 });
        let server = tonic::transport::Server::builder()
            .add_service(NamespaceServer::new(namespace.clone()))
            .add_service(NodeServer::new(namespace.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        namespace
    }

    /// Connects a client, which is to be kept, and begins to use the volume.
    pub(super) async fn client(&self) -> (Arc<Client>, Arc<Volume>) {
        self.client_with(Options::default()).await
    }

    /// As [`TestNamespace::client`], for a client that keeps leases.
    pub(super) async fn caching_client(&self) -> (Arc<Client>, Arc<Volume>) {
        self.client_with(Options { caches: true, ..Options::default() }).await
    }

    async fn client_with(&self, options: Options) -> (Arc<Client>, Arc<Volume>) {
        let client = Client::connect(std::slice::from_ref(&self.address), options).await.expect("connected");
        let volume = client.volume("main").await.expect("the volume");
        (client, volume)
    }

    /// Applies a command of nobody.
    pub(super) fn change(&self, command: Command) {
        self.apply(&Request::internal(command)).expect("the command is right");
    }

    /// Another leader takes over, which knows no leases.
    pub(super) fn new_leader(&self) {
        let mut state = self.state.lock();
        let now = state.now();
        let Ok(Answer::Sessions(open)) = answer(&state.kv, &Query::Sessions) else { panic!("no sessions") };
        state.new_leaders += 1;
        state.leases = LeaseTable::new(open.iter().map(|session| session.id).collect(), now);
    }

    /// Waits until these clients are registered with the leader.
    pub(super) async fn until_registered(&self, clients: &[&Client]) {
        let within = Duration::from_secs(2);
        let all = async {
            while !clients.iter().all(|client| {
                let mut state = self.state.lock();
                let now = state.now();
                let term = state.lease_term().into();
                state.leases.contact(client.session.id(), now) && client.session.leases().term() == Some(term)
            }) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(within, all).await.expect("they register");
    }

    /// Holds back the answer of the next request for which `wanted` is true.
    pub(super) fn hold(&self, wanted: impl Fn(Asked<'_>) -> bool + Send + 'static) -> Held {
        let (reaching, reached) = oneshot::channel();
        let (release, released) = oneshot::channel();
        let hold = Hold { wanted: Box::new(wanted), reached: reaching, released };
        self.state.lock().holds.push(hold);
        Held { reached, release }
    }

    fn apply(&self, request: &Request) -> Applied {
        let mut state = self.state.lock();
        state.position += 1;
        // Time grows with every command.
        let time = Time { secs: 1_000 + state.position as i64, nanos: 0 };
        apply(&mut state.kv, time, request)
    }

    fn take_hold(&self, asked: Asked<'_>) -> Option<Hold> {
        let mut state = self.state.lock();
        let at = state.holds.iter().position(|hold| (hold.wanted)(asked))?;
        Some(state.holds.remove(at))
    }

    /// Waits until the lease table says so.
    async fn until(&self, mut ready: impl FnMut(&mut LeaseTable, Duration) -> bool) {
        loop {
            {
                let mut state = self.state.lock();
                let now = state.now();
                if ready(&mut state.leases, now) {
                    return;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn wait(hold: Option<Hold>) {
        if let Some(hold) = hold {
            let _ = hold.reached.send(());
            let _ = hold.released.await;
        }
    }
}

#[tonic::async_trait]
impl Namespace for TestNamespace {
    async fn propose(
        &self,
        request: tonic::Request<v1::ProposeRequest>,
    ) -> Result<Response<v1::ProposeResponse>, Status> {
        let (mut applied, mut holds) = (Vec::new(), Vec::new());
        for bytes in &request.get_ref().requests {
            let request: Request = wire::decode(bytes).expect("a request");
            let by = request.id.map(|id| id.session).unwrap_or_default();
            let mut touches = Vec::new();
            {
                let mut state = self.state.lock();
                touched_by(&state.kv, &request.command, &mut touches);
                state.leases.begin_change(by, &touches);
            }
            self.until(|leases, now| leases.is_clear(by, &touches, now)).await;
            applied.push(wire::encode(&self.apply(&request)).into());
            self.state.lock().leases.end_change(by, &touches);
            holds.push(self.take_hold(Asked::Command(&request.command)));
        }
        let position = self.state.lock().position;
        for hold in holds {
            TestNamespace::wait(hold).await;
        }
        Ok(Response::new(v1::ProposeResponse { applied, position }))
    }

    async fn query(
        &self,
        request: tonic::Request<v1::QueryRequest>,
    ) -> Result<Response<v1::QueryResponse>, Status> {
        let query: Query = wire::decode(&request.get_ref().query).expect("a query");
        let session = match &query {
            Query::As { session, .. } => *session,
            _ => SessionId(0),
        };
        let (about, kind) = (asked_about(&query), request.get_ref().lease());
        let mut number = 0;
        if let Some(ino) = about {
            if kind == v1::LeaseKind::LeaseWrite {
                self.state.lock().leases.begin_wait(session, ino);
                self.until(|leases, now| {
                    number = leases.grant_write(session, ino, now);
                    number > 0
                })
                .await;
                self.state.lock().leases.end_wait(session, ino);
            }
            self.until(|leases, now| leases.readable(session, ino, now)).await;
        }
        // Whoever keeps back data of what is told stores it first.
        let told = told_by(&query, &answer(&self.state.lock().kv, &query));
        for subject in told {
            if let Subject::Inode(ino) = subject {
                self.until(|leases, now| leases.readable(session, ino, now)).await;
            }
        }
        let (answered, granted, position): (Answered, _, u64) = {
            let mut state = self.state.lock();
            let now = state.now();
            let answered = answer(&state.kv, &query);
            let told = told_by(&query, &answered);
            let mut unleased = Vec::new();
            let read_for = state.leases.read_for();
            let lasts = (kind == v1::LeaseKind::LeaseRead).then_some(read_for);
            let mut lowest = number;
            for subject in told.iter().filter(|_| kind != v1::LeaseKind::LeaseNone && number == 0) {
                match state.leases.grant_read(session, subject, lasts, now) {
                    0 => unleased.push(wire::encode(subject).into()),
                    grant => lowest = if lowest == 0 { grant } else { lowest.min(grant) },
                }
            }
            let write = number > 0;
            let granted = v1::LeaseGrant {
                term: Some(state.lease_term()),
                number: lowest,
                write,
                unleased,
                read_ms: read_for.as_millis() as u32,
            };
            (answered, granted, state.position)
        };
        let granted = (kind != v1::LeaseKind::LeaseNone).then_some(granted);
        let bare = match &query {
            Query::As { query, .. } => query,
            query => query,
        };
        TestNamespace::wait(self.take_hold(Asked::Query(bare))).await;
        let answered = wire::encode(&answered).into();
        Ok(Response::new(v1::QueryResponse { answered, age_ms: 0, position, granted }))
    }

    async fn renew(
        &self,
        _request: tonic::Request<v1::RenewRequest>,
    ) -> Result<Response<v1::RenewResponse>, Status> {
        Ok(Response::new(v1::RenewResponse { open: true, places: 0 }))
    }

    async fn leases(
        &self,
        request: tonic::Request<v1::LeasesRequest>,
    ) -> Result<Response<v1::LeasesResponse>, Status> {
        let v1::LeasesRequest { session, after, wait_ms } = request.into_inner();
        let until = Instant::now() + Duration::from_millis(wait_ms.into());
        let (mut registered, mut wanted, mut last) = (true, Vec::new(), 0);
        self.until(|leases, now| {
            registered = leases.contact(SessionId(session), now);
            (wanted, last) = leases.wanted(SessionId(session), after);
            !registered || !wanted.is_empty() || Instant::now() > until
        })
        .await;
        let wanted = wanted.into_iter().map(|Wanted { subject, up_to, keep_read }| v1::WantedLease {
            subject: wire::encode(&subject).into(),
            up_to,
            keep_read,
        });
        let wanted = wanted.collect();
        let term = Some(self.state.lock().lease_term());
        Ok(Response::new(v1::LeasesResponse { term, open: true, registered, wanted, last }))
    }

    async fn register(
        &self,
        request: tonic::Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let v1::RegisterRequest { session, writes, claims } = request.into_inner();
        let session = SessionId(session);
        let claim = |claim: &v1::ClaimedLease| Claim {
            subject: wire::decode(&claim.subject).expect("a subject"),
            for_good: claim.for_good,
        };
        let claims: Vec<Claim> = claims.iter().map(claim).collect();
        let writes: Vec<Ino> = writes.into_iter().map(Ino).collect();
        let mut state = self.state.lock();
        let now = state.now();
        let granted = state.leases.last_grant() + 1;
        let kept = state.leases.register(session, &writes, &claims, now);
        let (refused, claimed) = (kept.is_err(), state.leases.last_grant());
        let (_, last) = state.leases.wanted(session, u64::MAX);
        let term = Some(state.lease_term());
        let kept = kept.unwrap_or_default();
        let kept = kept.into_iter().map(|(ino, number)| v1::KeptLease { ino: ino.0, number }).collect();
        Ok(Response::new(v1::RegisterResponse { term, open: true, kept, last, granted, refused, claimed }))
    }

    async fn release(
        &self,
        request: tonic::Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        let v1::ReleaseRequest { session, leases, .. } = request.into_inner();
        let mut state = self.state.lock();
        for v1::ReleasedLease { subject, up_to, keep_read } in leases {
            let subject: Subject = wire::decode(&subject).expect("a subject");
            state.leases.release(SessionId(session), &subject, up_to, keep_read);
        }
        Ok(Response::new(v1::ReleaseResponse {}))
    }
}

fn not_here<T>() -> Result<T, Status> {
    Err(Status::unimplemented("not in this test"))
}

#[tonic::async_trait]
impl Node for TestNamespace {
    type WatchRingStream = Pin<Box<dyn Stream<Item = Result<v1::RingResponse, Status>> + Send>>;

    async fn describe(
        &self,
        _request: tonic::Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        let (cluster, address) = (CLUSTER.to_owned(), self.address.clone());
        let leader = v1::Leader { term: 1, node: 1, address, cluster: cluster.clone() };
        Ok(Response::new(v1::DescribeResponse {
            node: 1,
            cluster,
            leader: Some(leader),
            session_ttl_ms: 30_000,
            majority: true,
            ..v1::DescribeResponse::default()
        }))
    }

    async fn admit(
        &self,
        _request: tonic::Request<v1::AdmitRequest>,
    ) -> Result<Response<v1::AdmitResponse>, Status> {
        not_here()
    }

    async fn status(
        &self,
        _request: tonic::Request<v1::NodeStatusRequest>,
    ) -> Result<Response<v1::NodeStatusResponse>, Status> {
        not_here()
    }

    async fn check(
        &self,
        _request: tonic::Request<v1::CheckRequest>,
    ) -> Result<Response<v1::CheckResponse>, Status> {
        not_here()
    }

    async fn ring(
        &self,
        _request: tonic::Request<v1::RingRequest>,
    ) -> Result<Response<v1::RingResponse>, Status> {
        not_here()
    }

    async fn watch_ring(
        &self,
        _request: tonic::Request<v1::RingRequest>,
    ) -> Result<Response<Self::WatchRingStream>, Status> {
        not_here()
    }

    async fn switch_shares(
        &self,
        _request: tonic::Request<v1::SwitchSharesRequest>,
    ) -> Result<Response<v1::SwitchSharesResponse>, Status> {
        not_here()
    }
}
