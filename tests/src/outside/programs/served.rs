//! Servers that export a mount: NFS-Ganesha, read and written with the programs of libnfs, and Samba, with
//! smbclient.

use super::{ProgramsOptions, without};
use crate::data::bytes;
use crate::outside::process::{Running, find, last_lines, run};
use crate::outside::report::Ending;
use crate::outside::stage::Stage;
use anyhow::{Context, ensure};
use std::ffi::OsStr;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The longest time that one command may take.
const WITHIN: Duration = Duration::from_secs(120);

/// The longest time until a server answers.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// The ports of the NFS server, in a network namespace of its own.
const NFS_PORT: u16 = 2049;
const MOUNTD_PORT: u16 = 20_048;

/// Length of the file that goes through a server, bytes.
const LEN: usize = 3_000_001;

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until a server answers at a port.
fn wait_for(port: u16, log: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let said = || last_lines(&std::fs::read_to_string(log).unwrap_or_default());
        ensure!(begun.elapsed() < STARTS_WITHIN, "the server does not start: {}", said());
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Whether the bytes that went through a server are right, in the mount that it does not export.
fn check(there: &Path, seed: u64, what: &str) -> anyhow::Result<()> {
    let read = std::fs::read(there).with_context(|| format!("{what}: reading {}", there.display()))?;
    ensure!(read == bytes(seed, 0, LEN), "{what}: other bytes than were written");
    Ok(())
}

/// NFS 3: nfs-cp of libnfs 4 writes no more than some kilobytes to a file by NFS 4, also to one on a disk. The server
/// and rpcbind, which NFS 3 takes, have a network namespace of their own.
pub(super) fn ganesha(stage: &mut Stage, options: &ProgramsOptions) -> anyhow::Result<Ending> {
    let Some(server) = find("ganesha.nfsd", &[]) else {
        return without("ganesha.nfsd", "nfs-ganesha nfs-ganesha-vfs");
    };
    if find("nfs-cp", &[]).is_none() {
        return without("nfs-cp", "libnfs-utils");
    }
    let Some(rpcbind) = find("rpcbind", &[]) else { return without("rpcbind", "rpcbind") };
    let [here, there] = stage.folders("ganesha")?;
    let local = stage.local().join("ganesha");
    std::fs::create_dir(&local)?;
    let (log, config, export) = (local.join("log"), local.join("conf"), here.display());
    std::fs::write(
        &config,
        format!(
            "NFS_CORE_PARAM {{ Protocols = 3; NFS_Port = {NFS_PORT}; MNT_Port = {MOUNTD_PORT}; Enable_NLM = false; \
             Enable_RQUOTA = false; Enable_UDP = false; }}\n\
             NFSv4 {{ Graceless = true; RecoveryBackend = fs_ng; RecoveryRoot = \"{}\"; }}\n\
             EXPORT {{ Export_Id = 1; Path = \"{export}\"; Pseudo = /export; Access_Type = RW; \
             Squash = No_Root_Squash; SecType = sys; FSAL {{ Name = VFS; }} }}\n",
            local.display(),
        ),
    )?;
    let start =
        "ip link set lo up && { \"$0\" -f & exec \"$1\" -F -f \"$2/conf\" -L \"$2/log\" -p \"$2/pid\"; }";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", start]).args([&rpcbind, &server, &local]);
    let running = Running::start(&mut command)?;
    let network = format!("--net=/proc/{}/ns/net", running.pid());
    let client = |program: &str, args: &[&OsStr]| {
        run(Command::new("nsenter").args([&network, program]).args(args), WITHIN)
    };
    let url = |name: &str| {
        format!("nfs://127.0.0.1{export}{name}?version=3&nfsport={NFS_PORT}&mountport={MOUNTD_PORT}")
    };
    let begun = Instant::now();
    while let Err(error) = client("nfs-ls", &[url("").as_ref()]) {
        let said = || last_lines(&std::fs::read_to_string(&log).unwrap_or_default());
        ensure!(begun.elapsed() < STARTS_WITHIN, "the server does not start: {error}: {}", said());
        std::thread::sleep(Duration::from_millis(200));
    }
    let from = local.join("from");
    let begun = Instant::now();
    let mut files = 0;
    while files == 0 || begun.elapsed() < Duration::from_secs(options.seconds) {
        std::fs::write(&from, bytes(files, 0, LEN))?;
        let (name, back) = (format!("file-{files}"), local.join("back"));
        let _ = std::fs::remove_file(&back);
        let at = url(&format!("/{name}"));
        let copied = client("nfs-cp", &[from.as_ref(), at.as_ref()]);
        copied.with_context(|| last_lines(&std::fs::read_to_string(&log).unwrap_or_default()))?;
        check(&there.join(&name), files, "written through NFS")?;
        client("nfs-cp", &[at.as_ref(), back.as_ref()])?;
        check(&back, files, "read through NFS")?;
        files += 1;
    }
    drop(running);
    Ok(Ending::Right(format!("{files} files")))
}

pub(super) fn samba(stage: &mut Stage, options: &ProgramsOptions) -> anyhow::Result<Ending> {
    let Some(server) = find("smbd", &[]) else { return without("smbd", "samba") };
    if find("smbclient", &[]).is_none() {
        return without("smbclient", "smbclient");
    }
    let [here, there] = stage.folders("samba")?;
    let local = stage.local().join("samba");
    std::fs::create_dir(&local)?;
    let (port, config) = (free_port()?, local.join("conf"));
    let at = local.display();
    std::fs::write(
        &config,
        format!(
            "[global]\nserver role = standalone\nmap to guest = bad user\nguest account = root\n\
             private dir = {at}\nlock directory = {at}\nstate directory = {at}\ncache directory = {at}\n\
             pid directory = {at}\nncalrpc dir = {at}/rpc\nlog file = {at}/log\ninterfaces = lo\n\
             bind interfaces only = yes\nload printers = no\ndisable spoolss = yes\n\
             [share]\npath = {}\nguest ok = yes\nread only = no\nforce user = root\n",
            here.display()
        ),
    )?;
    let mut command = Command::new(server);
    command.args(["--foreground", "--no-process-group", "-p", &port.to_string(), "-s"]).arg(&config);
    let running = Running::start(&mut command)?;
    wait_for(port, &local.join("log"))?;
    let client = |what: &str| {
        let mut command = Command::new("smbclient");
        command.args(["//127.0.0.1/share", "-N", "-p", &port.to_string(), "-s"]).arg(&config);
        run(command.args(["-t", "60", "-c", what]).current_dir(&local), WITHIN)
    };
    let begun = Instant::now();
    let mut files = 0;
    while files == 0 || begun.elapsed() < Duration::from_secs(options.seconds) {
        std::fs::write(local.join("from"), bytes(files, 0, LEN))?;
        client(&format!(
            "mkdir d{files}; put from d{files}/a; rename d{files}/a d{files}/b; get d{files}/b back; ls d{files}/*"
        ))?;
        check(&there.join(format!("d{files}/b")), files, "written through SMB")?;
        check(&local.join("back"), files, "read through SMB")?;
        std::fs::write(there.join(format!("d{files}/b")), bytes(files + 1000, 0, LEN))?;
        client(&format!("get d{files}/b again; del d{files}/b; rmdir d{files}"))?;
        check(&local.join("again"), files + 1000, "written on the other mount")?;
        ensure!(!there.join(format!("d{files}")).exists(), "a folder that was removed through SMB is there");
        files += 1;
    }
    drop(running);
    Ok(Ending::Right(format!("{files} files")))
}
