//! `rain bench fs`: the speed of a mounted directory as programs see it. Any directory can be measured, so
//! that a local disk or another filesystem can be compared.

use super::{Row, show};
use anyhow::Context;
use clap::Args;
use procfs::CurrentSI;
use rustix::fs::{Advice, fadvise};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Measure a directory: large and small reads and writes, many files.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain bench fs /tmp/rain --size-mb 512")]
pub(crate) struct BenchFs {
    /// The directory to measure. The files are made in a new directory in it, which is deleted at the end.
    folder: PathBuf,
    /// The length of the large file, MiB.
    #[arg(long, default_value_t = 256)]
    size_mb: u64,
    /// The number of small files.
    #[arg(long, default_value_t = 2000)]
    files: usize,
    /// The time for each row of random reads and writes, seconds.
    #[arg(long, default_value_t = 3)]
    runtime: u64,
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// A directory that is deleted when this is dropped, also after an error.
pub(super) struct Folder(pub(super) PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// CPU seconds that the whole machine has used; 0 if /proc cannot be read. Time that is idle, waits or was
/// stolen does not count.
fn cpu_seconds() -> f64 {
    let Ok(stat) = procfs::KernelStats::current() else { return 0.0 };
    let cpu = stat.total;
    let ticks = cpu.user + cpu.nice + cpu.system + cpu.irq.unwrap_or(0) + cpu.softirq.unwrap_or(0);
    ticks as f64 / procfs::ticks_per_second() as f64
}

/// Passes over all files of the row that reads cached attributes.
const STAT_PASSES: u32 = 16;

/// Drops the machine's caches, which only root may.
fn drop_caches() {
    rustix::fs::sync();
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
}

/// A xorshift generator: the same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

pub(super) struct Measure {
    pub(super) rows: Vec<Row>,
}

impl Measure {
    /// Adds a row: the amount that `work` returns, per second, or with the unit `s` the time that it takes.
    pub(super) fn row(
        &mut self,
        name: &str,
        unit: &'static str,
        work: impl FnOnce() -> anyhow::Result<f64>,
    ) -> anyhow::Result<()> {
        let (cpu, begun) = (cpu_seconds(), Instant::now());
        let done = work().with_context(|| name.to_owned())?;
        let wall = begun.elapsed().as_secs_f64();
        let value = if unit == "s" { wall } else { done / wall };
        self.rows.push(Row {
            row: name.into(),
            value,
            unit,
            cpu_s: Some(cpu_seconds() - cpu),
            wall_s: Some(wall),
        });
        Ok(())
    }
}

/// Runs `work` on this many threads, with the number of the thread. Returns the first error.
pub(super) fn on_threads(
    threads: usize,
    work: impl Fn(usize) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                let work = &work;
                scope.spawn(move || work(thread))
            })
            .collect();
        running
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })
}

impl BenchFs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let folder = Folder(self.folder.join(format!("rain-bench-{}", std::process::id())));
        fs::create_dir(&folder.0).with_context(|| folder.0.display().to_string())?;
        let mut measure = Measure { rows: Vec::new() };
        self.large(&mut measure, &folder.0)?;
        self.random(&mut measure, &folder.0)?;
        self.small(&mut measure, &folder.0)?;
        show(&measure.rows, self.json)
    }

    fn large(&self, measure: &mut Measure, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join("big");
        let mega = self.size_mb as f64 * 1.048576;
        let mut piece = vec![0u8; 1 << 20];
        let mut random = Random(88172645463325252);
        piece.iter_mut().for_each(|byte| *byte = random.below(256) as u8);
        measure.row("seq_write_1M_fsync", "MB/s", || {
            let mut file = File::create(&path)?;
            for _ in 0..self.size_mb {
                file.write_all(&piece)?;
            }
            file.sync_all()?;
            Ok(mega)
        })?;
        let mut read = || -> anyhow::Result<f64> {
            let file = File::open(&path)?;
            for at in 0..self.size_mb {
                file.read_exact_at(&mut piece, at << 20)?;
            }
            Ok(mega)
        };
        drop_caches();
        measure.row("seq_read_1M_cold", "MB/s", &mut read)?;
        fadvise(File::open(&path)?, 0, None, Advice::DontNeed)?;
        measure.row("seq_read_1M_bwarm", "MB/s", &mut read)?;
        measure.row("seq_read_1M_cached", "MB/s", &mut read)
    }

    fn random(&self, measure: &mut Measure, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join("big");
        let pages = self.size_mb * 256;
        let until = Duration::from_secs(self.runtime);
        let reads = |threads: usize| -> anyhow::Result<f64> {
            fadvise(File::open(&path)?, 0, None, Advice::DontNeed)?;
            let done = AtomicU64::new(0);
            on_threads(threads, |thread| {
                let file = File::open(&path)?;
                let (mut random, mut page) = (Random(thread as u64 + 1), [0u8; 4096]);
                let begun = Instant::now();
                while begun.elapsed() < until {
                    file.read_exact_at(&mut page, random.below(pages) * 4096)?;
                    done.fetch_add(1, Relaxed);
                }
                Ok(())
            })?;
            Ok(done.load(Relaxed) as f64)
        };
        drop_caches();
        measure.row("randread_4k_qd1_cold", "IOPS", || reads(1))?;
        drop_caches();
        measure.row("randread_4k_8j_cold", "IOPS", || reads(8))?;
        measure.row("randwrite_4k_8j_endfsync", "IOPS", || {
            let done = AtomicU64::new(0);
            on_threads(8, |thread| {
                let file = File::options().write(true).open(&path)?;
                let mut random = Random(thread as u64 + 101);
                let begun = Instant::now();
                while begun.elapsed() < until {
                    file.write_all_at(&[thread as u8; 4096], random.below(pages) * 4096)?;
                    done.fetch_add(1, Relaxed);
                }
                Ok(file.sync_all()?)
            })?;
            Ok(done.load(Relaxed) as f64)
        })?;
        measure.row("randwrite_4k_qd1_fsync1", "IOPS", || {
            let file = File::options().write(true).open(&path)?;
            let (mut random, mut done, begun) = (Random(7), 0u64, Instant::now());
            while begun.elapsed() < until {
                file.write_all_at(&[9; 4096], random.below(pages) * 4096)?;
                file.sync_all()?;
                done += 1;
            }
            Ok(done as f64)
        })?;
        Ok(fs::remove_file(&path)?)
    }

    fn small(&self, measure: &mut Measure, folder: &Path) -> anyhow::Result<()> {
        let all = self.files as f64;
        let (one, four) = (folder.join("one"), folder.join("four"));
        fs::create_dir(&one)?;
        fs::create_dir(&four)?;
        let each = |folder: &Path, threads: usize, work: &(dyn Fn(&Path) -> anyhow::Result<()> + Sync)| {
            on_threads(threads, |thread| {
                (thread..self.files)
                    .step_by(threads)
                    .try_for_each(|at| work(&folder.join(format!("f{at:06}"))))
            })
        };
        let create = |path: &Path| {
            Ok(File::options().write(true).create_new(true).open(path)?.write_all(&[5; 4096])?)
        };
        let read = |path: &Path| {
            // Not `fs::read`, which asks for the birth time first.
            let mut contents = [0; 4096];
            Ok(File::open(path)?.read_exact(&mut contents)?)
        };
        // What most programs ask for. `fs::metadata` asks for the birth time, too, which takes a request of its own.
        let stat = |path: &Path| Ok(rustix::fs::stat(path).map(|_| ())?);
        let stat_with_birth = |path: &Path| Ok(fs::metadata(path).map(|_| ())?);
        measure.row("create4k_1t", "files/s", || each(&one, 1, &create).map(|()| all))?;
        measure.row("create4k_4t", "files/s", || each(&four, 4, &create).map(|()| all))?;
        drop_caches();
        measure.row("stat_cold_1t", "ops/s", || each(&one, 1, &stat).map(|()| all))?;
        measure.row("stat_warm_1t", "ops/s", || {
            // One pass takes milliseconds. All are over before the kernel asks again.
            (0..STAT_PASSES).try_for_each(|_| each(&one, 1, &stat))?;
            Ok(all * f64::from(STAT_PASSES))
        })?;
        drop_caches();
        measure.row("stat_birth_cold_1t", "ops/s", || each(&one, 1, &stat_with_birth).map(|()| all))?;
        drop_caches();
        measure.row("readdir_cold", "ent/s", || Ok(fs::read_dir(&one)?.count() as f64))?;
        drop_caches();
        measure.row("ls_l_cold", "ent/s", || {
            let mut count = 0.0;
            for entry in fs::read_dir(&one)? {
                rustix::fs::lstat(entry?.path())?;
                count += 1.0;
            }
            Ok(count)
        })?;
        drop_caches();
        measure.row("read4k_cold_1t", "files/s", || each(&one, 1, &read).map(|()| all))?;
        drop_caches();
        measure.row("read4k_cold_4t", "files/s", || each(&four, 4, &read).map(|()| all))?;
        let rename = |path: &Path| {
            let other = path.with_extension("r");
            fs::rename(path, &other)?;
            Ok(fs::rename(&other, path)?)
        };
        measure.row("rename_x2_1t", "pairs/s", || each(&one, 1, &rename).map(|()| all))?;
        let unlink = |path: &Path| Ok(fs::remove_file(path)?);
        measure.row("unlink_1t", "files/s", || each(&one, 1, &unlink).map(|()| all))?;
        measure.row("unlink_4t", "files/s", || each(&four, 4, &unlink).map(|()| all))?;
        measure.row("write_tree_3000", "s", || {
            for at in 0..3000usize {
                let folder = folder.join(format!("tree/d{}", at / 50));
                if at % 50 == 0 {
                    fs::create_dir_all(&folder)?;
                }
                fs::write(folder.join(format!("f{at}")), vec![at as u8; 500 + at % 97 * 300])?;
            }
            Ok(3000.0)
        })?;
        measure.row("rm_rf_tree", "s", || Ok(fs::remove_dir_all(folder.join("tree")).map(|()| 3000.0)?))
    }
}
