//! `rain volume`: make and list volumes.

use crate::{connect, output};
use anyhow::Context;
use clap::{Args, Subcommand};
use rain_types::{CodeSpec, Codec};

/// Make and list volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum Volume {
    Create(Create),
    List(List),
}

/// Make a volume over the nodes of the cluster.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain volume create main --code 4+2")]
pub(crate) struct Create {
    /// Its name: letters, digits, '-', '_', '.'.
    name: String,
    /// Data shares + parity shares: any K of the K+M give a block back.
    #[arg(long, value_name = "K+M")]
    code: String,
    /// rdp, evenodd, star, xcode, bcode, cauchy, mirror, parity (exclusive-or only) or rs; by default
    /// mirror for K = 1, parity for M = 1, rdp for M = 2 and K up to 16, else cauchy.
    #[arg(long)]
    codec: Option<Codec>,
    /// Mode of the root directory, octal.
    #[arg(long, default_value = "755")]
    mode: String,
}

/// List the volumes.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rain volume list --json")]
pub(crate) struct List {
    /// For scripts.
    #[arg(long)]
    json: bool,
}

/// The code that `4+2` means, with the family given or the default one.
pub(crate) fn code(text: &str, codec: Option<Codec>) -> anyhow::Result<CodeSpec> {
    let wrong = || format!("{text:?} is no code of the form 4+2");
    let (k, m) = text.split_once('+').with_context(wrong)?;
    let (k, m): (u8, u8) = (k.parse().with_context(wrong)?, m.parse().with_context(wrong)?);
    let default = || rain_codec::default_name(k.into(), m.into()).parse();
    let codec = codec.map_or_else(default, Ok)?;
    Ok(CodeSpec { codec, k, m })
}

impl Volume {
    pub(crate) async fn run(self, given: Option<&str>) -> anyhow::Result<()> {
        let cluster = connect(given, "volume").await?;
        let done = match self {
            Volume::Create(create) => {
                let spec = code(&create.code, create.codec)?;
                let mode = u16::from_str_radix(&create.mode, 8)
                    .with_context(|| format!("{:?} is no octal mode", create.mode))?;
                let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
                let made = cluster.create_volume(&create.name, spec, uid, gid, mode).await;
                made.map(|_| ()).with_context(|| format!("making volume {:?}", create.name))
            }
            Volume::List(list) => show(&cluster.volumes().await?, list.json),
        };
        cluster.close().await;
        done
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
