//! Two machines with a cable between them: network namespaces of the test's own, joined by a pair of virtual interfaces. The
//! cable is pulled while gates spend, and put back.
//!
//! Needs to be root, and `unshare`, `nsenter` and `ip`; says so and does nothing without.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use weir::model::Kind;
use weir::shared::{Address, Office};

use super::gates::{Member, sharing, spend_all};
use super::server::{TERMS, is_root};
use super::support::Store;
use super::tls::{PASSWORD, file, listening};

/// Addresses that are set aside for documentation: nobody is there.
const DATABASE: &str = "192.0.2.1";
const GATE: &str = "192.0.2.2";

/// A machine of its own, as far as the network goes. It is gone with the process that keeps it.
struct Machine(Child);

impl Machine {
    fn new() -> Option<Self> {
        let child = Command::new("unshare").args(["--net", "sleep", "120"]).stdin(Stdio::null()).spawn().ok()?;
        let machine = Self(child);
        let end = Instant::now() + Duration::from_secs(10);
        let own = std::fs::read_link("/proc/self/ns/net").ok()?;
        while std::fs::read_link(machine.network()).ok()? == own {
            assert!(Instant::now() < end, "no namespace was made");
            std::thread::sleep(Duration::from_millis(5));
        }
        machine.ip("link set lo up").then_some(machine)
    }

    fn network(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    /// Runs `ip` there.
    fn ip(&self, words: &str) -> bool {
        let there = format!("--net={}", self.network());
        Command::new("nsenter")
            .arg(there)
            .arg("ip")
            .args(words.split(' '))
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Runs `work` on a thread that is there, and so is every thread and process that it starts.
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let network = File::open(self.network()).unwrap();
        std::thread::scope(|scope| {
            let there = scope.spawn(move || {
                move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            there.join().unwrap()
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two machines and the cable; `None`, with a line that says so, where they cannot be made.
fn two() -> Option<(Machine, Machine)> {
    let made = || {
        let (one, other) = (Machine::new()?, Machine::new()?);
        let cable = format!("link add cable type veth peer name cable netns {}", other.0.id());
        let plugged = one.ip(&cable)
            && one.ip(&format!("addr add {DATABASE}/30 dev cable"))
            && other.ip(&format!("addr add {GATE}/30 dev cable"))
            && one.ip("link set cable up")
            && other.ip("link set cable up");
        plugged.then_some((one, other))
    };
    let two = if is_root() { made() } else { None };
    if two.is_none() {
        println!("skipped: network namespaces joined by a cable (root, unshare, nsenter, ip) cannot be made here");
    }
    two
}

#[test]
fn a_cable_that_is_pulled_while_gates_spend_costs_nothing() {
    let Some((database, far)) = two() else { return };
    let Some((server, authority)) = database.run(|| listening(&[DATABASE], &format!("{GATE}/32"))) else { return };
    let folder = tempfile::tempdir().unwrap();
    let url = server.url("gate").replace("127.0.0.1", DATABASE);
    let remote = Address::parse(&url, Some(&file(folder.path(), &authority))).unwrap().with_password(PASSWORD);
    let policy = sharing(Kind::ToolCalls, 300, 7);
    let member = |id: &str, address: Address| Member::start(id, address, policy.clone(), Store::default());
    let there = far.run(|| member("far", remote));
    let (office, here) = database.run(|| {
        let office = Office::open(server.address("boss"), &TERMS).unwrap();
        (office, member("near", server.address("gate")))
    });
    spend_all(&office, vec![here, there], 300, || {
        for _ in 0..3 {
            assert!(far.ip("link set cable down"));
            std::thread::sleep(Duration::from_millis(300));
            assert!(far.ip("link set cable up"));
            std::thread::sleep(Duration::from_millis(200));
        }
        // For longer than a statement may take: connections are given up, and others are made.
        assert!(far.ip("link set cable down"));
        std::thread::sleep(Duration::from_millis(1_800));
        assert!(far.ip("link set cable up"));
    });
}
