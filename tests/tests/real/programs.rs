//! Programs in other languages, and the command line, against a real cluster.

use crate::{Promise, RAIN};
use anyhow::{Context, ensure};
use rain_tests::data;
use rain_tests::needs::{self, Need};
use rain_tests::real::{ClusterOptions, TestCluster, TestMount};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::Duration;

pub(crate) const PROMISES: &[Promise] = &[
    ("a_python_program_stores_and_retrieves_files", &[Need::PythonGrpc], python),
    ("put_get_ls_stat_rm_work_without_a_mount", &[], commands),
    ("everyday_file_calls_behave_as_on_a_local_disk", &[Need::Mount], everyday),
    ("every_code_keeps_files_while_as_many_nodes_are_gone_as_it_bears", &[], every_code),
    ("repairs_read_less_than_whole_shares_where_the_code_allows_it", &[], cheap_repairs),
    ("a_file_opened_at_the_moment_it_is_removed_is_whole_or_not_there", &[Need::Mount], opened_and_removed),
    ("a_stop_and_start_of_every_node_keeps_everything", &[], restart_all),
];

fn every_code() -> anyhow::Result<()> {
    // The node with the namespace stays; of the other six two are killed.
    let mut options = ClusterOptions::new(RAIN);
    options.nodes = 7;
    let mut cluster = TestCluster::start(options)?;
    let bears_two = [
        ("rdp", "4+2"),
        ("rdp", "5+2"),
        ("evenodd", "3+2"),
        ("star", "4+3"),
        ("xcode", "3+2"),
        ("xcode", "5+2"),
        ("bcode", "4+2"),
        ("cauchy", "4+2"),
        ("cauchy", "3+3"),
        ("mirror", "1+2"),
        ("rs", "4+3"),
    ];
    let bears_none = [("parity", "4+1")];
    let local = cluster.folder().join("local").display().to_string();
    let back = cluster.folder().join("back").display().to_string();
    fs::write(&local, data::bytes(77, 0, 2_345_678))?;
    for (number, (codec, code)) in bears_two.iter().chain(&bears_none).enumerate() {
        let volume = format!("v{number}");
        cluster.rain(&["volume", "create", &volume, "--code", code, "--codec", codec])?;
        cluster.rain(&["put", &local, &format!("/{volume}/file")])?;
    }
    let read = |cluster: &TestCluster, number: usize| -> anyhow::Result<()> {
        cluster.rain(&["get", &format!("/v{number}/file"), &back])?;
        ensure!(fs::read(&back)? == data::bytes(77, 0, 2_345_678), "other bytes");
        fs::remove_file(&back)?;
        Ok(())
    };
    for number in 0..bears_two.len() + bears_none.len() {
        read(&cluster, number).with_context(|| format!("volume v{number}, all nodes up"))?;
    }
    cluster.kill(4)?;
    cluster.kill(6)?;
    for (number, (codec, code)) in bears_two.iter().enumerate() {
        read(&cluster, number).with_context(|| format!("{codec} {code} with two nodes gone"))?;
        cluster
            .rain(&["put", &local, &format!("/v{number}/another")])
            .with_context(|| format!("writing {codec} {code} with two nodes gone"))?;
    }
    cluster.restart_all()?;
    cluster.wait_repaired(Duration::from_secs(60))?;
    cluster.kill(2)?;
    cluster.kill(3)?;
    for (number, (codec, code)) in bears_two.iter().enumerate() {
        read(&cluster, number).with_context(|| format!("{codec} {code} with two others gone"))?;
    }
    Ok(())
}

/// Attempts at a measurement that other load on the machine may spoil.
const ATTEMPTS: usize = 3;

fn cheap_repairs() -> anyhow::Result<()> {
    let mut options = ClusterOptions::new(RAIN);
    options.nodes = 7;
    let mut cluster = TestCluster::start(options)?;
    let local = cluster.folder().join("local").display().to_string();
    let back = cluster.folder().join("back").display().to_string();
    fs::write(&local, data::bytes(78, 0, 24 << 20))?;
    let counted = |cluster: &TestCluster| -> anyhow::Result<[u64; 2]> {
        let status = cluster.status()?;
        let of = |what: &str| status["repair"][what].as_u64().context("the leader's repairs");
        Ok([of("read")?, of("bytes")?])
    };
    let leader = cluster.leader()?;
    let away = if leader == 7 { 6 } else { 7 };
    // Bytes read for each byte made, of k for whole shares; rs knows no better, and its figure shows that
    // they are counted. All codes have a share on every node: where there is a choice, new blocks go where
    // all nodes are up.
    for (codec, code, k, least, most) in
        [("rdp", "5+2", 5.0, 0.70, 0.86), ("cauchy", "4+3", 4.0, 0.70, 0.86), ("rs", "5+2", 5.0, 0.99, 1.01)]
    {
        cluster.rain(&["volume", "create", codec, "--code", code, "--codec", codec])?;
        // On a busy machine a late node costs a hedge, or a second share of a block. A calm attempt shows the
        // code.
        let holds = |parts: &[f64]| parts.last().is_some_and(|part| (least..most).contains(part));
        let mut parts = Vec::new();
        while parts.len() < ATTEMPTS && !holds(&parts) {
            let before = counted(&cluster)?;
            cluster.kill(away)?;
            cluster.rain(&["put", &local, &format!("/{codec}/file")])?;
            cluster.restart(away)?;
            cluster.wait_repaired(Duration::from_secs(60))?;
            let after = counted(&cluster)?;
            let [read, made] = [0, 1].map(|at| (after[at] - before[at]) as f64);
            ensure!(made > 1e6, "{codec}: {made} bytes made");
            parts.push(read / made / k);
        }
        ensure!(holds(&parts), "{codec}: {parts:.3?} of {k} whole shares were read");
        // The rebuilt shares are right: with two other nodes gone, reading needs them.
        let gone: Vec<u32> = (1..=7).filter(|node| ![leader, away].contains(node)).take(2).collect();
        gone.iter().try_for_each(|node| cluster.kill(*node))?;
        cluster.rain(&["get", &format!("/{codec}/file"), &back])?;
        ensure!(fs::read(&back)? == data::bytes(78, 0, 24 << 20), "{codec}: other bytes");
        fs::remove_file(&back)?;
        cluster.restart_all()?;
    }
    Ok(())
}

/// For a cached name, the kernel lets an open and the removal of the name run at the same time.
fn opened_and_removed() -> anyhow::Result<()> {
    let cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let (mut whole, mut gone) = (0, 0);
    for round in 0..400u64 {
        let path = mount.path().join(format!("f{round}"));
        let len = if round % 2 == 0 { 1000 } else { 20_000 };
        fs::write(&path, data::bytes(round, 0, len))?;
        let together = Barrier::new(2);
        let opened = std::thread::scope(|scope| -> anyhow::Result<_> {
            let opener = scope.spawn(|| {
                together.wait();
                std::thread::sleep(Duration::from_micros(round % 20 * 600));
                fs::File::open(&path)
            });
            together.wait();
            fs::remove_file(&path)?;
            Ok(opener.join().expect("the opener does not panic"))
        })?;
        match opened {
            Ok(mut file) => {
                let mut read = Vec::new();
                file.read_to_end(&mut read).with_context(|| format!("round {round}: reading"))?;
                ensure!(read == data::bytes(round, 0, len), "round {round}: {} bytes", read.len());
                whole += 1;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => gone += 1,
            Err(error) => return Err(error).with_context(|| format!("round {round}: opening")),
        }
    }
    ensure!(whole > 0 && gone > 0, "the two never met: {whole} before, {gone} after");
    // The data of a removed file is freed soon after it was closed.
    let begun = std::time::Instant::now();
    loop {
        let status = cluster.status()?;
        if status["volumes"][0]["inodes"] == 1 {
            return mount.unmount();
        }
        ensure!(begun.elapsed() < Duration::from_secs(20), "removed files are kept: {status}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn python() -> anyhow::Result<()> {
    let cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(needs::python())
        .arg(here.join("python/store.py"))
        .arg(here.join("../proto/proto"))
        // Any node will do: the third one does not keep the namespace.
        .arg(cluster.address(3))
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", String::from_utf8_lossy(&output.stdout));
    ensure!(output.stdout.ends_with(b"all right\n"), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

fn commands() -> anyhow::Result<()> {
    let cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let local = cluster.folder().join("local");
    fs::write(&local, data::bytes(5, 0, 3_000_000))?;
    let local = local.display().to_string();
    cluster.rain(&["put", &local, "/main/a"])?;
    let back = cluster.folder().join("back").display().to_string();
    cluster.rain(&["get", "/main/a", &back])?;
    ensure!(fs::read(&back)? == data::bytes(5, 0, 3_000_000));
    let stat: serde_json::Value = serde_json::from_str(&cluster.rain(&["stat", "/main/a", "--json"])?)?;
    ensure!(stat["size"] == 3_000_000, "{stat}");
    let listed: serde_json::Value = serde_json::from_str(&cluster.rain(&["ls", "/main", "--json"])?)?;
    ensure!(listed.to_string().contains("\"a\""), "{listed}");
    let explained = cluster.rain(&["explain", "/main/a"])?;
    ensure!(explained.contains("rdp 4+2") && explained.contains("present"), "{explained}");
    let volumes = cluster.rain(&["volume", "list"])?;
    ensure!(volumes.contains("main"), "{volumes}");
    let status = cluster.rain(&["status"])?;
    ensure!(status.starts_with("healthy"), "{status}");
    cluster.rain(&["rm", "/main/a"])?;
    let output = cluster.rain_output(&["stat", "/main/a"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("/main/a"), "{}: {said}", output.status);
    let output = cluster.rain_output(&["volume", "create", "wide", "--code", "8+2"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("10") && said.contains('6'), "{said}");
    ensure!(cluster.rain_output(&["nonsense"])?.status.code() == Some(2), "an unknown verb is a usage error");
    // Another code on the same nodes.
    cluster.rain(&["volume", "create", "mirror", "--code", "1+2", "--codec", "rs"])?;
    cluster.rain(&["put", &local, "/mirror/a"])?;
    cluster.rain(&["get", "/mirror/a", &back])?;
    ensure!(fs::read(&back)? == data::bytes(5, 0, 3_000_000));
    Ok(())
}

fn everyday() -> anyhow::Result<()> {
    let cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let output = Command::new(needs::python())
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python/everyday.py"))
        .arg(mount.path())
        .stdin(Stdio::null())
        .output()
        .context("python3")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", String::from_utf8_lossy(&output.stdout));
    ensure!(output.stdout.ends_with(b"all right\n"), "{}", String::from_utf8_lossy(&output.stdout));
    mount.unmount()
}

fn restart_all() -> anyhow::Result<()> {
    let mut cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let local = cluster.folder().join("local");
    fs::write(&local, data::bytes(6, 0, 1_234_567))?;
    let local = local.display().to_string();
    cluster.rain(&["put", &local, "/main/a"])?;
    for node in (1..=6).rev() {
        cluster.stop(node)?;
    }
    cluster.restart_all()?;
    let back = cluster.folder().join("back").display().to_string();
    cluster.rain(&["get", "/main/a", &back])?;
    ensure!(fs::read(&back)? == data::bytes(6, 0, 1_234_567));
    for node in 1..=6 {
        ensure!(!cluster.log(node).contains("ERROR"), "node {node}: {}", cluster.log(node));
    }
    Ok(())
}
