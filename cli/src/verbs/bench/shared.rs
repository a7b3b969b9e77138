//! `rain bench shared`: what it costs that two mounts of one volume are one filesystem. Any two mounts of any
//! filesystem can be measured. The rows that count records also say how many were kept.

use super::fs::{Folder, Measure, on_threads};
use super::{Row, show};
use anyhow::Context;
use clap::Args;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Measure two mounts of one volume: files handed over, one directory and one file written by both.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain bench shared /mnt/one /mnt/two")]
pub(crate) struct BenchShared {
    /// A directory. The files are made in a new directory in it, which is deleted at the end.
    one: PathBuf,
    /// The same directory on another mount.
    other: PathBuf,
    /// The number of files, names and turns of each row; ten times as many records are appended.
    #[arg(long, default_value_t = 300)]
    count: usize,
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Bytes of a record that is appended.
const RECORD: usize = 128;

fn append_to(path: &Path) -> anyhow::Result<File> {
    Ok(OpenOptions::new().append(true).create(true).open(path)?)
}

impl BenchShared {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let name = format!("rain-bench-{}", std::process::id());
        let folder = Folder(self.one.join(&name));
        fs::create_dir(&folder.0).with_context(|| folder.0.display().to_string())?;
        let sides = [folder.0.clone(), self.other.join(&name)];
        let count = self.count;
        let mut measure = Measure { rows: Vec::new() };

        let content = [7; 4096];
        for at in 0..count {
            fs::write(sides[0].join(format!("f{at}")), content)?;
        }
        measure.row("read_4k_made_by_the_other", "/s", || {
            for at in 0..count {
                fs::read(sides[1].join(format!("f{at}")))?;
            }
            Ok(count as f64)
        })?;

        fs::create_dir(sides[0].join("both"))?;
        measure.row("create_in_one_directory_by_both", "/s", || {
            on_threads(2, |side| {
                for at in 0..count {
                    File::create(sides[side].join(format!("both/{side}-{at}")))?;
                }
                Ok(())
            })?;
            Ok(2.0 * count as f64)
        })?;
        let names = fs::read_dir(sides[1].join("both"))?.count();
        measure.rows.push(Row::new("names_kept", names as f64 * 100.0 / (2.0 * count as f64), "%"));

        let records = 10 * count;
        append_to(&sides[0].join("log"))?;
        measure.row("append_to_one_file_by_both", "/s", || {
            on_threads(2, |side| {
                let mut log = append_to(&sides[side].join("log"))?;
                for at in 0..records {
                    log.write_all(format!("{side}{at:0width$}", width = RECORD - 1).as_bytes())?;
                }
                Ok(())
            })?;
            Ok(2.0 * records as f64)
        })?;
        let log = fs::read(sides[1].join("log"))?;
        let kept = 100.0 * log.len() as f64 / (2 * records * RECORD) as f64;
        measure.rows.push(Row::new("records_kept", kept, "%"));

        let mut logs = [append_to(&sides[0].join("turns"))?, append_to(&sides[1].join("turns"))?];
        measure.row("append_to_one_file_by_turns", "/s", || {
            for _ in 0..count {
                for log in &mut logs {
                    log.write_all(b"turn\n")?;
                }
            }
            Ok(2.0 * count as f64)
        })?;
        measure.row("write_and_fstat_by_the_other", "/s", || {
            for _ in 0..count {
                logs[0].write_all(b"turn\n")?;
                logs[1].metadata()?;
            }
            Ok(count as f64)
        })?;

        File::create(sides[0].join("lock"))?;
        let locks = [File::open(sides[0].join("lock"))?, File::open(sides[1].join("lock"))?];
        measure.row("flock_handed_over", "/s", || {
            for _ in 0..count {
                for lock in &locks {
                    flock(lock, FlockOperation::LockExclusive)?;
                    flock(lock, FlockOperation::Unlock)?;
                }
            }
            Ok(2.0 * count as f64)
        })?;
        show(&measure.rows, self.json)
    }
}
