//! `rain ls`, `rain rm`, `rain stat`.

use super::{open_path, split_last};
use crate::{connect, output};
use anyhow::{Context, bail};
use clap::Args;
use rain_client::Volume;
use rain_namespace::record::{Attr, FileKind};
use rain_types::Ino;

/// The most names read in one round trip.
const PAGE_NAMES_MAX: u32 = 1024;

/// List a directory.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain ls -l /main/photos")]
pub(crate) struct Ls {
    /// /VOLUME/path.
    path: String,
    /// Print kind, mode, owner and length, too.
    #[arg(short)]
    long: bool,
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Delete a file, or with -r a directory and everything in it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain rm -r /main/old")]
pub(crate) struct Rm {
    /// /VOLUME/path.
    path: String,
    /// Delete directories with everything in them.
    #[arg(short)]
    recursive: bool,
}

/// Show the attributes of a file or directory.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain stat --json /main/movie.mkv")]
pub(crate) struct Stat {
    /// /VOLUME/path.
    path: String,
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "character device",
        FileKind::BlockDevice => "block device",
    }
}

fn as_json(name: &str, attr: &Attr) -> serde_json::Value {
    serde_json::json!({
        "name": name, "kind": kind(attr.kind), "ino": attr.ino.0, "size": attr.size, "held": attr.stored_bytes,
        "mode": format!("{:04o}", attr.mode), "uid": attr.uid, "gid": attr.gid, "nlink": attr.nlink,
        "mtime": attr.mtime.secs, "mtime_nanos": attr.mtime.nanos, "extents": attr.extents,
    })
}

/// Names of a directory with their attributes, after a name; and whether there are more.
async fn page(
    volume: &Volume,
    dir: Ino,
    after: Option<&[u8]>,
) -> anyhow::Result<(Vec<(Vec<u8>, Attr)>, bool)> {
    let (entries, more) = volume.read_directory(dir, after, PAGE_NAMES_MAX).await?;
    Ok((entries.into_iter().map(|entry| (entry.name, entry.attr)).collect(), more))
}

impl Ls {
    pub(crate) async fn run(self, given: Option<&str>) -> anyhow::Result<()> {
        let client = connect(given, "ls").await?;
        let (volume, inside) = open_path(&client, &self.path).await?;
        let attr = volume.resolve(inside.as_bytes()).await.with_context(|| self.path.clone())?;
        let mut entries = Vec::new();
        if attr.kind == FileKind::Directory {
            let mut more = true;
            while more {
                let after = entries.last().map(|(name, _): &(Vec<u8>, Attr)| name.clone());
                let (some, rest) = page(&volume, attr.ino, after.as_deref()).await?;
                entries.extend(some);
                more = rest;
            }
        } else {
            entries.push((split_last(inside)?.1.as_bytes().to_vec(), attr));
        }
        client.close().await;
        let named = entries.iter().map(|(name, attr)| (String::from_utf8_lossy(name), attr));
        if self.json {
            return output::json(&named.map(|(name, attr)| as_json(&name, attr)).collect::<Vec<_>>());
        }
        if self.long {
            let rows: Vec<Vec<String>> = named
                .map(|(name, attr)| {
                    vec![
                        format!("{:<9} {:04o}", kind(attr.kind), attr.mode),
                        attr.uid.to_string(),
                        attr.gid.to_string(),
                        format!("{:>14}", attr.size),
                        name.into_owned(),
                    ]
                })
                .collect();
            return output::table(&rows);
        }
        for (name, attr) in named {
            let slash = if attr.kind == FileKind::Directory { "/" } else { "" };
            output::line(format!("{name}{slash}"))?;
        }
        Ok(())
    }
}

impl Rm {
    pub(crate) async fn run(self, given: Option<&str>) -> anyhow::Result<()> {
        let client = connect(given, "rm").await?;
        let (volume, inside) = open_path(&client, &self.path).await?;
        let (dir, name) = split_last(inside)?;
        let parent = volume.resolve(dir.as_bytes()).await.with_context(|| self.path.clone())?.ino;
        let attr = volume.lookup(parent, name.as_bytes()).await.with_context(|| self.path.clone())?;
        if attr.kind == FileKind::Directory && !self.recursive {
            bail!("{} is a directory; -r deletes it with everything in it", self.path);
        }
        let deleted = if attr.kind == FileKind::Directory {
            delete_tree(&volume, parent, name.as_bytes(), attr.ino).await
        } else {
            volume.unlink(parent, name.as_bytes()).await.map_err(Into::into)
        };
        client.close().await;
        deleted.with_context(|| format!("deleting {}", self.path))
    }
}

/// Deletes a directory with everything in it, depth first.
async fn delete_tree(volume: &Volume, parent: Ino, name: &[u8], ino: Ino) -> anyhow::Result<()> {
    let mut path = vec![(parent, name.to_vec(), ino)];
    while let Some((parent, name, dir)) = path.last().cloned() {
        let (entries, more) = page(volume, dir, None).await?;
        let mut deeper = None;
        for (name, attr) in entries {
            if attr.kind == FileKind::Directory {
                deeper = Some((dir, name, attr.ino));
            } else {
                volume.unlink(dir, &name).await?;
            }
        }
        match deeper {
            Some(next) => path.push(next),
            None if more => {}
            None => {
                volume.remove_directory(parent, &name).await?;
                path.pop();
            }
        }
    }
    Ok(())
}

impl Stat {
    pub(crate) async fn run(self, given: Option<&str>) -> anyhow::Result<()> {
        let client = connect(given, "stat").await?;
        let (volume, inside) = open_path(&client, &self.path).await?;
        let attr = volume.resolve(inside.as_bytes()).await.with_context(|| self.path.clone())?;
        client.close().await;
        if self.json {
            return output::json(&as_json(&self.path, &attr));
        }
        output::line(format!(
            "{}: {}, {} bytes ({} held)",
            self.path,
            kind(attr.kind),
            attr.size,
            output::bytes(attr.stored_bytes)
        ))?;
        output::line(format!(
            "inode {}, mode {:04o}, owner {}:{}, {} names",
            attr.ino, attr.mode, attr.uid, attr.gid, attr.nlink
        ))?;
        output::line(format!(
            "extents {}, changed {}.{:09} (seconds since 1970)",
            attr.extents, attr.mtime.secs, attr.mtime.nanos
        ))
    }
}
