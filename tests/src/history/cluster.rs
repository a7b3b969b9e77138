//! A cluster with four clients of the library: makes faults while the clients work, and checks their history.

use super::client::{CLIENTS, HistoryClient, Workspace};
use super::faults::strike;
use super::report::{HistoryOptions, HistoryReport, timed};
use crate::real::{ClusterOptions, TestCluster};
use anyhow::Context;
use fastrand::Rng;
use rain_client::{Client, Options};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::runtime::{Builder, Runtime};

/// A cluster with four clients, for many runs. Dropping it ends all of them.
pub struct HistoryCluster {
    cluster: TestCluster,
    nodes: u32,
    runtime: Option<Runtime>,
    clients: Vec<Arc<Client>>,
}

impl HistoryCluster {
    /// Starts a cluster of three or five voters, and connects the clients.
    pub fn new(rain: &Path, nodes: u32) -> anyhow::Result<HistoryCluster> {
        HistoryCluster::with_leases(rain, nodes, true)
    }

    /// As [`HistoryCluster::new`]. Without `leases` one client keeps no leases, and caches all the same: the check
    /// must find that.
    pub fn with_leases(rain: &Path, nodes: u32, leases: bool) -> anyhow::Result<HistoryCluster> {
        let code = if nodes >= 5 { "3+2" } else { "2+1" };
        let options = ClusterOptions { nodes, code, cables: 2, ..ClusterOptions::new(rain) };
        let cluster = TestCluster::start(options)?;
        cluster.wait_settled(nodes as usize, Duration::from_secs(30))?;
        let network = cluster.lan()?.network(0)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(move || {
                if let Err(error) = network.enter() {
                    panic!("entering the client's network namespace: {error}");
                }
            })
            .enable_all()
            .build()?;
        let addresses: Vec<String> = cluster.addresses().split(',').map(str::to_owned).collect();
        let clients = (0..CLIENTS)
            .map(|number| {
                let addresses = addresses.clone();
                let options = Options {
                    label: format!("history client {number}"),
                    allow_stale: false,
                    // One client sends every change to the leader.
                    write_back: number > 0,
                    caches: leases || number != 1,
                    // A short back-off, so that the delegation of the directory moves often.
                    delegation_backoff: Duration::from_millis(3),
                    ..Options::default()
                };
                // On a thread of the runtime: the present thread is not in the client's network namespace.
                let connecting = runtime.spawn(async move { Client::connect(&addresses, options).await });
                Ok(runtime.block_on(connecting)??)
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(HistoryCluster { cluster, nodes, runtime: Some(runtime), clients })
    }

    /// Records one history and checks it.
    ///
    /// A violation is part of the report. Fails when the cluster does not settle, or when a fault cannot be
    /// made.
    pub fn play(&mut self, options: HistoryOptions) -> anyhow::Result<HistoryReport> {
        self.cluster.restart_all()?;
        self.cluster.wait_settled(self.nodes as usize, Duration::from_secs(40))?;
        let mut rng = Rng::with_seed(options.seed);
        let folder = format!("history-{}", options.seed);
        let early_before = self.acknowledged_early();
        let (start, began, stop) = (Instant::now(), SystemTime::now(), Arc::new(AtomicBool::new(false)));
        let runtime = self.runtime.as_ref().context("the runtime has ended")?;
        let workspaces: Vec<Workspace> = {
            let mut workspaces = Vec::new();
            for cluster in &self.clients {
                let (cluster, folder) = (cluster.clone(), folder.clone());
                let finding = runtime.spawn(async move { Workspace::find(&cluster, &folder).await });
                workspaces.push(runtime.block_on(finding)??);
            }
            workspaces
        };
        let working: Vec<_> = workspaces
            .into_iter()
            .enumerate()
            .map(|(number, workspace)| {
                let client = HistoryClient::new(number as u32, options, workspace, start);
                runtime.spawn(client.work(stop.clone()))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        let mut faults = Vec::new();
        for _ in 0..options.faults {
            faults.push(timed(start, || strike(&mut self.cluster, self.nodes, &mut rng))?);
            std::thread::sleep(Duration::from_millis(200 + rng.u64(..500)));
        }
        if options.faults == 0 {
            std::thread::sleep(Duration::from_millis(700));
        }
        stop.store(true, Ordering::Relaxed);
        let mut history = Vec::new();
        let runtime = self.runtime.as_ref().context("the runtime has ended")?;
        for client in working {
            history.extend(runtime.block_on(client)?);
        }
        let who = format!("clients of the library: 0 to {}", CLIENTS - 1);
        let report = HistoryReport::of(&options, (began, who), faults, &history);
        Ok(HistoryReport { acknowledged_early: self.acknowledged_early() - early_before, ..report })
    }

    fn acknowledged_early(&self) -> u64 {
        self.clients.iter().map(|client| client.stats().acknowledged_early).sum()
    }
}

impl Drop for HistoryCluster {
    fn drop(&mut self) {
        self.clients.clear();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}
