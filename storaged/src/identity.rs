//! The owner of a data folder: one process at a time, one node, one cluster
//! (`a_folder_is_held_by_one_process_node_and_cluster`). A folder copied to another node, or a node pointed
//! at a foreign cluster, is refused before anything is written.
//!
//! The folder has a random mark of its own, made with it. A node that comes back with an empty folder is
//! another node, because the promises of the old one are lost.

use crate::disk::replace::replace_file;
use anyhow::{Context, bail};
use rain_types::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

const FILE: &str = "identity.toml";

/// Format of everything in the folder. A change that an older version would misread raises it.
const FORMAT: u32 = 9;

/// The contents of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    format: u32,
    folder: String,
    witness: bool,
    cluster: Option<String>,
    node_id: Option<u32>,
    /// True on the node that has begun the cluster, until it has registered all nodes of its list of peers.
    #[serde(default)]
    founding: bool,
}

/// A data folder that this process has locked.
#[derive(Debug)]
pub(crate) struct Identity {
    path: PathBuf,
    written: Written,
    /// The locked file. The lock lasts until this handle and every [`FolderLock`] are dropped.
    lock: File,
}

/// Keeps a data folder locked for this process.
#[derive(Debug)]
pub(crate) struct FolderLock(#[expect(dead_code, reason = "the handle is kept, never used")] File);

/// Returns 128 random bits. Fails where the system gives none.
pub(crate) fn random() -> anyhow::Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("asking the system for random bytes")?;
    Ok(u128::from_be_bytes(bytes))
}

impl Identity {
    /// Returns a second holder of the folder's lock, for a process that outlives the identity.
    pub(crate) fn hold(&self) -> anyhow::Result<FolderLock> {
        Ok(FolderLock(self.lock.try_clone().context("keeping the lock of the data folder")?))
    }

    /// Locks the folder for this process, or makes it. Fails where it belongs to another process, another
    /// node, or a node of another kind.
    pub(crate) fn take(data: &Path, wish: Option<NodeId>, witness: bool) -> anyhow::Result<Identity> {
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
            Ok(text) => (read(&text, &path, data, wish, witness)?, false),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let folder = format!("{:032x}", random()?);
                let written = Written {
                    format: FORMAT,
                    folder,
                    witness,
                    cluster: None,
                    node_id: None,
                    founding: false,
                };
                (written, true)
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let identity = Identity { path, written, lock };
        // An old folder is not written to: a node whose disk is full can start.
        if is_new {
            identity.write()?;
        }
        Ok(identity)
    }

    /// Returns cluster and number of the node; `None` before it has joined a cluster.
    pub(crate) fn member(&self) -> Option<(ClusterId, NodeId)> {
        let cluster = self.written.cluster.as_deref().and_then(|id| id.parse().ok())?;
        Some((cluster, NodeId(self.written.node_id?)))
    }

    /// Returns the folder's mark.
    pub(crate) fn folder(&self) -> &str {
        &self.written.folder
    }

    /// Returns true on the node that has begun the cluster, until [`Identity::founded`].
    pub(crate) fn is_founding(&self) -> bool {
        self.written.founding
    }

    /// Notes that all nodes of the list of peers are registered.
    pub(crate) fn founded(&mut self) -> anyhow::Result<()> {
        self.written.founding = false;
        self.write()
    }

    /// Notes the cluster and the number of this node, once and for all. `founding`: the node begins the
    /// cluster. Fails for another cluster or number than before.
    pub(crate) fn join(&mut self, cluster: ClusterId, node: NodeId, founding: bool) -> anyhow::Result<()> {
        match self.member() {
            Some(member) if member == (cluster, node) => Ok(()),
            Some((joined, known)) => bail!(
                "{} belongs to node {known} of cluster {joined}, not to node {node} of cluster {cluster}: check --peers, or \
                 give an empty --data",
                self.path.display()
            ),
            None => {
                self.written.cluster = Some(cluster.to_string());
                self.written.node_id = Some(node.0);
                self.written.founding = founding;
                self.write()
            }
        }
    }

    fn write(&self) -> anyhow::Result<()> {
        let text = toml::to_string(&self.written).context("writing the identity")?;
        replace_file(&self.path, text.as_bytes()).with_context(|| format!("writing {}", self.path.display()))
    }
}

fn read(
    text: &str,
    path: &Path,
    data: &Path,
    wish: Option<NodeId>,
    witness: bool,
) -> anyhow::Result<Written> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let damaged = || format!("{} is damaged: it does not name the node and the cluster", path.display());
    let head: Head = toml::from_str(text).with_context(damaged)?;
    if head.format != FORMAT {
        bail!(
            "{} has format {}, this version reads and writes {FORMAT}: give an empty --data, or run the version that wrote it",
            data.display(),
            head.format
        );
    }
    let written: Written = toml::from_str(text).with_context(damaged)?;
    if let (Some(known), Some(wish)) = (written.node_id, wish)
        && known != wish.0
    {
        bail!("{} belongs to node {known}, not to node {wish}", data.display());
    }
    if written.witness != witness {
        let (was, is) =
            if witness { ("a node with shares", "--witness") } else { ("a witness", "no --witness") };
        bail!("{} belongs to {was}, and it is started with {is}: give another --data", data.display());
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_by_one_process_node_and_cluster() {
        let folder = tempfile::tempdir().expect("a folder");
        let take = |wish: Option<u32>, witness| Identity::take(folder.path(), wish.map(NodeId), witness);
        let mut mine = take(None, false).expect("free");
        let mark = mine.folder().to_owned();
        let error = take(None, false).expect_err("held");
        assert!(error.to_string().contains("in use"), "{error}");
        assert_eq!(mine.member(), None);
        mine.join(ClusterId(7), NodeId(1), true).expect("first");
        mine.join(ClusterId(7), NodeId(1), true).expect("the same");
        assert!(mine.join(ClusterId(8), NodeId(1), false).is_err());
        assert!(mine.join(ClusterId(7), NodeId(2), false).is_err());
        assert!(mine.is_founding());
        mine.founded().expect("written");
        drop(mine);
        let of_today = fs::read_to_string(folder.path().join(FILE)).expect("written");
        let older = of_today.replace(&format!("format = {FORMAT}"), &format!("format = {}", FORMAT - 1));
        fs::write(folder.path().join(FILE), older).expect("older");
        let error = take(None, false).expect_err("an older format");
        assert!(error.to_string().contains(&format!("format {}", FORMAT - 1)), "{error}");
        fs::write(folder.path().join(FILE), of_today).expect("as it was");
        let error = take(Some(2), false).expect_err("another node's");
        assert!(error.to_string().contains("node 1"), "{error}");
        let error = take(None, true).expect_err("no witness's");
        assert!(error.to_string().contains("shares"), "{error}");
        let mine = take(Some(1), false).expect("free again");
        assert_eq!((mine.member(), mine.is_founding()), (Some((ClusterId(7), NodeId(1))), false));
        assert_eq!(mine.folder(), mark);
    }
}
