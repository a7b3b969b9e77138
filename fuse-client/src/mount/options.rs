//! Mount options: the values, and their text form in `-o`, `mount -t rain` and fstab lines.

use super::error::MountError;
use std::time::Duration;

/// The most loops per mount. A loop costs a thread and a buffer, and more than a few bring
/// nothing.
const THREADS_MAX: usize = 64;

/// How to mount. The comment of each field ends with its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// The kernel refuses every change. Default: no.
    pub read_only: bool,
    /// Users other than the one who mounts may use the mount. Default: None, which is yes for root and no for
    /// others.
    pub allow_other: Option<bool>,
    /// Set-id bits of programs on the volume take effect; only root can set this. Default: no, because such a
    /// program gives away privileges of this machine, and others can write the volume.
    pub suid: bool,
    /// Device files on the volume can be opened; only root can set this. Default: no, for the reason of
    /// `suid`.
    pub dev: bool,
    /// Programs on the volume can be run. Default: yes.
    pub exec: bool,
    /// Every write is durable when it returns, as with O_DSYNC; the client is to acknowledge no other change early
    /// ([`rain_client::Options::write_back`]). Default: no.
    pub sync: bool,
    /// Threads that take the kernel's requests. Default: 2. Measured on two cores, the second doubles small
    /// reads and creates, and more add nothing.
    pub threads: usize,
    /// How long the kernel uses attributes without asking again. It is also how old attributes that another
    /// mount has changed may look. Default: 1 s.
    pub attr_ttl: Duration,
    /// How long the kernel uses names without asking again. Default: 1 s.
    pub entry_ttl: Duration,
    /// The source that /proc/mounts shows, such as `a,b:/volume`. Default: `rain`.
    pub source: String,
    /// How far the kernel reads ahead of a sequential reader, KiB; takes effect when root mounts. Default:
    /// 4096.
    pub read_ahead_kb: u32,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            read_only: false,
            allow_other: None,
            suid: false,
            dev: false,
            exec: true,
            sync: false,
            threads: 2,
            attr_ttl: Duration::from_secs(1),
            entry_ttl: Duration::from_secs(1),
            source: "rain".into(),
            read_ahead_kb: 4096,
        }
    }
}

impl MountOptions {
    /// Takes in options in the form of `-o`: `ro,allow_other,attr_ttl=0.5`. Of two options that contradict
    /// each other the later counts. Returns the unknown options (fstab brings `_netdev`, `nofail`, ...),
    /// which the caller may pass over. Fails on a known option with a wrong value.
    pub fn parse(&mut self, text: &str) -> Result<Vec<String>, MountError> {
        let mut unknown = Vec::new();
        for option in text.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            let wrong = |why| MountError::Option { option: option.to_owned(), why };
            match (name, value) {
                ("ro", None) => self.read_only = true,
                ("rw", None) => self.read_only = false,
                ("allow_other", None) => self.allow_other = Some(true),
                ("noallow_other", None) => self.allow_other = Some(false),
                ("suid", None) => self.suid = true,
                ("nosuid", None) => self.suid = false,
                ("dev", None) => self.dev = true,
                ("nodev", None) => self.dev = false,
                ("exec", None) => self.exec = true,
                ("noexec", None) => self.exec = false,
                ("threads", Some(value)) => {
                    let threads = value.parse().ok().filter(|count| (1..=THREADS_MAX).contains(count));
                    self.threads = threads.ok_or(wrong("give threads=COUNT, 1 to 64"))?;
                }
                ("attr_ttl", Some(value)) => {
                    self.attr_ttl =
                        seconds(value).ok_or(wrong("give attr_ttl=SECONDS, 0 to 3600, such as 0.5"))?;
                }
                ("entry_ttl", Some(value)) => {
                    self.entry_ttl =
                        seconds(value).ok_or(wrong("give entry_ttl=SECONDS, 0 to 3600, such as 0.5"))?;
                }
                ("read_ahead_kb", Some(value)) => {
                    let kib = value.parse().ok().filter(|kib| *kib <= 1 << 20);
                    self.read_ahead_kb = kib.ok_or(wrong("give read_ahead_kb=KIB, 0 to 1048576"))?;
                }
                ("threads" | "attr_ttl" | "entry_ttl" | "read_ahead_kb", None) => {
                    return Err(wrong("it needs a value"));
                }
                _ => unknown.push(option.to_owned()),
            }
        }
        Ok(unknown)
    }

    /// Whether other users may use the mount.
    pub(super) fn lets_others_in(&self, root: bool) -> bool {
        self.allow_other.unwrap_or(root)
    }

    /// The kernel's mount data, without the part that names the connection.
    pub(super) fn kernel_data(&self, root: bool) -> String {
        let others = if self.lets_others_in(root) { ",allow_other" } else { "" };
        format!("default_permissions{others}")
    }

    /// The options for fusermount3's `-o`. A comma in the source is escaped, or it would end the source and
    /// begin an option.
    pub(super) fn helper_options(&self) -> String {
        let source = self.source.replace('\\', "\\\\").replace(',', "\\,");
        let mut options = format!("fsname={source},subtype=rain,{}", self.kernel_data(false));
        for (on, option) in [(self.read_only, "ro"), (!self.exec, "noexec")] {
            if on {
                options.push(',');
                options.push_str(option);
            }
        }
        options
    }
}

/// A time of 0 to 3600 seconds; None for any other text.
fn seconds(text: &str) -> Option<Duration> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=3600.0).contains(seconds))?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> MountOptions {
        let mut options = MountOptions::default();
        assert_eq!(options.parse(text).unwrap(), Vec::<String>::new(), "{text}");
        options
    }

    #[test]
    fn options_are_taken_in_and_later_ones_win() {
        let options =
            parsed("ro,allow_other,suid,dev,noexec,threads=4,attr_ttl=0.5,entry_ttl=0,read_ahead_kb=128");
        let expected = MountOptions {
            read_only: true,
            allow_other: Some(true),
            suid: true,
            dev: true,
            exec: false,
            sync: false,
            threads: 4,
            attr_ttl: Duration::from_millis(500),
            entry_ttl: Duration::ZERO,
            read_ahead_kb: 128,
            source: "rain".into(),
        };
        assert_eq!(options, expected);
        assert_eq!(parsed("ro,rw,suid,nosuid,dev,nodev,noexec,exec"), MountOptions::default());
        assert_eq!(parsed("allow_other,noallow_other").allow_other, Some(false));
        assert_eq!(parsed(""), MountOptions::default());
    }

    #[test]
    fn what_fstab_adds_is_given_back_and_changes_nothing() {
        let mut options = MountOptions::default();
        let unknown = options.parse("rw,_netdev,nofail,x-systemd.automount,context=\"a:b\"").unwrap();
        assert_eq!(unknown, ["_netdev", "nofail", "x-systemd.automount", "context=\"a:b\""]);
        assert_eq!(options, MountOptions::default());
    }

    #[test]
    fn a_wrong_value_is_named_with_what_is_expected() {
        for (text, part) in [
            ("threads=0", "1 to 64"),
            ("threads=many", "1 to 64"),
            ("attr_ttl=-1", "SECONDS"),
            ("attr_ttl=inf", "SECONDS"),
            ("entry_ttl=NaN", "SECONDS"),
            ("read_ahead_kb=9999999", "1048576"),
            ("threads", "needs a value"),
        ] {
            let error = MountOptions::default().parse(&format!("ro,{text}")).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains(part), "{error}");
        }
    }

    #[test]
    fn others_are_let_in_by_root_unless_told_otherwise() {
        let options = MountOptions::default();
        assert!(options.lets_others_in(true) && !options.lets_others_in(false));
        assert!(!MountOptions { allow_other: Some(false), ..options.clone() }.lets_others_in(true));
        assert_eq!(options.kernel_data(true), "default_permissions,allow_other");
        assert_eq!(options.kernel_data(false), "default_permissions");
    }

    #[test]
    fn a_comma_in_the_source_does_not_become_options_for_fusermount() {
        let options = MountOptions {
            source: "a:7400,b\\c:/v".into(),
            read_only: true,
            exec: false,
            ..Default::default()
        };
        assert_eq!(
            options.helper_options(),
            "fsname=a:7400\\,b\\\\c:/v,subtype=rain,default_permissions,ro,noexec"
        );
    }
}
