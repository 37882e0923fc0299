//! A job goes on while the gate does not: the gate is killed in the middle, and the next one takes the job up again.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weir::model::Kind;

use crate::fake::{Fake, Launching};
use crate::rig::{Rig, Setup, job};

/// Twelve minutes of t4-small.
const HELD: u64 = 12 * 6_667;
const PLACE: &str = "WEIR_TEST_HUB_PLACE";

/// A gate's process: this test again, told by the environment where its files lie and where the Hub is. Without that it
/// has nothing to do.
#[test]
fn serves_as_a_gate_of_its_own_when_it_is_told_to() {
    let Ok(place) = std::env::var(PLACE) else { return };
    let (folder, ports) = place.rsplit_once('|').unwrap();
    let (port, blobs) = ports.split_once(',').unwrap();
    let fake = Fake { world: std::sync::Arc::default(), port: port.parse().unwrap(), blobs: blobs.parse().unwrap() };
    let rig = Rig::at(Path::new(folder), &fake, &Setup::default());
    let reply = rig.post("/api/jobs/team", &job());
    std::fs::write(Path::new(folder).join("launched"), reply.status.to_string()).unwrap();
    // Until it is killed, and not for ever.
    std::thread::sleep(Duration::from_secs(120));
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Launches a job through a gate of its own process, and kills that.
fn launched_and_killed(fake: &Fake, home: &Path) {
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "life::serves_as_a_gate_of_its_own_when_it_is_told_to"]);
    test.env(PLACE, format!("{}|{},{}", home.display(), fake.port, fake.blobs));
    let process = Process(test.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let begun = Instant::now();
    while !home.join("launched").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the gate did not launch");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(process);
    std::fs::remove_file(home.join("launched")).unwrap();
}

#[test]
fn a_killed_gates_job_is_taken_up_again_followed_and_settled() {
    for launching in [Launching::Done, Launching::Cut] {
        let (fake, home) = (Fake::start(), tempfile::tempdir().unwrap());
        fake.world().launching = launching;
        launched_and_killed(&fake, home.path());
        assert_eq!(fake.world().jobs.len(), 1);
        fake.world().launching = Launching::Done;
        fake.run_all(70);
        let rig = Rig::at(home.path(), &fake, &Setup::default());
        rig.until("two minutes posted", |rig| rig.posted(Kind::MicroUsd) == 2 * 6_667);
        assert_eq!(rig.pending(Kind::MicroUsd), HELD - 2 * 6_667);
        assert_eq!(rig.get("/api/jobs/team").json().as_array().unwrap().len(), 1, "it is the agent's again");
        // What is held, less the last minute, pays for eleven minutes: then it is stopped.
        fake.run_all(11 * 60);
        rig.until("settled", |rig| rig.pending(Kind::MicroUsd) == 0);
        assert_eq!(fake.count("POST", "/api/jobs/team/job0/cancel"), 1);
        assert_eq!((rig.posted(Kind::MicroUsd), rig.posted(Kind::GpuMs)), (11 * 6_667, 660_000));
        assert!(rig.gate.doubts().is_empty() && rig.gate.lasting().is_empty());
    }
}

#[test]
fn parts_that_were_posted_before_count_once() {
    let (fake, home) = (Fake::start(), tempfile::tempdir().unwrap());
    let mut rig = Rig::at(home.path(), &fake, &Setup::default());
    assert_eq!(rig.post("/api/jobs/team", &job()).status, 200);
    fake.run_all(100);
    rig.until("two minutes posted", |rig| rig.posted(Kind::MicroUsd) == 2 * 6_667);
    rig.stop();
    drop(rig);
    fake.run_all(130);
    fake.end_all("ERROR");
    let rig = Rig::at(home.path(), &fake, &Setup::default());
    rig.until("settled", |rig| rig.pending(Kind::MicroUsd) == 0);
    assert_eq!((rig.posted(Kind::MicroUsd), rig.posted(Kind::GpuMs)), (3 * 6_667, 130_000));
    assert_eq!(rig.pending(Kind::Jobs), 0);
}
