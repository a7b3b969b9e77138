//! The verbs, a file each or a file a family.

pub(crate) mod bench;
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

/// The volume and path that a `/volume/path` names; a volume that is not there is said so.
async fn open_path<'a>(client: &Arc<Client>, path: &'a str) -> anyhow::Result<(Arc<Volume>, &'a str)> {
    let (name, inside) = volume_and_path(path)?;
    Ok((open_volume(client, name).await?, inside))
}

async fn open_volume(client: &Arc<Client>, name: &str) -> anyhow::Result<Arc<Volume>> {
    match client.volume(name).await {
        Err(Error::Refused(NsError::NotFound)) => {
            anyhow::bail!("there is no volume {name:?}; `rain volume list` shows those there are")
        }
        found => found.with_context(|| format!("volume {name:?}")),
    }
}

/// The directory and the last name of a path in a volume.
fn split_last(inside: &str) -> anyhow::Result<(&str, &str)> {
    let inside = inside.trim_end_matches('/');
    let (dir, name) = inside.rsplit_once('/').unwrap_or(("", inside));
    anyhow::ensure!(!name.is_empty(), "a volume's root is meant; name something in it");
    Ok((dir, name))
}
