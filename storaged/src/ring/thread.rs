//! The ring's threads: one receives, waits and sends; one writes the durable state.

use super::file::{RingState, RingStateFile};
use super::packets::{DATAGRAM_BYTES, Reassembly, Seal};
use super::{Order, RingNotice, RingOptions, RingStatus};
use anyhow::Context;
use parking_lot::Mutex;
use rain_ring::link::{LinkSettings, Path};
use rain_ring::wire::{Body, Envelope};
use rain_ring::{
    About, Clock, Command, Durable, Endpoint, Event, Input, Notice, Notification, ProtocolStep, Refused,
};
use rain_types::NodeId;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{broadcast, oneshot, watch};

/// Buffer of the kernel for datagrams while the thread does not run, bytes.
const RECEIVE_BUFFER: usize = 2 << 20;
/// Priority of the thread, where that is allowed: above other threads of the machine (-20 to 19, less is
/// higher).
const NICENESS: i32 = -15;
/// Interval at which the status is published without news: its counters grow.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Pause before the state is written again after a failure of the disk.
const WRITE_AGAIN: Duration = Duration::from_millis(500);
/// Datagrams of one socket that are taken before the timers run.
const BATCH: usize = 64;

/// Wakes the loop of the thread.
#[derive(Debug)]
pub(super) struct Wake(OwnedFd);

impl Wake {
    pub(super) fn new() -> io::Result<Wake> {
        Ok(Wake(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    pub(super) fn wake(&self) {
        // A full counter wakes the loop anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

type Waiting = oneshot::Sender<anyhow::Result<Result<(), Refused>>>;

struct Driver {
    endpoint: Endpoint,
    options: RingOptions,
    seal: Seal,
    begun: Instant,
    begun_at: SystemTime,
    sockets: Vec<UdpSocket>,
    peers: BTreeMap<Path, UdpSocket>,
    resolved: BTreeMap<NodeId, Vec<SocketAddr>>,
    timers: BTreeMap<Clock, Instant>,
    reassembly: Reassembly,
    number: u64,
    disk: Sender<Durable>,
    addresses: Arc<Mutex<BTreeMap<NodeId, Vec<String>>>>,
    waiting: BTreeMap<u64, Waiting>,
    status: watch::Sender<Arc<RingStatus>>,
    notices: broadcast::Sender<RingNotice>,
    bytes_sent: u64,
    bytes_received: u64,
    news: bool,
    stop: bool,
}

#[expect(clippy::too_many_arguments, reason = "the parts of one thing, taken apart once")]
pub(super) fn spawn(
    options: RingOptions,
    mut file: RingStateFile,
    state: RingState,
    wake: Arc<Wake>,
    orders: Sender<Order>,
    given: Receiver<Order>,
    status: watch::Sender<Arc<RingStatus>>,
    notices: broadcast::Sender<RingNotice>,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let sockets =
        options.listen.iter().map(|address| listen(*address)).collect::<anyhow::Result<Vec<_>>>()?;
    let (disk, to_write) = channel::<Durable>();
    let addresses = Arc::new(Mutex::new(state.addresses));
    let links = LinkSettings::default();
    let endpoint = Endpoint::new(options.node, state.durable, options.settings.clone(), links);
    let mut driver = Driver {
        endpoint,
        seal: Seal::of(options.cluster),
        options,
        begun: Instant::now(),
        begun_at: SystemTime::now(),
        sockets,
        peers: BTreeMap::new(),
        resolved: BTreeMap::new(),
        timers: BTreeMap::new(),
        reassembly: Reassembly::default(),
        number: 0,
        disk,
        addresses: addresses.clone(),
        waiting: BTreeMap::new(),
        status,
        notices,
        bytes_sent: 0,
        bytes_received: 0,
        news: true,
        stop: false,
    };
    let wake_after_write = wake.clone();
    let writer = std::thread::Builder::new().name("ring-disk".into()).spawn(move || {
        while let Ok(first) = to_write.recv() {
            let mut durable = first;
            let mut failed = false;
            loop {
                // Only the last waiting state matters.
                durable = to_write.try_iter().last().unwrap_or(durable);
                let known = addresses.lock().clone();
                let Err(error) = file.write(&RingState { durable: durable.clone(), addresses: known }) else { break };
                if !failed {
                    tracing::error!(%error, "writing the ring's state; this node makes no new promises until it is written");
                    failed = true;
                }
                match to_write.recv_timeout(WRITE_AGAIN) {
                    Ok(newer) => durable = newer,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            if failed {
                tracing::info!("the ring's state is written again");
            }
            if orders.send(Order::Tell(Input::Persisted(durable))).is_err() {
                return;
            }
            wake_after_write.wake();
        }
    })?;
    let ring = std::thread::Builder::new().name("ring".into()).spawn(move || {
        let thread = rustix::thread::gettid();
        if rustix::process::setpriority_process(Some(thread), NICENESS).is_err() {
            tracing::debug!("the ring's thread has no better priority than others: that takes root");
        }
        driver.run(&wake, &given);
    })?;
    Ok(vec![ring, writer])
}

fn listen(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| {
        format!("cannot listen for the ring on UDP {address}: is another program using the port? Choose another --listen")
    })?;
    socket.set_nonblocking(true)?;
    // Root may exceed the system's limit; others get as much as it allows.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER);
    }
    Ok(socket)
}

impl Driver {
    fn run(&mut self, wake: &Wake, given: &Receiver<Order>) {
        let about = About { addresses: self.options.advertise.clone(), ..About::default() };
        self.give(Event::Input(Input::About(about)));
        self.give(Event::Start);
        let mut told = Instant::now();
        let mut buffer = vec![0; DATAGRAM_BYTES + 1];
        while !self.stop {
            if std::mem::take(&mut self.news) || told.elapsed() >= STATUS_EVERY {
                told = Instant::now();
                self.publish();
            }
            let ready = self.wait(wake);
            if ready.woken {
                wake.clear();
            }
            while let Ok(order) = given.try_recv() {
                self.obey(order);
            }
            for at in ready.sockets {
                self.receive(at, &mut buffer);
            }
            for path in ready.refused {
                self.ask_socket(path);
            }
            self.fire();
        }
        self.publish();
    }

    /// Waits for a packet, an order, or the next timer.
    fn wait(&self, wake: &Wake) -> Ready {
        let next = self.timers.values().min().map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = next.unwrap_or(STATUS_EVERY).min(STATUS_EVERY);
        let timeout =
            Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let mut fds = vec![PollFd::from_borrowed_fd(wake.0.as_fd(), PollFlags::IN)];
        fds.extend(self.sockets.iter().map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)));
        fds.extend(
            self.peers.values().map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::empty())),
        );
        if poll(&mut fds, Some(&timeout)).is_err() {
            // Interrupted: look at everything.
            return Ready { woken: true, sockets: (0..self.sockets.len()).collect(), refused: Vec::new() };
        }
        let some = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let (own, others) = fds[1..].split_at(self.sockets.len());
        Ready {
            woken: some(&fds[0]),
            sockets: own.iter().enumerate().filter(|(_, fd)| some(fd)).map(|(at, _)| at).collect(),
            refused: self
                .peers
                .keys()
                .zip(others)
                .filter(|(_, fd)| some(fd))
                .map(|(path, _)| *path)
                .collect(),
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Tell(Input::Persisted(durable)) => self.give(Event::Persisted(durable)),
            Order::Tell(input) => self.give(Event::Input(input)),
            Order::Peers(resolved, addresses) => self.set_peers(resolved, addresses),
            Order::Change(change, done) => match self.endpoint.node_mut().submit(change) {
                Ok(id) => {
                    self.waiting.insert(id, done);
                }
                Err(full) => {
                    let _ = done.send(Err(full.into()));
                }
            },
            Order::Load(load) => {
                let about = About { load, ..self.endpoint.node().about().clone() };
                self.give(Event::Input(Input::About(about)));
            }
            Order::Stop => self.stop = true,
        }
    }

    fn set_peers(
        &mut self,
        resolved: BTreeMap<NodeId, Vec<SocketAddr>>,
        texts: BTreeMap<NodeId, Vec<String>>,
    ) {
        if resolved == self.resolved {
            return;
        }
        let mut counts = BTreeMap::new();
        let mut sockets = BTreeMap::new();
        for (peer, targets) in resolved.iter().filter(|(peer, _)| **peer != self.options.node) {
            let links = targets.len().min(self.options.listen.len()).min(usize::from(u8::MAX));
            for (link, target) in targets.iter().take(links).enumerate() {
                let path = Path { peer: *peer, link: link as u8 };
                let same = self.resolved.get(peer).and_then(|old| old.get(link)) == Some(target);
                let old = self.peers.remove(&path).filter(|_| same);
                match old.map_or_else(|| connect(self.options.listen[link], *target), Ok) {
                    Ok(socket) => {
                        sockets.insert(path, socket);
                    }
                    Err(error) => {
                        tracing::warn!(node = %peer, address = %target, %error, "no way to this address");
                    }
                }
            }
            counts.insert(*peer, links as u8);
        }
        self.peers = sockets;
        self.resolved = resolved;
        *self.addresses.lock() = texts;
        self.give(Event::Peers(counts));
    }

    fn receive(&mut self, at: usize, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            let (len, from) = match self.sockets[at].recv_from(buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::debug!(%error, "receiving");
                    return;
                }
            };
            self.bytes_received += len as u64;
            if let Some(envelope) = self.reassembly.take(&self.seal, from, &buffer[..len]) {
                self.give(Event::Packet(envelope));
            }
        }
    }

    /// Handles a socket to a peer that reports an error: nobody listens there.
    fn ask_socket(&mut self, path: Path) {
        let Some(socket) = self.peers.get(&path) else { return };
        match socket.take_error() {
            Ok(Some(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                self.give(Event::Refused(path))
            }
            // Answers come to the listening sockets; bytes that come here are not for this node.
            _ => {
                let _ = socket.recv(&mut [0; 16]);
            }
        }
    }

    fn fire(&mut self) {
        let now = Instant::now();
        let due: Vec<Clock> =
            self.timers.iter().filter(|(_, due)| **due <= now).map(|(clock, _)| *clock).collect();
        for clock in due {
            // The timer before may have cancelled this one.
            if self.timers.get(&clock).is_some_and(|due| *due <= now) {
                self.timers.remove(&clock);
                self.give(Event::Fired(clock));
            }
        }
    }

    fn give(&mut self, event: Event) {
        let mut commands = Vec::new();
        self.endpoint.handle(self.begun.elapsed(), event, &mut commands);
        for command in commands {
            match command {
                Command::Transmit(envelope) => self.transmit(&envelope),
                Command::Set(clock, after) => {
                    self.timers.insert(clock, Instant::now() + after);
                }
                Command::Cancel(clock) => {
                    self.timers.remove(&clock);
                }
                Command::Persist(durable) => {
                    // The writer ends only with this thread.
                    let _ = self.disk.send(durable);
                }
                Command::Notify(request) => self.told(request),
            }
        }
    }

    fn transmit(&mut self, envelope: &Envelope) {
        let path = Path { peer: envelope.to, link: envelope.link };
        let Some(socket) = self.peers.get(&path) else { return };
        self.number += 1;
        let mut refused = false;
        let datagrams = self.seal.cut(self.number, envelope);
        for datagram in &datagrams {
            match socket.send(datagram) {
                Ok(len) => self.bytes_sent += len as u64,
                Err(error) => refused |= error.kind() == ErrorKind::ConnectionRefused,
            }
        }
        if refused {
            // The refusal is for an earlier packet; this one still has to go out.
            if let Body::Ring(_) = envelope.body {
                for datagram in &datagrams {
                    let _ = socket.send(datagram);
                }
            }
            self.give(Event::Refused(path));
        }
    }

    fn told(&mut self, request: Notification) {
        match request {
            Notification::View(view) => {
                self.news = true;
                let members: Vec<u32> = view.members.iter().map(|member| member.node.0).collect();
                let kind = if view.primary { "primary" } else { "orphan" };
                tracing::info!(view = %view.epoch, ?members, kind, "the ring's view");
            }
            Notification::Link(change) => {
                self.news = true;
                let (node, link) = (change.path.peer, change.path.link);
                tracing::info!(%node, link, up = change.up, "a link changed");
                let down = self.endpoint.links().all().filter(|(_, up, _)| !up).map(|(path, _, _)| path.peer);
                let mut links_down: Vec<NodeId> = down.collect();
                links_down.dedup();
                let about = About { links_down, ..self.endpoint.node().about().clone() };
                self.give(Event::Input(Input::About(about)));
            }
            Notification::Notice(notice) => {
                if let Notice::Done { id, result } = &notice
                    && let Some(done) = self.waiting.remove(id)
                {
                    let _ = done.send(Ok(result.clone()));
                }
                let _ = self.notices.send(RingNotice::Data(notice));
            }
            Notification::Master(fence) => {
                let _ = self.notices.send(RingNotice::Master(fence));
            }
            Notification::MasterLost => {
                let _ = self.notices.send(RingNotice::MasterLost);
            }
            Notification::Left => self.stop = true,
            Notification::Step(step) => {
                match &step {
                    ProtocolStep::Took(_) => {}
                    ProtocolStep::Starves | ProtocolStep::PassFailed { .. } => {
                        tracing::info!(?step, "the ring")
                    }
                    _ => tracing::debug!(?step, "the ring"),
                }
                self.news |= matches!(
                    step,
                    ProtocolStep::Took(_)
                        | ProtocolStep::Passed { .. }
                        | ProtocolStep::Starves
                        | ProtocolStep::Synced { .. }
                );
            }
        }
    }

    fn publish(&self) {
        let endpoint = &self.endpoint;
        let node = endpoint.node();
        let recent = endpoint.recent().map(|one| (self.begun_at + one.at, one.what.clone()));
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        self.status.send_replace(Arc::new(RingStatus {
            phase: Some(node.phase()),
            view: node.view().cloned(),
            reports: node.reports().to_vec(),
            stamp: node.stamp(),
            eligible: node.eligible().clone(),
            round: endpoint.round(),
            synced: node.is_synced(),
            applied: node.shared().applied(),
            counts: endpoint.counts(),
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
            dropped: self.reassembly.dropped,
            cpu: Duration::new(cpu.tv_sec.unsigned_abs(), cpu.tv_nsec as u32),
            links: endpoint.links().all().collect(),
            recent: recent.collect(),
        }));
    }
}

struct Ready {
    woken: bool,
    sockets: Vec<usize>,
    refused: Vec<Path>,
}

/// Returns a socket that sends to one address only, so that the refusals of its machine are reported.
fn connect(own: SocketAddr, target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(own.ip(), 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(target)?;
    Ok(socket)
}
