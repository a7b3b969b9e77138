//! `rain volume`: create and list volumes.

use super::quorum::names_warning;
use crate::{connect, output};
use anyhow::Context;
use clap::{Args, Subcommand};
use rain_client::Client;
use rain_types::{CodeSpec, Codec};

/// Create and list volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum Volume {
    Create(Create),
    List(List),
}

/// Create a volume over the nodes of the cluster.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain volume create main --code 4+2")]
pub(crate) struct Create {
    /// The volume's name: letters, digits, '-', '_', '.'.
    name: String,
    /// Data shares + parity shares: any K of the K+M shares of a block suffice to read it.
    #[arg(long, value_name = "K+M")]
    code: String,
    /// The family of codes: rdp, evenodd, star, xcode, bcode, cauchy, mirror, parity (exclusive-or only) or
    /// rs. By default mirror for K = 1, parity for M = 1, rdp for M = 2 and K up to 16, else cauchy.
    #[arg(long)]
    codec: Option<Codec>,
    /// The mode of the root directory, octal.
    #[arg(long, default_value = "755")]
    mode: String,
}

/// List the volumes.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain volume list --json")]
pub(crate) struct List {
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Parses a code such as `4+2`, of the given family or the default one. Fails on any other form.
pub(crate) fn code(text: &str, codec: Option<Codec>) -> anyhow::Result<CodeSpec> {
    let wrong = || format!("{text:?} is not a code; give K+M, such as 4+2");
    let (k, m) = text.split_once('+').with_context(wrong)?;
    let (k, m): (u8, u8) = (k.parse().with_context(wrong)?, m.parse().with_context(wrong)?);
    let default = || rain_codec::default_name(k.into(), m.into()).parse();
    let codec = codec.map_or_else(default, Ok)?;
    Ok(CodeSpec { codec, k, m })
}

impl Volume {
    pub(crate) async fn run(self, given: Option<&str>) -> anyhow::Result<()> {
        let client = connect(given, "volume").await?;
        let done = match self {
            Volume::Create(create) => {
                let spec = code(&create.code, create.codec)?;
                let mode = u16::from_str_radix(&create.mode, 8).with_context(|| {
                    format!("{:?} is not an octal mode; give one such as 755", create.mode)
                })?;
                let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
                let made = client.create_volume(&create.name, spec, uid, gid, mode).await;
                let made = made.map(|_| ()).with_context(|| format!("creating volume {:?}", create.name));
                if made.is_ok() {
                    warn_of_names(&client, &create.name, spec).await;
                }
                made
            }
            Volume::List(list) => show(&client.volumes().await?, list.json),
        };
        client.close().await;
        done
    }
}

/// Warns on standard error if the data of a new volume survives more lost nodes than its names do. Nodes that
/// drain do not count: they are about to leave the cluster. The volume exists already, so a failure to list
/// the nodes only costs the warning.
async fn warn_of_names(client: &Client, name: &str, spec: CodeSpec) {
    let Ok(nodes) = client.nodes().await else { return };
    let staying = nodes.iter().filter(|node| !node.draining).count();
    if let Some(warning) = names_warning(name, spec, staying) {
        output::say(format!("rain: warning: {warning}"));
    }
}

fn show(volumes: &[rain_namespace::record::VolumeRecord], json: bool) -> anyhow::Result<()> {
    if json {
        let rows: Vec<_> = volumes
            .iter()
            .map(|volume| {
                serde_json::json!({
                    "name": volume.name, "code": volume.code.to_string(), "groups": volume.open_groups().len(),
                    "inodes": volume.inodes, "bytes": volume.stored_bytes,
                })
            })
            .collect();
        return output::json(&rows);
    }
    let mut rows = vec![["name", "code", "inodes", "data"].map(str::to_owned).to_vec()];
    for volume in volumes {
        rows.push(vec![
            volume.name.clone(),
            volume.code.to_string(),
            volume.inodes.to_string(),
            output::bytes(volume.stored_bytes),
        ]);
    }
    output::table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_and_the_family_chosen() {
        assert_eq!(code("4+2", None).expect("good").codec, Codec::Rdp);
        assert_eq!(code("1+2", None).expect("good").codec, Codec::Mirror);
        assert_eq!(code("6+3", None).expect("good").codec, Codec::Cauchy);
        assert_eq!(code("2+1", None).expect("good").codec, Codec::Parity);
        assert_eq!(code("4+2", Some(Codec::Rs)).expect("good").codec, Codec::Rs);
        for wrong in ["4", "4+", "x+2", "4+2+1", "999+2"] {
            assert!(code(wrong, None).is_err(), "{wrong}");
        }
    }
}
