//! Programs in other languages, and the command line, against a real cluster.

use crate::{Promise, RAIN};
use anyhow::{Context, ensure};
use rain_tests::data;
use rain_tests::needs::{self, Need};
use rain_tests::real::{ClusterOptions, TestCluster, TestMount};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

pub(crate) const PROMISES: &[Promise] = &[
    ("a_python_program_stores_and_retrieves_files", &[Need::PythonGrpc], python),
    ("put_get_ls_stat_rm_work_without_a_mount", &[], commands),
    ("everyday_file_calls_behave_as_on_a_local_disk", &[Need::Mount], everyday),
    ("a_stop_and_start_of_every_node_keeps_everything", &[], restart_all),
];

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
