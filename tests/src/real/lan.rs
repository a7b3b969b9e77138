//! A LAN of network namespaces: a switch, one machine for each node, and one for the client. Cables can be
//! pulled, and the switch can be split in two.
//!
//! Pulling a cable is silent: packets vanish, and no process gets an error.

use super::run;
use anyhow::{Context, ensure};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

/// The LAN. Dropping it removes its network namespaces.
#[derive(Debug)]
pub struct Lan {
    name: String,
    machines: u32,
    cables: u32,
    /// Machines on the second half of a split switch.
    apart: Mutex<BTreeSet<u32>>,
}

impl Lan {
    /// Makes a LAN of `machines` machines and one more for the client, each with `cables` cables (1 or 2).
    /// Takes root and iproute2.
    pub fn new(machines: u32, cables: u32) -> anyhow::Result<Lan> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Linux allows 15 characters in the name of an interface.
        let lan = Lan {
            name: format!("rl{}x{count}", std::process::id() % 100_000),
            machines,
            cables,
            apart: Mutex::default(),
        };
        lan.build().context("making network namespaces")?;
        Ok(lan)
    }

    fn build(&self) -> anyhow::Result<()> {
        let switch = self.switch();
        ip(&["netns", "add", &switch])?;
        for cable in 0..self.cables {
            for half in 0..2 {
                let bridge = bridge(cable, half);
                ip(&["-n", &switch, "link", "add", &bridge, "type", "bridge"])?;
                ip(&["-n", &switch, "link", "set", &bridge, "up"])?;
            }
        }
        for machine in 0..=self.machines {
            let space = self.machine(machine);
            ip(&["netns", "add", &space])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
            for cable in 0..self.cables {
                let (port, eth) = (port(machine, cable), format!("eth{cable}"));
                let peer = ["peer", "name", &eth, "netns", &space];
                ip(&[&["-n", &switch, "link", "add", &port, "type", "veth"][..], &peer].concat())?;
                ip(&["-n", &switch, "link", "set", &port, "master", &bridge(cable, 0), "up"])?;
                let address = format!("{}/24", address(machine, cable));
                ip(&["-n", &space, "addr", "add", &address, "dev", &eth])?;
                ip(&["-n", &space, "link", "set", &eth, "up"])?;
            }
        }
        Ok(())
    }

    fn switch(&self) -> String {
        format!("{}-sw", self.name)
    }

    fn machine(&self, machine: u32) -> String {
        format!("{}-{machine}", self.name)
    }

    /// A command that runs a program on a machine; machine 0 is the client.
    pub fn on(&self, machine: u32, program: &std::path::Path) -> Command {
        // Not `ip netns exec`: that has a mount namespace of its own, and others would not see the mounts.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/var/run/netns/{}", self.machine(machine))).arg(program);
        command
    }

    /// A handle with which threads of this process enter the network namespace of a machine.
    pub fn network(&self, machine: u32) -> anyhow::Result<MachineNetwork> {
        Ok(MachineNetwork(File::open(format!("/var/run/netns/{}", self.machine(machine)))?))
    }

    /// Pulls a cable of a machine, or plugs it in again.
    pub fn pull(&self, machine: u32, cable: u32, pulled: bool) -> anyhow::Result<()> {
        let state = if pulled { "down" } else { "up" };
        ip(&["-n", &self.switch(), "link", "set", &port(machine, cable), state])
    }

    /// Splits the switch, so that the machines of this list are apart from the others. An empty list joins
    /// all again.
    pub fn split(&self, apart: &[u32]) -> anyhow::Result<()> {
        // One program moves all cables, and only those that change sides. A partition that comes cable by
        // cable would be another fault.
        let mut before = self.apart.lock();
        let apart: BTreeSet<u32> = apart.iter().copied().collect();
        let mut orders = String::new();
        for machine in before.symmetric_difference(&apart) {
            for cable in 0..self.cables {
                let half = u32::from(apart.contains(machine));
                orders += &format!("link set {} master {}\n", port(*machine, cable), bridge(cable, half));
            }
        }
        let mut child = Command::new("ip")
            .args(["-n", &self.switch(), "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .context("running ip")?;
        child.stdin.take().context("its input")?.write_all(orders.as_bytes())?;
        ensure!(child.wait()?.success(), "ip did not split the switch");
        *before = apart;
        Ok(())
    }
}

/// The network namespace of a machine.
#[derive(Debug)]
pub struct MachineNetwork(File);

impl MachineNetwork {
    /// Moves the calling thread onto the machine: its new connections start there.
    pub fn enter(&self) -> std::io::Result<()> {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        Ok(rustix::thread::move_into_link_name_space(self.0.as_fd(), kind)?)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let spaces = (0..=self.machines).map(|machine| self.machine(machine)).chain([self.switch()]);
        for space in spaces {
            let _ = Command::new("ip").args(["netns", "del", &space]).stderr(Stdio::null()).status();
        }
    }
}

/// A machine's address on one of its cables.
pub fn address(machine: u32, cable: u32) -> String {
    format!("10.{}.0.{}", 77 + cable, machine + 1)
}

fn bridge(cable: u32, half: u32) -> String {
    format!("br{cable}{half}")
}

fn port(machine: u32, cable: u32) -> String {
    format!("p{machine}c{cable}")
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    run("ip", args).map(|_| ())
}
