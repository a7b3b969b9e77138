//! Bad input: every case gets a clear error and loses no data.

use crate::{Promise, RAIN};
use anyhow::{Context, ensure};
use rain_proto::v1;
use rain_proto::v1::node_client::NodeClient;
use rain_proto::v1::shares_client::SharesClient;
use rain_tests::data;
use rain_tests::needs::Need;
use rain_tests::real::{ClusterOptions, TestCluster, TestMount};
use rain_types::NodeId;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(crate) const PROMISES: &[Promise] = &[
    ("names_of_any_bytes_up_to_255_work_and_longer_ones_are_refused", &[Need::Mount], names),
    ("a_sparse_file_of_five_tebibytes_costs_only_its_data", &[Need::Mount], sparse),
    ("a_full_node_costs_margin_and_three_full_nodes_are_enospc_with_nothing_lost", &[Need::Mount], full),
    ("disks_that_are_full_for_real_are_enospc_with_nothing_lost", &[Need::Mount, Need::Root], full_disks),
    ("a_full_disk_of_the_namespace_refuses_changes_and_passes", &[Need::Mount, Need::Root], full_metadata),
    ("an_unknown_key_in_the_config_file_is_named", &[], unknown_key),
    ("mounting_a_volume_that_does_not_exist_says_so", &[Need::Mount], no_volume),
    ("lengths_that_lie_are_refused", &[], lies),
    ("a_node_listens_beyond_loopback_only_when_told_it_is_insecure", &[], beyond_loopback),
    ("a_second_daemon_on_a_data_folder_is_refused_while_the_first_runs", &[], second_daemon),
];

fn errno(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

fn names() -> anyhow::Result<()> {
    let cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let longest = mount.path().join("n".repeat(255));
    fs::write(&longest, "x")?;
    ensure!(fs::read(&longest)? == b"x");
    let error = fs::write(mount.path().join("n".repeat(256)), "x").expect_err("256 bytes");
    ensure!(errno(&error) == 36, "a name of 256 bytes: {error}, not ENAMETOOLONG");
    let odd: &[u8] = &[0xff, 0xfe, b' ', b'\n', 0x80, b'"'];
    fs::write(mount.path().join(OsStr::from_bytes(odd)), "odd")?;
    let listed: Vec<_> =
        fs::read_dir(mount.path())?.map(|entry| Ok(entry?.file_name())).collect::<anyhow::Result<_>>()?;
    ensure!(listed.iter().any(|name| name.as_bytes() == odd), "{listed:?}");
    fs::remove_file(mount.path().join(OsStr::from_bytes(odd)))?;

    // The longest path that the kernel accepts: 4095 bytes and the final 0.
    let part = "d".repeat(240);
    let mut path = mount.path().to_owned();
    while path.as_os_str().len() + part.len() + 1 < 4000 {
        path.push(&part);
    }
    fs::create_dir_all(&path)?;
    let left = 4095 - path.as_os_str().len() - 1;
    let last = path.join("f".repeat(left.min(255)));
    fs::write(&last, "deep")?;
    ensure!(fs::read(&last)? == b"deep");
    let error = fs::write(path.join("f".repeat(left + 1)), "x").expect_err("4096 bytes");
    ensure!(errno(&error) == 36, "a path of 4096 bytes: {error}");
    mount.unmount()
}

fn sparse() -> anyhow::Result<()> {
    let cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let path = mount.path().join("sparse");
    let file = fs::File::create(&path)?;
    let size = 5u64 << 40;
    file.set_len(size)?;
    file.write_all_at(b"near the end", size - 100)?;
    file.sync_all()?;
    drop(file);
    ensure!(fs::metadata(&path)?.len() == size);
    let file = fs::File::open(&path)?;
    let mut piece = vec![1; 4096];
    file.read_exact_at(&mut piece, 3 << 40)?;
    ensure!(piece.iter().all(|byte| *byte == 0), "a hole reads as zeros");
    let mut end = vec![1; 100];
    file.read_exact_at(&mut end, size - 100)?;
    ensure!(end.starts_with(b"near the end") && end[12..].iter().all(|byte| *byte == 0));
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&path)?);
    ensure!(blocks < 1000, "{blocks} blocks of 512 bytes for 12 bytes of data");
    drop(file);
    fs::remove_file(&path)?;
    mount.unmount()
}

fn full() -> anyhow::Result<()> {
    let mut options = ClusterOptions::new(RAIN);
    options.nodes = 6;
    let mut cluster = TestCluster::start(options)?;
    let limit = |cluster: &mut TestCluster, node: u32| -> anyhow::Result<()> {
        cluster.stop(node)?;
        cluster.restart_with(node, &["--capacity", "16777216"])
    };
    // One node has room for its shares of about 64 MiB of data; the others have room for all.
    limit(&mut cluster, 2)?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let mib = 1u64 << 20;
    let write = |name: &str, seed: u64, len: u64| -> std::io::Result<()> {
        let file = fs::File::create(mount.path().join(name))?;
        let mut offset = 0;
        while offset < len {
            file.write_all_at(&data::bytes(seed, offset, mib as usize), offset)?;
            offset += mib;
        }
        file.sync_all()
    };
    write("first", 1, 90 * mib).context("one full node of six")?;
    data::check(&mount.path().join("first"), 1, 90 * mib)?;
    let missing = cluster.status()?["missing"]["shares"].as_u64().context("missing")?;
    ensure!(missing > 0, "the full node should miss shares");
    // With two more full nodes, fewer than k nodes have room.
    mount.unmount()?;
    limit(&mut cluster, 3)?;
    limit(&mut cluster, 4)?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let path = mount.path().to_owned();
    let write = |name: &str, seed: u64, len: u64| -> std::io::Result<()> {
        let file = fs::File::create(path.join(name))?;
        let mut offset = 0;
        while offset < len {
            file.write_all_at(&data::bytes(seed, offset, mib as usize), offset)?;
            offset += mib;
        }
        file.sync_all()
    };
    let error = write("second", 2, 90 * mib).expect_err("three full nodes of six");
    ensure!(errno(&error) == 28, "three full nodes: {error}, not ENOSPC");
    // No data is lost, and deleting frees space.
    data::check(&mount.path().join("first"), 1, 90 * mib)?;
    fs::remove_file(mount.path().join("second"))?;
    fs::remove_file(mount.path().join("first"))?;
    let begun = std::time::Instant::now();
    while let Err(error) = write("third", 3, 8 * mib) {
        ensure!(errno(&error) == 28, "after deleting: {error}");
        // A node that is stopped while it opens a session of its own leaves that session to its lease of 30 s. Until
        // then no removed file is freed.
        ensure!(begun.elapsed().as_secs() < 60, "no space 60 s after deleting everything");
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    data::check(&mount.path().join("third"), 3, 8 * mib)?;
    mount.unmount()
}

/// Writes a file in pieces of 1 MiB and fsyncs it.
fn write(path: &Path, seed: u64, mib: u64) -> std::io::Result<()> {
    let file = fs::File::create(path)?;
    for at in 0..mib {
        file.write_all_at(&data::bytes(seed, at << 20, 1 << 20), at << 20)?;
    }
    file.sync_all()
}

/// Repeats a write until it succeeds. Every error before must be "no space". Fails after 30 s.
fn write_once_there_is_room(path: &Path, seed: u64, mib: u64) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    while let Err(error) = write(path, seed, mib) {
        ensure!(errno(&error) == 28, "{error}, not ENOSPC");
        ensure!(begun.elapsed().as_secs() < 30, "no space 30 s after some was freed");
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    data::check(path, seed, mib << 20)
}

fn full_disks() -> anyhow::Result<()> {
    let mut options = ClusterOptions::new(RAIN);
    options.disks = vec![(2, 256), (3, 256), (4, 256)];
    let mut cluster = TestCluster::start(options)?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let path = |name: &str| mount.path().join(name);
    write(&path("first"), 1, 40)?;
    // Each node takes a quarter of the written bytes, so this fills the disk of node 2.
    cluster.fill_disk(2, 36)?;
    write(&path("second"), 2, 40).context("one full disk of six")?;
    let missing = cluster.status()?["missing"]["shares"].as_u64().context("missing")?;
    ensure!(missing > 0, "the node with the full disk should miss shares");
    cluster.fill_disk(3, 3)?;
    cluster.fill_disk(4, 0)?;
    let error = write(&path("third"), 3, 40).expect_err("three full disks of six");
    ensure!(errno(&error) == 28, "three full disks: {error}, not ENOSPC");
    data::check(&path("first"), 1, 40 << 20)?;
    data::check(&path("second"), 2, 40 << 20)?;
    // A node with a full disk can stop, start and be killed.
    cluster.stop(2)?;
    cluster.restart(2)?;
    cluster.kill(4)?;
    cluster.restart(4)?;
    for (seed, name) in [(1, "first"), (2, "second")] {
        data::check(&path(name), seed, 40 << 20).with_context(|| format!("{name} after the restarts"))?;
    }
    for node in 2..=4 {
        cluster.free_disk(node)?;
    }
    write_once_there_is_room(&path("fourth"), 4, 20)?;
    cluster.wait_repaired(std::time::Duration::from_secs(60))?;
    // The three nodes with full disks have their shares too: without two others all files are readable.
    cluster.kill(5)?;
    cluster.kill(6)?;
    mount.unmount()?;
    let mount = TestMount::new(&cluster, "again")?;
    for (seed, name, mib) in [(1, "first", 40), (2, "second", 40), (4, "fourth", 20)] {
        data::check(&mount.path().join(name), seed, mib << 20)
            .with_context(|| format!("{name} at the end"))?;
    }
    mount.unmount()
}

fn full_metadata() -> anyhow::Result<()> {
    let mut options = ClusterOptions::new(RAIN);
    options.disks = vec![(1, 512)];
    let mut cluster = TestCluster::start(options)?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let path = |name: String| mount.path().join(name);
    write(&path("before".into()), 1, 8)?;
    cluster.fill_disk(1, 0)?;
    // Segments of the log are allocated ahead, so changes succeed for a while. Then they must fail, and not
    // hang.
    let mut made = 0u32;
    let error = loop {
        let name = format!("{made:06}-{}", "n".repeat(200));
        match fs::create_dir(path(name)) {
            Ok(()) => made += 1,
            Err(error) => break error,
        }
        ensure!(made < 400_000, "{made} directories were created on a full disk");
    };
    ensure!(errno(&error) == 28, "after {made} more: {error}, not ENOSPC");
    data::check(&path("before".into()), 1, 8 << 20)?;
    ensure!(fs::read_dir(mount.path())?.count() == made as usize + 1);
    cluster.free_disk(1)?;
    write_once_there_is_room(&path("after".into()), 2, 8)?;
    // The new file is durable: it survives a crash.
    cluster.kill(1)?;
    cluster.restart(1)?;
    data::check(&path("after".into()), 2, 8 << 20)?;
    ensure!(fs::read_dir(mount.path())?.count() == made as usize + 2);
    mount.unmount()
}

fn storaged(args: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let output = std::process::Command::new(RAIN).arg("storaged").args(args).output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn unknown_key() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("node.toml");
    fs::write(&path, "node-id = 1\nwitness = true\ndata = \"/nowhere\"\ncolour = \"red\"\n")?;
    let (code, said) = storaged(&["--config", &path.display().to_string()])?;
    ensure!(code == Some(2) && said.contains("colour") && said.contains("node.toml"), "{code:?}: {said}");
    Ok(())
}

fn beyond_loopback() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().display().to_string();
    let args =
        ["--data", &data, "--listen", "0.0.0.0:0", "--peers", "10.255.255.1:7400", "--exit-with-parent"];
    let (code, said) = storaged(&args)?;
    ensure!(code == Some(0) && said.contains("nothing is encrypted"), "{code:?}: {said}");
    let trusted = [&args[..], &["--insecure"]].concat();
    let (code, said) = storaged(&trusted)?;
    ensure!(code == Some(0) && !said.contains("nothing is encrypted"), "{code:?}: {said}");
    Ok(())
}

fn second_daemon() -> anyhow::Result<()> {
    let cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let data = cluster.data(1).display().to_string();
    let peers = cluster.addresses();
    let args = ["--data", &data, "--listen", "127.0.0.1:0", "--peers", &peers, "--exit-with-parent"];
    let (code, said) = storaged(&args)?;
    ensure!(code == Some(1) && said.contains("in use by another storaged"), "{code:?}: {said}");
    Ok(())
}

fn no_volume() -> anyhow::Result<()> {
    let cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let folder = cluster.folder().join("mnt");
    fs::create_dir(&folder)?;
    let source = format!("{}:/nothere", cluster.addresses());
    let output = std::process::Command::new(RAIN).args(["mount", &source]).arg(&folder).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("nothere"), "{}: {said}", output.status);
    Ok(())
}

fn lies() -> anyhow::Result<()> {
    let cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let url = format!("http://{}", cluster.address(2));
        let described =
            NodeClient::connect(url.clone()).await?.describe(v1::DescribeRequest {}).await?.into_inner();
        let own =
            (described.cluster.parse().map_err(|_| anyhow::anyhow!("no cluster"))?, NodeId(described.node));
        let to = || Some(rain_proto::convert::addressee(own.0, own.1));
        let mut shares = SharesClient::connect(url).await?;
        let key = |index| Some(v1::ShareKey { block: Some(v1::BlockId { session: 9, seq: 9 }), index });
        let code = Some(v1::Code { codec: 2, k: 4, m: 2 });
        let good: Vec<u8> = (0..4096u32).map(|at| (at / 64 * 3 + at) as u8).collect();
        let crcs = rain_proto::convert::checksum_table(&rain_client::block::chunk_checksums(&good));
        let put = |index, block_len, crcs: &bytes::Bytes, payload: &[u8]| v1::PutShareRequest {
            key: key(index),
            code,
            block_len,
            chunk_crcs: crcs.clone(),
            payload: payload.to_vec().into(),
            to: to(),
            mandate: None,
        };
        let wrong_crcs = rain_proto::convert::checksum_table(&[5]);
        let lies = [
            ("a longer block", put(0, 1 << 20, &crcs, &good)),
            ("an impossible block", put(0, u32::MAX, &crcs, &good)),
            ("an empty block", put(0, 0, &crcs, &good)),
            ("a share past the last", put(6, 16_384, &crcs, &good)),
            ("another checksum", put(0, 16_384, &wrong_crcs, &good)),
            ("too few checksums", put(0, 16_384, &bytes::Bytes::new(), &good)),
            ("no key", v1::PutShareRequest { key: None, ..put(0, 16_384, &crcs, &good) }),
            ("no code", v1::PutShareRequest { code: None, ..put(0, 16_384, &crcs, &good) }),
        ];
        for (what, lie) in lies {
            let status = shares.put(lie).await.expect_err(what);
            ensure!(status.code() == tonic::Code::InvalidArgument, "{what}: {status}");
        }
        shares.put(put(0, 16_384, &crcs, &good)).await?;
        for (offset, length) in [(0, 5000), (4097, 1), (u32::MAX, 1), (1, u32::MAX)] {
            let status = shares
                .get(v1::GetShareRequest { key: key(0), offset, length, only: None, to: to() })
                .await
                .expect_err("past the end");
            ensure!(status.code() == tonic::Code::InvalidArgument, "{offset}+{length}: {status}");
        }
        let answer = shares
            .get(v1::GetShareRequest { key: key(0), offset: 100, length: 50, only: None, to: to() })
            .await?
            .into_inner();
        ensure!(answer.first_byte == 0 && answer.payload == good);
        // Rows of a share: the requested rows of a valid packet size are returned, and nonsense is refused.
        let rows = |row_bytes, stripe_rows, rows: &[u32]| v1::GetShareRequest {
            key: key(0),
            offset: 256,
            length: 512,
            only: Some(v1::Rows { row_bytes, stripe_rows, rows: rows.to_vec() }),
            to: to(),
        };
        // A node does nothing that is meant for another, and no client deletes.
        let other = Some(rain_proto::convert::addressee(own.0, NodeId(own.1.0 + 1)));
        let status = shares.put(v1::PutShareRequest { to: other, ..put(0, 16_384, &crcs, &good) }).await;
        let status = status.expect_err("meant for another node");
        ensure!(status.code() == tonic::Code::FailedPrecondition, "{status}");
        let delete = v1::DeleteSharesRequest { keys: key(0).into_iter().collect(), to: to(), mandate: None };
        let status = shares.delete(delete).await.expect_err("no leader's worker");
        ensure!(status.code() == tonic::Code::InvalidArgument, "{status}");
        let answer = shares.get(rows(64, 4, &[1, 3])).await?.into_inner();
        let expected = [320..384, 448..512, 576..640, 704..768].map(|range| &good[range]).concat();
        ensure!(answer.first_byte == 0 && answer.payload == expected);
        for (row_bytes, stripe_rows, which) in [
            (64, 4, &[3, 1][..]),
            (64, 4, &[1, 1]),
            (64, 4, &[4]),
            (64, 3, &[1]),
            (0, 4, &[1]),
            (64, 0, &[]),
            (u32::MAX, 2, &[1]),
        ] {
            let status = shares.get(rows(row_bytes, stripe_rows, which)).await.expect_err("no such rows");
            ensure!(status.code() == tonic::Code::InvalidArgument, "{status}");
        }
        Ok(())
    })?;
    // The node still works.
    cluster.rain(&["status"]).map(|_| ())
}
