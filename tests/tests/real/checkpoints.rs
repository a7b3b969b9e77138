//! Checkpoints of jobs on real nodes: whole or absent, shared with the epoch before, and there with m nodes gone.

use crate::{Promise, RAIN};
use anyhow::{Context, ensure};
use rain_checkpoint::{
    CHUNK_BYTES, Checkpoints, Error, Event, Failure, Finished, Incarnation, Keep, Part, PartSource, Program,
    Restoring, RunError, Runner, Slice, Step, shard,
};
use rain_client::{Client, Options};
use rain_tests::data;
use rain_tests::needs::Need;
use rain_tests::real::{ClusterOptions, TestCluster, TestMount};
use std::fs;
use std::future::Future;
use std::io::Read;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

pub(crate) const PROMISES: &[Promise] = &[
    ("an_epoch_is_shared_with_the_one_before_and_whole_with_m_nodes_gone", &[], epochs),
    ("ranks_on_any_clients_commit_together_and_can_be_cut_for_another_number", &[], ranks),
    ("who_was_replaced_commits_nothing_and_bad_input_leaves_the_last_epoch", &[], refusals),
    ("programs_in_any_language_save_and_restore_over_grpc_by_any_node", &[], grpc),
    ("a_program_whose_runner_is_dropped_and_replaced_ends_as_without_faults", &[], program),
    ("ranks_of_a_runner_save_after_the_same_steps_and_resume_in_another_number", &[], program_of_ranks),
    ("checkpoints_are_files_of_a_mount_and_a_command_saves_and_restores_them", &[Need::Mount], command),
];

const STATE: usize = 9 << 20;

fn run<F: Future<Output = anyhow::Result<()>>>(test: impl FnOnce(TestCluster) -> F) -> anyhow::Result<()> {
    let cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(test(cluster))
}

async fn checkpoints(cluster: &TestCluster) -> anyhow::Result<(Arc<Client>, Checkpoints)> {
    let addresses: Vec<String> = cluster.addresses().split(',').map(str::to_owned).collect();
    let client = Client::connect(&addresses, Options { label: "test".into(), ..Options::default() }).await?;
    let volume = client.volume("main").await?;
    Ok((client, Checkpoints::new(volume)))
}

fn part(name: &str, bytes: &[u8]) -> (String, PartSource) {
    (name.into(), PartSource::Bytes(bytes.to_vec().into()))
}

fn epochs() -> anyhow::Result<()> {
    run(async |mut cluster| {
        let (client, checkpoints) = checkpoints(&cluster).await?;
        let job = checkpoints.take_over("train").await?;
        let mut state = data::bytes(1, 0, STATE + 12_345);
        let first = job.save_all(1, vec![part("model", &state), part("empty", &[])]).await?;
        ensure!(first.stored_bytes == state.len() as u64, "{first:?}");
        // One byte in the middle changes: one chunk is stored.
        state[5 << 20] ^= 1;
        let second = job.save_in_background(2, vec![part("model", &state)]).await.wait().await?;
        ensure!(second.stored_bytes == CHUNK_BYTES, "{second:?}");
        // It grows, and shrinks, and all of it is another.
        let longer = [&state[..], &[7; 300_000]].concat();
        let third = job.save_all(3, vec![part("model", &longer)]).await?;
        ensure!((300_000..=300_000 + CHUNK_BYTES).contains(&third.stored_bytes), "{third:?}");
        let fourth = job.save_all(4, vec![part("model", &state[..1000])]).await?;
        ensure!(fourth.stored_bytes == 1000, "{fourth:?}");
        for (epoch, wanted) in [(1, None), (2, Some(&state)), (3, Some(&longer))] {
            let item = job.job().open(Some(epoch)).await?.item("model").await?;
            let mut restored = item.read_all(0..u64::MAX).await?;
            if epoch == 1 {
                restored[5 << 20] ^= 1;
            }
            ensure!(restored == *wanted.unwrap_or(&state), "epoch {epoch} is another");
        }
        // What only the removed epochs used is given back; what the others use stays.
        job.job().pin(2, true).await?;
        ensure!(job.job().prune(Keep { newest: Some(1), ..Keep::default() }, |_| ()).await? == [1, 3]);
        ensure!(job.job().epochs().await? == [2, 4]);
        cluster.kill(2)?;
        cluster.kill(5)?;
        let (_other, checkpoints) = self::checkpoints(&cluster).await?;
        let checkpoint = checkpoints.job("train").await?.open(Some(2)).await?;
        let item = checkpoint.part(0, "model").await?;
        ensure!(item.read_all(0..u64::MAX).await? == state, "with two nodes gone");
        for (from, len) in [(0, 1), (CHUNK_BYTES - 1, 2), (5 << 20, 70_000), (item.bytes() - 5, 100)] {
            let wanted = &state[from as usize..state.len().min((from + len) as usize)];
            ensure!(item.read_all(from..from + len).await? == wanted, "bytes {from}+{len}");
        }
        client.close().await;
        Ok(())
    })
}

async fn save_rank(job: &Incarnation, epoch: u64, rank: u32, ranks: u32, state: &[u8]) -> anyhow::Result<()> {
    let save = job.save(epoch, ranks).await?;
    let saving = save.rank(rank).await?;
    let total = state.len() as u64;
    let range = shard(total, 8, rank, ranks);
    let mut slice = saving.slice("weights", Slice { offset: range.start, total }).await?;
    slice.write(&state[range.start as usize..range.end as usize]).await?;
    slice.finish().await?;
    saving.save_part("own", PartSource::Bytes(vec![rank as u8; 10].into())).await?;
    saving.finish().await?;
    let saved = save.commit(Duration::from_secs(30)).await?;
    ensure!((saved.ranks, saved.bytes) == (ranks, total + 10 * u64::from(ranks)), "{saved:?}");
    Ok(())
}

fn ranks() -> anyhow::Result<()> {
    run(async |cluster| {
        let state = data::bytes(3, 0, STATE + 40);
        let (_first, checkpoints) = checkpoints(&cluster).await?;
        let number = checkpoints.take_over("solver").await?.number();
        let mut saving = Vec::new();
        for rank in 0..5 {
            let (client, checkpoints) = self::checkpoints(&cluster).await?;
            let job = checkpoints.join("solver", number).await?;
            let state = state.clone();
            saving.push(tokio::spawn(async move {
                let saved = save_rank(&job, 7, rank, 5, &state).await;
                client.close().await;
                saved
            }));
        }
        for saved in saving {
            saved.await??;
        }
        // One that comes late, or twice, changes nothing.
        let job = checkpoints.join("solver", number).await?;
        ensure!(matches!(job.save(7, 5).await, Err(Error::EpochGoesBack { latest: 7, .. })));
        let checkpoint = job.job().open(None).await?;
        let item = checkpoint.item("weights").await?;
        ensure!(item.bytes() == state.len() as u64);
        for ranks in [1, 3, 8] {
            for rank in 0..ranks {
                let range = shard(item.bytes(), 8, rank, ranks);
                let wanted = &state[range.start as usize..range.end as usize];
                ensure!(item.read_all(range).await? == wanted, "rank {rank} of {ranks}");
            }
        }
        ensure!(checkpoint.part(4, "own").await?.read_all(0..10).await? == [4; 10]);
        ensure!(checkpoint.item("own").await.is_err(), "five parts of one name are no item");
        Ok(())
    })
}

fn refusals() -> anyhow::Result<()> {
    run(async |cluster| {
        let (_client, checkpoints) = checkpoints(&cluster).await?;
        let old = checkpoints.take_over("job").await?;
        old.save_all(1, vec![part("state", b"one")]).await?;
        let half = old.save(2, 2).await?;
        let rank = half.rank(0).await?;
        rank.save_part("state", PartSource::Bytes(vec![1; 100].into())).await?;
        ensure!(
            matches!(half.rank(0).await, Err(Error::RankTwice { rank: 0, .. })),
            "two ranks with one number"
        );
        ensure!(matches!(half.rank(2).await, Err(Error::NoSuchRank { .. })));
        ensure!(matches!(rank.part("a/b").await, Err(Error::Name { .. })));
        ensure!(matches!(rank.part("state").await, Err(Error::Part { .. })), "a part twice");
        rank.finish().await?;
        let missing = half.commit(Duration::from_millis(100)).await;
        ensure!(
            matches!(&missing, Err(Error::MissingRanks { missing, .. }) if *missing == [1]),
            "{missing:?}"
        );
        // Slices that do not add up.
        let torn = old.save(3, 2).await?;
        for (rank, offset) in [(0, 0), (1, 9)] {
            let saving = torn.rank(rank).await?;
            let mut slice = saving.slice("w", Slice { offset, total: 20 }).await?;
            slice.write(&[0; 10]).await?;
            slice.finish().await?;
            saving.finish().await?;
        }
        let mismatch = torn.commit(Duration::ZERO).await;
        ensure!(matches!(mismatch, Err(Error::Mismatch { .. })), "{mismatch:?}");
        ensure!(matches!(old.save(1, 1).await, Err(Error::EpochGoesBack { .. })));
        // Another takes over: the old one commits nothing, though all of it is there.
        let late = old.save(4, 1).await?;
        let rank = late.rank(0).await?;
        rank.save_part("state", PartSource::Bytes(vec![4; 100].into())).await?;
        let new = checkpoints.take_over("job").await?;
        let ended = rank.finish().await;
        ensure!(matches!(ended, Err(Error::Fenced { mine: 1, current: 2, .. })), "{ended:?}");
        let committed = late.commit(Duration::ZERO).await;
        ensure!(matches!(committed, Err(Error::Fenced { .. })), "{committed:?}");
        ensure!(matches!(old.save(5, 1).await, Err(Error::Fenced { .. })));
        ensure!(new.job().epochs().await? == [1]);
        ensure!(new.job().open(None).await?.item("state").await?.read_all(0..9).await? == b"one");
        new.save_all(2, vec![part("state", b"two")]).await?;
        ensure!(new.job().open(None).await?.epoch() == 2);
        ensure!(matches!(checkpoints.job("none").await, Err(Error::NotFound { .. })));
        ensure!(matches!(checkpoints.take_over("../x").await, Err(Error::Name { .. })));
        Ok(())
    })
}

fn command() -> anyhow::Result<()> {
    let cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("model.bin");
    let state = data::bytes(9, 0, 3_000_000);
    fs::write(&file, &state)?;
    let rain = |args: &[&str]| -> anyhow::Result<serde_json::Value> {
        let output = Command::new(RAIN)
            .args(["--cluster", &cluster.addresses(), "checkpoint"])
            .args(args)
            .arg("--json")
            .output()?;
        ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let file = file.to_str().context("a name")?;
    ensure!(rain(&["save", "/main/train", file])?["stored_bytes"] == 3_000_000);
    let second = rain(&["save", "/main/train", file])?;
    ensure!(second["epoch"] == 1 && second["stored_bytes"] == 0, "{second}");
    // It is read through a mount like any other file.
    let epoch = mount.path().join(".checkpoints/train/0000000001");
    ensure!(fs::read(epoch.join("rank-00000/model.bin"))? == state);
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(epoch.join("rank-00000.json"))?)?;
    ensure!(manifest["parts"][0]["blake3"] == blake3::hash(&state).to_hex().as_str());
    let to = folder.path().join("restored");
    rain(&["restore", "/main/train", "--to", to.to_str().context("a name")?])?;
    ensure!(fs::read(to.join("model.bin"))? == state);
    ensure!(rain(&["list", "/main/train"])?.as_array().is_some_and(|epochs| epochs.len() == 2));
    ensure!(rain(&["prune", "/main/train", "--newest", "1"])?["removed"] == serde_json::json!([0]));
    // A damaged file is not restored, and the message names it.
    fs::write(epoch.join("rank-00000/model.bin"), data::bytes(10, 0, 3_000_000))?;
    let damaged = rain(&["restore", "/main/train", "--to", to.to_str().context("a name")?]);
    let error = damaged.err().context("it is damaged")?.to_string();
    ensure!(error.contains("rank-00000/model.bin is damaged"), "{error}");
    mount.unmount()
}

fn grpc() -> anyhow::Result<()> {
    use rain_proto::v1;
    use rain_proto::v1::checkpoint_client::CheckpointClient;
    use rain_proto::v1::save_rank_request::{Begin, Step};
    use tonic::Code;
    run(async |cluster| {
        let connect =
            async |node: u32| CheckpointClient::connect(format!("http://{}", cluster.address(node))).await;
        let name = || Some(v1::JobName { volume: "main".into(), job: "remote".into() });
        let incarnation =
            connect(1).await?.take_over(v1::TakeOverRequest { job: name() }).await?.into_inner().incarnation;
        let state = data::bytes(5, 0, 3_000_017);
        let messages = |rank: u32| {
            let (from, to) = if rank == 0 { (0, 1_000_000) } else { (1_000_000, state.len()) };
            let begin = Begin { job: name(), incarnation, epoch: 3, rank, ranks: 2, replace: false };
            let slice = Some(v1::ItemSlice { offset: from as u64, total: state.len() as u64 });
            let part = v1::SavedPart { name: "w".into(), slice, ..v1::SavedPart::default() };
            let pieces: Vec<Step> =
                state[from..to].chunks(300_000).map(|piece| Step::Data(piece.to_vec().into())).collect();
            let steps = [Step::Begin(begin), Step::Part(part)].into_iter().chain(pieces);
            steps.map(|step| v1::SaveRankRequest { step: Some(step) }).collect::<Vec<_>>()
        };
        // A stream that breaks off leaves nothing, so that the rank can be saved again.
        let wrong = [messages(1), vec![v1::SaveRankRequest { step: None }]].concat();
        let broken = connect(4).await?.save_rank(futures::stream::iter(wrong)).await;
        ensure!(broken.is_err_and(|status| status.code() == Code::InvalidArgument));
        for rank in [1, 0] {
            let saved =
                connect(2 + rank).await?.save_rank(futures::stream::iter(messages(rank))).await?.into_inner();
            ensure!(saved.parts.len() == 1 && saved.parts[0].stored_bytes == saved.parts[0].bytes);
        }
        let twice = connect(5).await?.save_rank(futures::stream::iter(messages(0))).await;
        ensure!(twice.is_err_and(|status| status.code() == Code::AlreadyExists));
        let commit = v1::CommitRequest { job: name(), incarnation, epoch: 3, ranks: 2, wait_ms: 5000 };
        for node in [6, 1] {
            let epoch = connect(node).await?.commit(commit.clone()).await?.into_inner().epoch;
            ensure!(epoch.is_some_and(|epoch| epoch.bytes == state.len() as u64), "twice is as good as once");
        }
        let restore = v1::RestoreRequest {
            job: name(),
            name: "w".into(),
            offset: 999_990,
            length: Some(2_000_000),
            ..v1::RestoreRequest::default()
        };
        let mut pieces = connect(5).await?.restore(restore).await?.into_inner();
        let mut restored = Vec::new();
        while let Some(piece) = pieces.message().await? {
            restored.extend_from_slice(&piece.data);
        }
        ensure!(restored == state[999_990..2_999_990]);
        let show = connect(3).await?.show(v1::ShowRequest { job: name(), epoch: None }).await?.into_inner();
        ensure!(show.ranks.len() == 2 && show.epoch == 3);
        connect(2).await?.take_over(v1::TakeOverRequest { job: name() }).await?;
        let late = connect(1).await?.commit(v1::CommitRequest { epoch: 4, ..commit }).await;
        ensure!(late.is_err_and(|status| status.code() == Code::Aborted), "another has taken over");
        let prune = v1::PruneRequest { job: name(), newest: Some(1), younger_than_secs: None };
        ensure!(connect(1).await?.prune(prune).await?.into_inner().removed.is_empty(), "the last one stays");
        Ok(())
    })
}

const CHAIN_STEPS: u64 = 2000;

/// A chain of hashes that leaves marks in a table. After each step something is done, such as a pause.
struct Chain {
    steps: u64,
    hash: [u8; 32],
    table: Vec<u8>,
    after: Box<dyn FnMut(u64) + Send>,
}

impl Chain {
    fn new(after: impl FnMut(u64) + Send + 'static) -> Chain {
        Chain { steps: 0, hash: [0; 32], table: Vec::new(), after: Box::new(after) }
    }

    fn advance(&mut self) {
        self.hash = *blake3::hash(&[&self.hash[..], &self.steps.to_le_bytes()].concat()).as_bytes();
        let at = u32::from_le_bytes([self.hash[0], self.hash[1], self.hash[2], 0]) as usize;
        let at = at % (self.table.len() - 32);
        self.table[at..at + 32].copy_from_slice(&self.hash);
        self.steps += 1;
    }

    /// The state after all steps, without faults.
    fn whole() -> Chain {
        let mut chain = Chain::new(|_| ());
        chain.table = data::bytes(7, 0, 3 << 20);
        (0..CHAIN_STEPS).for_each(|_| chain.advance());
        chain
    }
}

impl Program for Chain {
    fn init(&mut self, _rank: u32, _ranks: u32) -> Result<(), Failure> {
        (self.steps, self.hash, self.table) = (0, [0; 32], data::bytes(7, 0, 3 << 20));
        Ok(())
    }

    fn restore(&mut self, from: &Restoring) -> Result<(), Failure> {
        self.steps = from.steps();
        self.hash = from.part("hash")?.as_slice().try_into()?;
        self.table.clear();
        from.reader("table")?.read_to_end(&mut self.table)?;
        Ok(())
    }

    fn step(&mut self) -> Result<Step, Failure> {
        self.advance();
        (self.after)(self.steps);
        std::thread::sleep(Duration::from_millis(1));
        Ok(if self.steps == CHAIN_STEPS { Step::Finished } else { Step::More })
    }

    fn snapshot(&mut self) -> Result<Vec<Part>, Failure> {
        Ok(vec![Part::new("hash", self.hash.to_vec()), Part::new("table", self.table.clone())])
    }
}

/// A runner with a client of its own, that says when it has saved.
async fn new_runner(
    cluster: &TestCluster,
    job: &str,
    saved: UnboundedSender<u64>,
) -> anyhow::Result<(Arc<Client>, Runner)> {
    let (client, checkpoints) = checkpoints(cluster).await?;
    let runner = Runner::new(checkpoints, job)
        .every_steps(100)
        .keep(Keep { newest: Some(2), ..Keep::default() })
        .on_event(move |event| {
            if let Event::Saved { steps, .. } = event {
                let _ = saved.send(*steps);
            }
        });
    Ok((client, runner))
}

/// Changes the first bytes of a file.
async fn damage(client: &Arc<Client>, path: &[&str]) -> anyhow::Result<()> {
    let volume = client.volume("main").await?;
    let mut ino = volume.root();
    for name in path {
        ino = volume.lookup(ino, name.as_bytes()).await?.ino;
    }
    let file = volume.open(ino).await?;
    file.write(0, &[0xee; 64]).await?;
    file.flush().await?;
    Ok(())
}

fn program() -> anyhow::Result<()> {
    run(async |mut cluster| {
        let whole = Chain::whole();
        let (saved, mut saves) = unbounded_channel();
        // The process that is replaced learns it by a look, while it is paused, or by its next save.
        for (job, look_every, steps_most) in
            [("looks", Duration::from_millis(50), 1000), ("saves", Duration::from_secs(3600), 1500)]
        {
            // The first runner is dropped in the middle, with a save under way or soon after one.
            let (first, runner) = new_runner(&cluster, job, saved.clone()).await?;
            let (reached, mut at_step) = unbounded_channel();
            let after = move |step| {
                if step == 451 {
                    let _ = reached.send(step);
                }
            };
            let running = tokio::spawn(runner.run(Chain::new(after)));
            at_step.recv().await.context("step 451")?;
            running.abort();
            ensure!(running.await.is_err_and(|error| error.is_cancelled()));
            // The second goes on from its last save, and is paused.
            let (second, runner) = new_runner(&cluster, job, saved.clone()).await?;
            let (reached, mut at_step) = unbounded_channel();
            let (go_on, paused) = mpsc::channel::<()>();
            let after = move |step| {
                if step == 1000 {
                    let _ = reached.send(step);
                    let _ = paused.recv();
                }
            };
            let paused = tokio::spawn(runner.check_every(look_every).run(Chain::new(after)));
            at_step.recv().await.context("step 1000")?;
            // The third takes over, and loses the leader of the namespace after its first save.
            let (third, runner) = new_runner(&cluster, job, saved.clone()).await?;
            while saves.try_recv().is_ok() {}
            let running = tokio::spawn(runner.run(Chain::new(|_| ())));
            saves.recv().await.context("a save of the third")?;
            let leader = cluster.leader()?;
            cluster.kill(leader)?;
            let Finished { program, report } = running.await??;
            ensure!((program.hash, &program.table) == (whole.hash, &whole.table), "another result");
            ensure!(report.is_finished && report.steps == CHAIN_STEPS);
            let resumed = report.resumed.context("it was resumed")?;
            ensure!((500..=1000).contains(&resumed.steps), "{resumed:?}");
            ensure!(report.steps_here == CHAIN_STEPS - resumed.steps);
            // The second wakes up, and ends. Nothing of it is committed.
            go_on.send(())?;
            match paused.await? {
                Err(RunError::Fenced { steps, source: Error::Fenced { mine: 2, current: 3, .. } }) => {
                    ensure!((1000..=steps_most).contains(&steps), "{steps} steps");
                }
                Err(other) => return Err(other.into()),
                Ok(finished) => anyhow::bail!("it was replaced, and has gone on: {:?}", finished.report),
            }
            let (fourth, runner) = new_runner(&cluster, job, saved.clone()).await?;
            let Finished { program, report: again } = runner.run(Chain::new(|_| ())).await?;
            ensure!((program.hash, &program.table) == (whole.hash, &whole.table), "another result restored");
            ensure!(again.steps_here == 0 && again.is_finished && again.saves == 0, "{again:?}");
            ensure!(again.resumed.map(|resumed| resumed.epoch) == report.last_epoch, "{again:?}");
            let (_client, checkpoints) = checkpoints(&cluster).await?;
            ensure!(checkpoints.job(job).await?.epochs().await?.len() == 2);
            // The last epoch is damaged: the one before is restored, and the new one shares nothing with the damaged.
            let (damager, checkpoints) = self::checkpoints(&cluster).await?;
            let last = report.last_epoch.context("it has saved")?;
            damage(&damager, &[".checkpoints", job, &format!("{last:010}"), "rank-00000", "table"]).await?;
            let (fifth, runner) = new_runner(&cluster, job, saved.clone()).await?;
            let Finished { program, report } = runner.run(Chain::new(|_| ())).await?;
            ensure!(report.resumed.is_some_and(|resumed| resumed.epoch == last - 1), "{report:?}");
            ensure!((program.hash, &program.table) == (whole.hash, &whole.table), "another result");
            let restored = checkpoints.job(job).await?.open(report.last_epoch).await?.item("table").await?;
            ensure!(restored.read_all(0..u64::MAX).await? == whole.table, "it shares what is damaged");
            for client in [first, second, third, fourth, fifth, damager] {
                client.close().await;
            }
        }
        Ok(())
    })
}

/// A rank's share of cells that all change in each step.
struct Cells {
    first: u64,
    cells: Vec<u64>,
    steps: u64,
    last: (u64, Step),
}

const CELLS: u64 = 100_003;

impl Program for Cells {
    fn init(&mut self, rank: u32, ranks: u32) -> Result<(), Failure> {
        let range = shard(CELLS, 1, rank, ranks);
        (self.first, self.cells) = (range.start, range.collect());
        Ok(())
    }

    fn restore(&mut self, from: &Restoring) -> Result<(), Failure> {
        let (first, bytes) = from.item_share("cells", 8)?;
        let (cells, _) = bytes.as_chunks::<8>();
        self.cells = cells.iter().map(|cell| u64::from_le_bytes(*cell)).collect();
        (self.first, self.steps) = (first / 8, from.steps());
        Ok(())
    }

    fn step(&mut self) -> Result<Step, Failure> {
        self.steps += 1;
        self.cells.iter_mut().for_each(|cell| *cell = cell.wrapping_mul(6364136223846793005) ^ self.steps);
        Ok(if self.steps == self.last.0 { self.last.1 } else { Step::More })
    }

    fn snapshot(&mut self) -> Result<Vec<Part>, Failure> {
        let bytes: Vec<u8> = self.cells.iter().flat_map(|cell| cell.to_le_bytes()).collect();
        Ok(vec![Part::new("cells", bytes).slice_of(self.first * 8, CELLS * 8)])
    }
}

fn program_of_ranks() -> anyhow::Result<()> {
    run(async |cluster| {
        let (_client, checkpoints) = checkpoints(&cluster).await?;
        let cells = |last| Cells { first: 0, cells: Vec::new(), steps: 0, last };
        let mut last_cells = Vec::new();
        for (ranks, last) in [(2, (150, Step::Pause)), (3, (310, Step::Finished))] {
            let number = checkpoints.take_over("cells").await?.number();
            let mut running = Vec::new();
            for rank in 0..ranks {
                let (client, checkpoints) = self::checkpoints(&cluster).await?;
                let runner = Runner::new(checkpoints, "cells").incarnation(number).rank(rank, ranks);
                let run = runner.every_steps(100).run(cells(last));
                running.push(tokio::spawn(async move {
                    let finished = run.await;
                    client.close().await;
                    finished
                }));
            }
            last_cells.clear();
            for (rank, run) in running.into_iter().enumerate() {
                let Finished { program, report } = run.await??;
                let resumed = report.resumed.map(|resumed| resumed.steps);
                ensure!(resumed == (ranks == 3).then_some(150), "rank {rank}: {report:?}");
                ensure!(
                    (report.saves, report.saves_failed) == (u64::from(ranks), 0),
                    "rank {rank}: {report:?}"
                );
                ensure!(report.steps == last.0 && report.is_finished == (ranks == 3));
                last_cells.extend(program.cells);
            }
        }
        let mut wanted = cells((310, Step::Finished));
        wanted
            .init(0, 1)
            .and_then(|()| (0..310).try_for_each(|_| wanted.step().map(drop)))
            .map_err(|error| anyhow::anyhow!(error))?;
        ensure!(last_cells == wanted.cells, "another result");
        ensure!(checkpoints.job("cells").await?.epochs().await? == [0, 1, 2, 3, 4]);
        // What contradicts itself is refused before anything is taken over.
        for runner in [
            Runner::new(checkpoints.clone(), "cells"),
            Runner::new(checkpoints.clone(), "cells").every_steps(1).rank(0, 2),
            Runner::new(checkpoints.clone(), "cells").every(Duration::from_secs(1)).incarnation(2).rank(0, 2),
        ] {
            let refused = runner.run(cells((1, Step::Finished))).await;
            ensure!(matches!(refused, Err(RunError::Options { .. })));
        }
        ensure!(checkpoints.job("cells").await?.incarnation().await? == Some(2));
        Ok(())
    })
}
