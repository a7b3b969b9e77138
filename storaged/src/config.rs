//! The settings of a daemon: flags, and the same words in a TOML file. A flag overrides the file. An unknown
//! key is refused. Relations between settings are checked before anything is opened.

use crate::ring::load::LoadWeights;
use anyhow::{Context, bail};
use clap::{Args, Parser, ValueEnum};
use rain_types::NodeId;
use serde::Deserialize;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "Examples:
  A cluster of three, the same command on each machine but for its own address:
    storaged --data /srv/rain --advertise a:7400 --peers a:7400,b:7400,c:7400
  A witness: it votes and keeps no shares:
    storaged --data /srv/rain --advertise w:7400 --peers a:7400,b:7400,w:7400 --witness
  One more, for a cluster that is there; then, anywhere: rain node add d:7400
    storaged --data /srv/rain --advertise d:7400 --peers a:7400,b:7400
  The same from a file (the keys are the flags' names):
    storaged --config /etc/rain/node.toml";

/// The command line of `storaged`.
#[derive(Debug, Parser)]
#[command(name = "storaged", version, about = "RAIN's node daemon: keeps shares, serves reads and writes", after_help = EXAMPLES)]
pub struct Cli {
    /// Read settings from this TOML file; flags override it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The settings.
    #[command(flatten)]
    pub settings: Settings,
}

/// The settings as given; each is optional.
#[derive(Debug, Clone, Default, PartialEq, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// The number this node would like, 1 or more; by default its place in the list of peers.
    #[arg(long, value_name = "N")]
    pub node_id: Option<u32>,
    /// Where to listen; by default where it advertises, else 127.0.0.1:7400.
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Where others reach this node; by default where it listens.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// The folder for everything this node keeps.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Addresses of all nodes that make up a new cluster, this one among them; or of some nodes of a cluster
    /// that is there.
    #[arg(long, value_name = "A:PORT,B:PORT", value_delimiter = ',')]
    pub peers: Option<Vec<String>>,
    /// This node votes and keeps no shares: the third one of two servers.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub witness: Option<bool>,
    /// Failure domain: nodes with the same text fail together (a rack, a power strip).
    #[arg(long, value_name = "TEXT")]
    pub domain: Option<String>,
    /// Relative capacity for placement, 1 to 1000.
    #[arg(long, value_name = "N")]
    pub weight: Option<u32>,
    /// Maximum disk space for shares, bytes; by default all that the disk has.
    #[arg(long, value_name = "BYTES")]
    pub capacity: Option<u64>,
    /// The network is trusted: do not warn that nothing is encrypted or authenticated yet.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub insecure: Option<bool>,
    /// End a client's session after this silence, seconds (5 to 3600; 30).
    #[arg(long, value_name = "SECONDS")]
    pub session_ttl: Option<u64>,
    /// Addresses to listen on for the ring (UDP), one for each interface; by default the address of --listen.
    /// The second and later ones also serve gRPC (TCP).
    #[arg(long, value_name = "A:PORT,B:PORT", value_delimiter = ',')]
    pub ring_listen: Option<Vec<String>>,
    /// Addresses at which other nodes reach those of --ring-listen, in the same order; by default the same.
    /// Without --ring-listen: the address of --advertise.
    #[arg(long, value_name = "A:PORT,B:PORT", value_delimiter = ',')]
    pub ring_advertise: Option<Vec<String>>,
    /// When a node that does not take the token leaves the ring: after one failed pass, or after two failed
    /// passes in a row from different senders.
    #[arg(long, value_enum)]
    pub detection: Option<DetectionWord>,
    /// How the ring uses several addresses of a node: one after the other, or all at once.
    #[arg(long, value_enum)]
    pub ring_paths: Option<PathsWord>,
    /// How processor, queue and disk count in the load index, 0 to 100 each.
    #[arg(long, value_name = "CPU,QUEUE,DISK")]
    pub load_weights: Option<String>,
    /// How to write the log to standard error.
    #[arg(long, value_enum)]
    pub log_format: Option<LogFormat>,
    /// Stop when standard input ends: for a parent that starts nodes and may die.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub exit_with_parent: Option<bool>,
}

/// How failures of nodes are judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DetectionWord {
    /// A node leaves the ring at the first failed pass of the token.
    #[default]
    Aggressive,
    /// A node leaves the ring after two failed passes in a row from different senders.
    Conservative,
}

/// The order in which a node's addresses are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathsWord {
    /// One after the other, working addresses first.
    #[default]
    Sequence,
    /// All at the same time.
    Parallel,
}

/// The format of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The settings, checked and complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The number that the node would like.
    pub node_id: Option<NodeId>,
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The address for others; `None`: the bound address.
    pub advertise: Option<String>,
    /// The data folder.
    pub data: PathBuf,
    /// The addresses of all nodes of a new cluster, or of some nodes of an existing one.
    pub peers: Vec<String>,
    /// True for a node that votes and stores no shares.
    pub witness: bool,
    /// True for a trusted network: no warning about missing encryption.
    pub insecure: bool,
    /// The failure domain; empty: the node is a domain of its own.
    pub domain: String,
    /// Relative capacity for placement, 1 to 1000.
    pub weight: u32,
    /// Limit for the disk space of shares, bytes; `None`: the disk is the limit.
    pub capacity: Option<u64>,
    /// Silence after which a client's session is ended.
    pub session_ttl: Duration,
    /// The UDP addresses of the ring; empty: the address to listen on.
    pub ring_listen: Vec<SocketAddr>,
    /// The same addresses for others; empty: unchanged.
    pub ring_advertise: Vec<String>,
    /// How failures of nodes are judged.
    pub detection: DetectionWord,
    /// The order in which a node's addresses are used.
    pub ring_paths: PathsWord,
    /// The weights of the parts of the load index.
    pub load_weights: LoadWeights,
    /// The format of the log.
    pub log_format: LogFormat,
    /// True: the node stops at the end of standard input.
    pub exit_with_parent: bool,
}

impl Config {
    /// Returns the ring's addresses for others, one for each interface. `own`: the node's address for others.
    pub(crate) fn ring_addresses(&self, own: &str) -> Vec<String> {
        match (&self.ring_advertise[..], &self.ring_listen[..]) {
            ([], []) => vec![own.to_owned()],
            ([], listen) => listen.iter().map(SocketAddr::to_string).collect(),
            (given, _) => given.to_vec(),
        }
    }
}

impl Settings {
    /// Fills settings that are missing here from `other`.
    fn or(self, other: Settings) -> Settings {
        Settings {
            node_id: self.node_id.or(other.node_id),
            listen: self.listen.or(other.listen),
            advertise: self.advertise.or(other.advertise),
            data: self.data.or(other.data),
            peers: self.peers.or(other.peers),
            witness: self.witness.or(other.witness),
            domain: self.domain.or(other.domain),
            weight: self.weight.or(other.weight),
            capacity: self.capacity.or(other.capacity),
            insecure: self.insecure.or(other.insecure),
            session_ttl: self.session_ttl.or(other.session_ttl),
            ring_listen: self.ring_listen.or(other.ring_listen),
            ring_advertise: self.ring_advertise.or(other.ring_advertise),
            detection: self.detection.or(other.detection),
            ring_paths: self.ring_paths.or(other.ring_paths),
            load_weights: self.load_weights.or(other.load_weights),
            log_format: self.log_format.or(other.log_format),
            exit_with_parent: self.exit_with_parent.or(other.exit_with_parent),
        }
    }

    /// Checks every setting and the relations between them.
    fn validate(self) -> anyhow::Result<Config> {
        if self.node_id == Some(0) {
            bail!("node-id is 0; it must be 1 or more");
        }
        let data =
            self.data.context("no data folder is set: give --data DIR (or data in the config file)")?;
        let given = self.listen.or_else(|| self.advertise.clone()).unwrap_or_else(|| "127.0.0.1:7400".into());
        let listen = one_address("listen", &given)?;
        let ring_listen = self.ring_listen.unwrap_or_default();
        let ring_listen = ring_listen
            .iter()
            .map(|text| one_address("ring-listen", text))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let ring_advertise = self.ring_advertise.unwrap_or_default();
        let rings = ring_listen.len().max(1);
        if !ring_advertise.is_empty() && ring_advertise.len() != rings {
            bail!(
                "ring-advertise has {} addresses, ring-listen {rings}: give one for each",
                ring_advertise.len()
            );
        }
        let load_weights = self.load_weights.map(|text| text.parse()).transpose();
        let load_weights = load_weights.map_err(|why: String| anyhow::anyhow!("load-weights = {why}"))?;
        let peers = self.peers.unwrap_or_default();
        if peers.is_empty() {
            bail!(
                "no way to find the cluster: give --peers with the addresses of all of its nodes (of this one alone for a cluster of one)"
            );
        }
        for peer in self.advertise.iter().chain(&peers).chain(&ring_advertise) {
            let port = peer.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
            if port.is_none_or(|(host, _)| host.is_empty()) {
                bail!("{peer:?} is no address of the form HOST:PORT");
            }
        }
        let weight = self.weight.unwrap_or(1);
        if !(1..=1000).contains(&weight) {
            bail!("weight is {weight}; it must be 1 to 1000");
        }
        let session_ttl = self.session_ttl.unwrap_or(30);
        if !(5..=3600).contains(&session_ttl) {
            bail!("session-ttl is {session_ttl}; it must be 5 to 3600 seconds");
        }
        if let Some(capacity) = self.capacity.filter(|capacity| *capacity < 16 << 20) {
            bail!("capacity is {capacity} bytes; it must be at least 16777216 (16 MiB)");
        }
        Ok(Config {
            node_id: self.node_id.map(NodeId),
            listen,
            advertise: self.advertise,
            data,
            peers,
            witness: self.witness.unwrap_or(false),
            insecure: self.insecure.unwrap_or(false),
            domain: self.domain.unwrap_or_default(),
            weight,
            capacity: self.capacity,
            session_ttl: Duration::from_secs(session_ttl),
            ring_listen,
            ring_advertise,
            detection: self.detection.unwrap_or_default(),
            ring_paths: self.ring_paths.unwrap_or_default(),
            load_weights: load_weights.unwrap_or_default(),
            log_format: self.log_format.unwrap_or_default(),
            exit_with_parent: self.exit_with_parent.unwrap_or(false),
        })
    }
}

fn one_address(name: &str, given: &str) -> anyhow::Result<SocketAddr> {
    given
        .to_socket_addrs()
        .with_context(|| format!("{name} = {given:?} cannot be resolved; give HOST:PORT"))?
        .next()
        .with_context(|| format!("{name} = {given:?} resolves to no address"))
}

impl Cli {
    /// Reads the file, applies the flags over it, and checks the result. Fails with the setting and its
    /// value.
    pub fn into_config(self) -> anyhow::Result<Config> {
        let from_file = match &self.config {
            None => Settings::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("reading the config file {}", path.display()))?;
                toml::from_str(&text).with_context(|| format!("in the config file {}", path.display()))?
            }
        };
        self.settings.or(from_file).validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn parse(args: &[&str], file: Option<&str>) -> anyhow::Result<Config> {
        let mut args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        args.insert(0, "storaged".into());
        let mut kept = None;
        if let Some(text) = file {
            let mut file = tempfile::NamedTempFile::new()?;
            file.write_all(text.as_bytes())?;
            args.extend(["--config".into(), file.path().display().to_string()]);
            kept = Some(file);
        }
        let config = Cli::try_parse_from(args)?.into_config();
        drop(kept);
        config
    }

    #[test]
    fn a_flag_overrides_the_file_and_the_rest_comes_from_it() {
        let file = "node-id = 3\ndata = \"/srv/x\"\npeers = [\"127.0.0.1:7401\"]\nlisten = \"127.0.0.1:9\"\n";
        let config = parse(&["--listen", "127.0.0.1:10"], Some(file)).expect("valid");
        assert_eq!((config.node_id, config.listen.port()), (Some(NodeId(3)), 10));
        assert_eq!(config.peers, ["127.0.0.1:7401"]);
        assert_eq!(config.session_ttl, Duration::from_secs(30));
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = parse(&[], Some("node-id = 1\ncolour = \"red\"\n")).expect_err("unknown");
        assert!(format!("{error:#}").contains("colour"), "{error:#}");
    }

    #[test]
    fn it_listens_where_it_advertises_unless_told_otherwise() {
        let one = ["--data", "/x", "--peers", "127.0.0.1:77", "--advertise", "127.0.0.1:77"];
        assert_eq!(parse(&one, None).expect("valid").listen.port(), 77);
        let mut two = one.to_vec();
        two.extend(["--listen", "0.0.0.0:78"]);
        assert_eq!(parse(&two, None).expect("valid").listen.port(), 78);
    }

    #[test]
    fn what_is_missing_or_wrong_is_said_with_its_value() {
        let peers = "127.0.0.1:1";
        for (args, needle) in [
            (&["--peers", peers][..], "--data"),
            (&["--node-id", "0", "--data", "/x", "--peers", peers], "node-id is 0"),
            (&["--data", "/x"], "--peers"),
            (&["--data", "/x", "--peers", "nohost"], "\"nohost\""),
            (&["--data", "/x", "--peers", peers, "--weight", "0"], "weight is 0"),
            (&["--data", "/x", "--peers", peers, "--capacity", "5"], "capacity is 5"),
            (&["--data", "/x", "--peers", peers, "--session-ttl", "1"], "session-ttl is 1"),
            (&["--data", "/x", "--peers", peers, "--load-weights", "1,2"], "load-weights"),
            (&["--data", "/x", "--peers", peers, "--ring-advertise", "a:1,b:1"], "one for each"),
        ] {
            let error = parse(args, None).expect_err("wrong");
            assert!(format!("{error:#}").contains(needle), "{args:?}: {error:#}");
        }
    }
}
