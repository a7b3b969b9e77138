//! Who a data folder belongs to: one process at a time, one node, one cluster. A folder copied to another
//! node, or a node pointed at a foreign cluster, is refused before anything is written.

use anyhow::{Context, bail};
use rain_types::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

const FILE: &str = "identity.toml";

/// Of everything in the folder. Raised with every change that an older version would misread.
const FORMAT: u32 = 2;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    format: u32,
    node_id: u32,
    cluster: Option<String>,
}

/// A data folder held by this process.
#[derive(Debug)]
pub(crate) struct Identity {
    path: PathBuf,
    written: Written,
    /// Held for its lock.
    _lock: File,
}

impl Identity {
    /// Takes the folder for this process and node; makes it when it is not there.
    pub(crate) fn take(data: &Path, node: NodeId) -> anyhow::Result<Identity> {
        fs::create_dir_all(data).with_context(|| format!("making the data folder {}", data.display()))?;
        let lock_path = data.join("lock");
        let lock = File::create(&lock_path).with_context(|| format!("opening {}", lock_path.display()))?;
        if let Err(error) = lock.try_lock() {
            bail!(
                "the data folder {} is in use by another storaged ({error}): stop that one first",
                data.display()
            );
        }
        let path = data.join(FILE);
        let (written, is_new) = match fs::read_to_string(&path) {
            Ok(text) => {
                let written: Written = toml::from_str(&text).with_context(|| {
                    format!("{} is damaged; it should name the node and the cluster", path.display())
                })?;
                if written.format != FORMAT {
                    bail!(
                        "{} has format {}, this version reads and writes {FORMAT}: give an empty --data, or run the \
                         version that wrote it",
                        data.display(),
                        written.format
                    );
                }
                if written.node_id != node.0 {
                    bail!("{} belongs to node {}, not to node {node}", data.display(), written.node_id);
                }
                (written, false)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                (Written { format: FORMAT, node_id: node.0, cluster: None }, true)
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let identity = Identity { path, written, _lock: lock };
        // A node whose disk is full can start.
        if is_new {
            identity.write()?;
        }
        Ok(identity)
    }

    /// The cluster it has joined.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.written.cluster.as_deref().and_then(|id| id.parse().ok())
    }

    /// Joins a cluster, once and for all.
    pub(crate) fn join(&mut self, cluster: ClusterId) -> anyhow::Result<()> {
        match self.cluster() {
            Some(joined) if joined == cluster => Ok(()),
            Some(joined) => bail!(
                "{} belongs to cluster {joined}, the peers to cluster {cluster}: check --peers, or give an empty --data",
                self.path.display()
            ),
            None => {
                self.written.cluster = Some(cluster.to_string());
                self.write()
            }
        }
    }

    fn write(&self) -> anyhow::Result<()> {
        let text = toml::to_string(&self.written).context("writing the identity")?;
        let new = self.path.with_extension("new");
        let write = || -> std::io::Result<()> {
            fs::write(&new, &text)?;
            File::open(&new)?.sync_all()?;
            fs::rename(&new, &self.path)?;
            self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        write().with_context(|| format!("writing {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_by_one_process_node_and_cluster() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut mine = Identity::take(folder.path(), NodeId(1)).expect("free");
        let error = Identity::take(folder.path(), NodeId(1)).expect_err("held");
        assert!(error.to_string().contains("in use"), "{error}");
        mine.join(ClusterId(7)).expect("first");
        mine.join(ClusterId(7)).expect("the same");
        assert!(mine.join(ClusterId(8)).is_err());
        drop(mine);
        let of_today = fs::read_to_string(folder.path().join(FILE)).expect("written");
        fs::write(folder.path().join(FILE), of_today.replace("format = 2", "format = 1")).expect("older");
        let error = Identity::take(folder.path(), NodeId(1)).expect_err("an older format");
        assert!(error.to_string().contains("format 1"), "{error}");
        fs::write(folder.path().join(FILE), of_today).expect("as it was");
        let error = Identity::take(folder.path(), NodeId(2)).expect_err("another node's");
        assert!(error.to_string().contains("node 1"), "{error}");
        assert_eq!(
            Identity::take(folder.path(), NodeId(1)).expect("free again").cluster(),
            Some(ClusterId(7))
        );
    }
}
