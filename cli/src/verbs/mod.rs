//! The verbs of `rain`: a file for each, or for a family of them.

pub(crate) mod bench;
pub(crate) mod checkpoint;
pub(crate) mod dev;
pub(crate) mod explain;
pub(crate) mod files;
pub(crate) mod fsck;
pub(crate) mod mount;
pub(crate) mod names;
pub(crate) mod node;
mod quorum;
mod ring;
pub(crate) mod status;
pub(crate) mod volume;

use crate::source::volume_and_path;
use anyhow::Context;
use rain_client::{Client, Error, Volume};
use rain_namespace::error::NsError;
use std::sync::Arc;

/// Opens the volume of a `/volume/path`. Returns the volume and the path in it. Fails if there is no such
/// volume.
async fn open_path<'a>(client: &Arc<Client>, path: &'a str) -> anyhow::Result<(Arc<Volume>, &'a str)> {
    let (name, inside) = volume_and_path(path)?;
    Ok((open_volume(client, name).await?, inside))
}

/// Opens a volume. Fails if there is none of this name.
async fn open_volume(client: &Arc<Client>, name: &str) -> anyhow::Result<Arc<Volume>> {
    match client.volume(name).await {
        Err(Error::Refused(NsError::NotFound)) => {
            anyhow::bail!("there is no volume {name:?}; `rain volume list` lists the volumes")
        }
        found => found.with_context(|| format!("volume {name:?}")),
    }
}

/// The directory and the last name of a path in a volume. Fails for the volume's root.
fn split_last(inside: &str) -> anyhow::Result<(&str, &str)> {
    let inside = inside.trim_end_matches('/');
    let (dir, name) = inside.rsplit_once('/').unwrap_or(("", inside));
    anyhow::ensure!(!name.is_empty(), "the path is a volume's root; name a file or directory in it");
    Ok((dir, name))
}
