//! One mount: what a program is told of its own file is what it has done to it.

use crate::{Promise, RAIN};
use anyhow::{Context, ensure};
use rain_tests::needs::Need;
use rain_tests::real::{ClusterOptions, TestCluster, TestMount};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

pub(crate) const PROMISES: &[Promise] = &[
    ("a_growing_file_is_never_shorter_than_what_was_written", &[Need::Mount], growing),
    ("a_file_that_is_cut_while_it_is_opened_keeps_nothing_of_its_old_length", &[Need::Mount], cut),
];

const FILES: usize = 60;

/// Bytes of one write: the page of a database.
const PAGE: usize = 8192;

/// How long the files grow. Faults of the first version showed within three seconds.
const GROW_FOR: Duration = Duration::from_secs(8);

struct Growing {
    file: File,
    size: u64,
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn growing() -> anyhow::Result<()> {
    let cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let other = TestMount::new(&cluster, "other")?;
    let dir = mount.path().join("files");
    fs::create_dir(&dir)?;
    // Another mount asks all the time. Its answers may be older; they must not matter here.
    let stop = Arc::new(AtomicBool::new(false));
    let asker = {
        let (stop, dir) = (stop.clone(), other.path().join("files"));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for at in 0..FILES {
                    let _ = fs::metadata(dir.join(format!("f{at}")));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        })
    };
    let grown = grow(&dir);
    stop.store(true, Ordering::Relaxed);
    asker.join().expect("the asker did not panic");
    let operations = grown?;
    eprintln!("{operations} operations");
    ensure!(operations > 500, "only {operations} operations");
    other.unmount()?;
    mount.unmount()
}

fn grow(dir: &Path) -> anyhow::Result<u64> {
    let page = [1; PAGE];
    let mut random = fastrand::Rng::with_seed(1);
    let mut files: Vec<Option<Growing>> = (0..FILES).map(|_| None).collect();
    let (begun, mut operations) = (Instant::now(), 0);
    while begun.elapsed() < GROW_FOR {
        operations += 1;
        let at = random.usize(..FILES);
        let path = dir.join(format!("f{at}"));
        if files[at].is_none() {
            files[at] = Some(Growing { file: open(&path)?, size: 0 });
        }
        let growing = files[at].as_mut().context("it was opened just now")?;
        match random.u32(..100) {
            0..45 => {
                growing.file.write_all_at(&page, growing.size)?;
                growing.size += PAGE as u64;
            }
            45..50 => growing.file.sync_all()?,
            50..58 => growing.file = open(&path)?,
            58..62 if growing.size > 0 => {
                open(&path)?.write_all_at(&page, growing.size)?;
                growing.size += PAGE as u64;
            }
            62..64 => {
                growing.file.set_len(0)?;
                growing.size = 0;
            }
            _ => {}
        }
        let size = growing.size;
        let told = [
            ("lseek", growing.file.seek(SeekFrom::End(0))?),
            ("fstat", growing.file.metadata()?.len()),
            ("stat", if random.u32(..10) < 3 { fs::metadata(&path)?.len() } else { size }),
        ];
        for (how, told) in told {
            ensure!(told == size, "operation {operations}, f{at}: {how} tells {told} bytes of {size}");
        }
        if size > 0 && random.u32(..10) < 2 {
            let offset = random.u64(..size / PAGE as u64) * PAGE as u64;
            let mut read = [0; PAGE];
            growing.file.read_exact_at(&mut read, offset)?;
            ensure!(read == page, "operation {operations}, f{at}: other bytes at {offset} than were written");
        }
    }
    Ok(operations)
}

fn cut() -> anyhow::Result<()> {
    let cluster = TestCluster::start(ClusterOptions::new(RAIN))?;
    let mount = TestMount::new(&cluster, "mnt")?;
    let path = mount.path().join("file");
    const ROUNDS: usize = 150;
    let barrier = Arc::new(Barrier::new(2));
    for round in 0..ROUNDS {
        fs::write(&path, vec![9; 9000])?;
        let held = open(&path)?;
        let cutter = {
            let (path, barrier) = (path.clone(), barrier.clone());
            std::thread::spawn(move || {
                barrier.wait();
                OpenOptions::new().write(true).open(path)?.set_len(0)
            })
        };
        barrier.wait();
        drop(held);
        open(&path)?.write_all_at(&[7; 10], 0)?;
        cutter.join().expect("the cutter did not panic")?;
        let found = fs::read(&path)?;
        // The write came after the cut, or before it.
        let good = found == [7; 10] || found.is_empty();
        ensure!(
            good,
            "round {round}: {} bytes, beginning with {:?}",
            found.len(),
            &found[..10.min(found.len())]
        );
        // The file is opened after the cut has returned.
        fs::write(&path, vec![9; 9000])?;
        File::options().write(true).open(&path)?.set_len(0)?;
        open(&path)?.write_all_at(&[7; 10], 0)?;
        ensure!(fs::read(&path)? == [7; 10], "round {round}: an old length came back");
    }
    mount.unmount()
}
