//! Parses the names of volumes and of files in them: `a:7400,b:7400:/volume` and `/volume/path`.

use anyhow::{Context, bail};

/// The port of a node whose address has none, as in storaged's default configuration.
const DEFAULT_PORT: &str = "7400";

/// The source of a mount: addresses of nodes, and the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) addresses: Vec<String>,
    pub(crate) volume: String,
}

impl std::str::FromStr for Source {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Source> {
        let wrong = || format!("{text:?} is not of the form HOST:PORT,HOST:PORT:/VOLUME");
        let (hosts, volume) = text.split_once(":/").with_context(wrong)?;
        let volume = volume.trim_end_matches('/');
        if volume.is_empty() || volume.contains('/') || hosts.is_empty() {
            bail!(wrong());
        }
        let addresses =
            hosts.split(',').map(|host| with_port(host).with_context(wrong)).collect::<Result<_, _>>()?;
        Ok(Source { addresses, volume: volume.into() })
    }
}

/// An address with its port, the default one if it has none. None if it is no address.
fn with_port(host: &str) -> Option<String> {
    let after_bracket = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    match after_bracket.rsplit_once(':') {
        Some((_, port)) => {
            port.parse::<u16>().ok().filter(|_| !host.starts_with(':')).map(|_| host.to_owned())
        }
        None if host.is_empty() => None,
        None => Some(format!("{host}:{DEFAULT_PORT}")),
    }
}

/// Parses `/volume/dir/file`. Returns the volume and the path in it, which is empty for the volume's root.
pub(crate) fn volume_and_path(path: &str) -> anyhow::Result<(&str, &str)> {
    let rest = path.strip_prefix('/').with_context(|| format!("{path:?} is not of the form /VOLUME/path"))?;
    let (volume, inside) = rest.split_once('/').unwrap_or((rest, ""));
    if volume.is_empty() {
        bail!("{path:?} is not of the form /VOLUME/path");
    }
    Ok((volume, inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_taken_apart() {
        let parse =
            |text: &str| text.parse::<Source>().map(|source| (source.addresses.join(" "), source.volume));
        assert_eq!(parse("a:1,b:2:/v").expect("good"), ("a:1 b:2".into(), "v".into()));
        assert_eq!(parse("a,b:/v").expect("good"), ("a:7400 b:7400".into(), "v".into()));
        assert_eq!(
            parse("[::1],[fe80::1]:9:/v/").expect("good"),
            ("[::1]:7400 [fe80::1]:9".into(), "v".into())
        );
        for wrong in ["", "a", "a:/", ":/v", "a:x:/v", "a:1:/v/w", "a,,b:/v", ":7:/v"] {
            let error = parse(wrong).expect_err(wrong);
            assert!(error.to_string().contains("HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn paths_are_taken_apart() {
        assert_eq!(volume_and_path("/main/a/b").expect("good"), ("main", "a/b"));
        assert_eq!(volume_and_path("/main").expect("good"), ("main", ""));
        assert!(volume_and_path("main/a").is_err() && volume_and_path("/").is_err());
    }
}
