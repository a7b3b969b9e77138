//! `rain put` and `rain get`: files in and out without a mount.

use super::{open_path, split_last};
use crate::{connect, output};
use anyhow::{Context, ensure};
use clap::Args;
use rain_client::NewInode;
use rain_namespace::command::RenameMode;
use rain_namespace::record::FileKind;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The length of one read or write, bytes: a block.
const PIECE_BYTES: usize = 1 << 20;

/// Store a file. It replaces an older file of the name in one step, once it is durable.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rain put movie.mkv /main/movie.mkv\n  tar c . | rain put - /main/backup.tar"
)]
pub(crate) struct Put {
    /// The local file; - for standard input.
    from: PathBuf,
    /// /VOLUME/path.
    to: String,
}

/// Retrieve a file.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rain get /main/movie.mkv movie.mkv\n  rain get /main/backup.tar - | tar x"
)]
pub(crate) struct Get {
    /// /VOLUME/path.
    from: String,
    /// The local file; - for standard output.
    to: PathBuf,
}

impl Put {
    pub(crate) async fn run(self, given: Option<&str>) -> anyhow::Result<()> {
        let mut total = None;
        let mut input: Box<dyn Read> = if self.from == Path::new("-") {
            Box::new(std::io::stdin())
        } else {
            let file = File::open(&self.from).with_context(|| self.from.display().to_string())?;
            total = Some(file.metadata()?.len());
            Box::new(file)
        };
        let client = connect(given, "put").await?;
        let (volume, inside) = open_path(&client, &self.to).await?;
        let (dir, name) = split_last(inside)?;
        let parent =
            volume.resolve(dir.as_bytes()).await.with_context(|| format!("{}: {dir:?}", self.to))?.ino;
        let temporary = format!(".rain-put-{}-{}", client.session_id(), std::process::id());
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let new = NewInode::new(FileKind::File, 0o644, uid, gid);
        let created = volume.create(parent, temporary.as_bytes(), new).await;
        let (_, file) = created.with_context(|| self.to.clone())?;
        let bar = output::progress(total);
        let write = async {
            let mut piece = vec![0; PIECE_BYTES];
            let mut offset = 0;
            loop {
                let read = input.read(&mut piece).with_context(|| self.from.display().to_string())?;
                if read == 0 {
                    break;
                }
                file.write(offset, &piece[..read]).await?;
                offset += read as u64;
                bar.inc(read as u64);
            }
            file.flush().await?;
            volume.rename(parent, temporary.as_bytes(), parent, name.as_bytes(), RenameMode::Replace).await?;
            anyhow::Ok(())
        };
        let written = write.await.with_context(|| format!("storing {}", self.to));
        bar.finish_and_clear();
        if written.is_err() {
            let _ = volume.unlink(parent, temporary.as_bytes()).await;
        }
        client.close().await;
        written
    }
}

impl Get {
    pub(crate) async fn run(self, given: Option<&str>) -> anyhow::Result<()> {
        let client = connect(given, "get").await?;
        let (volume, inside) = open_path(&client, &self.from).await?;
        let attr = volume.resolve(inside.as_bytes()).await.with_context(|| self.from.clone())?;
        let file = volume.open(attr.ino).await.with_context(|| self.from.clone())?;
        let to_stdout = self.to == Path::new("-");
        let mut local = if to_stdout {
            None
        } else {
            Some(File::create(&self.to).with_context(|| self.to.display().to_string())?)
        };
        let bar = output::progress(Some(file.size()));
        let mut offset = 0;
        loop {
            let piece = file.read(offset, PIECE_BYTES as u32).await.with_context(|| self.from.clone())?;
            if piece.is_empty() {
                break;
            }
            match &mut local {
                Some(file) => file.write_all(&piece).with_context(|| self.to.display().to_string())?,
                None => output::raw(&piece)?,
            }
            offset += piece.len() as u64;
            bar.inc(piece.len() as u64);
        }
        bar.finish_and_clear();
        ensure!(
            offset == file.size(),
            "{}: the file was truncated while it was read; run this again",
            self.from
        );
        drop(file);
        client.close().await;
        Ok(())
    }
}
