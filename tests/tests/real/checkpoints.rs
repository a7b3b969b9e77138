//! Checkpoints of jobs on real nodes: whole or absent, shared with the epoch before, and there with m nodes gone.

use crate::{Promise, RAIN};
use anyhow::{Context, ensure};
use rain_checkpoint::{CHUNK_BYTES, Checkpoints, Error, Incarnation, Keep, PartSource, Slice, shard};
use rain_client::{Client, Options};
use rain_tests::data;
use rain_tests::needs::Need;
use rain_tests::real::{ClusterOptions, TestCluster, TestMount};
use std::fs;
use std::future::Future;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const PROMISES: &[Promise] = &[
    ("an_epoch_is_shared_with_the_one_before_and_whole_with_m_nodes_gone", &[], epochs),
    ("ranks_on_any_clients_commit_together_and_can_be_cut_for_another_number", &[], ranks),
    ("who_was_replaced_commits_nothing_and_bad_input_leaves_the_last_epoch", &[], refusals),
    ("programs_in_any_language_save_and_restore_over_grpc_by_any_node", &[], grpc),
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
