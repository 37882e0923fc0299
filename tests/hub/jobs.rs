//! Jobs: the money is held before the Hub hears of one, followed while it runs, and settled by what the Hub bills.

use std::sync::Arc;

use serde_json::{Value, json};
use weir::model::Kind;

use crate::fake::{Fake, Launching};
use crate::rig::{JOB, KEY, Rig, TOKEN, job};

/// Ten minutes and the two for the start, at 6,667 for each.
const HELD: u64 = 12 * 6_667;

fn launched(rig: &Rig) -> String {
    let reply = rig.post("/api/jobs/team", &job());
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_job_is_held_followed_and_settled_by_the_minute() {
    let fake = Fake::start();
    let rig = Rig::new(&fake);
    let reply = rig.post("/api/jobs/team", &job());
    assert!(
        reply.status == 200 && !reply.text().contains("ssh") && !reply.text().contains("the owner"),
        "{}",
        reply.text()
    );
    assert_eq!((rig.pending(Kind::MicroUsd), rig.pending(Kind::GpuMs)), (HELD, 600_000));
    let sent: Value = serde_json::from_slice(&fake.world().asked.last().unwrap().body).unwrap();
    assert_eq!((&sent["timeoutSeconds"], &sent["labels"]["name"]), (&json!(600), &json!("run-1")));
    assert!(sent["labels"]["weir-call"].as_str().unwrap().len() == 32 && sent.get("secrets").is_none());
    fake.run_all(61);
    rig.until("two minutes posted", |rig| rig.posted(Kind::MicroUsd) == 2 * 6_667);
    assert_eq!(rig.pending(Kind::MicroUsd), HELD - 2 * 6_667);
    fake.run_all(125);
    fake.end_all("COMPLETED");
    rig.until("settled", |rig| rig.pending(Kind::MicroUsd) == 0);
    assert_eq!((rig.posted(Kind::MicroUsd), rig.posted(Kind::GpuMs)), (3 * 6_667, 125_000));
    assert!(rig.gate.doubts().is_empty());
}

#[test]
fn a_timeout_that_is_left_out_is_stated() {
    let fake = Fake::start();
    let rig = Rig::new(&fake);
    let mut launch = job();
    launch.as_object_mut().unwrap().remove("timeoutSeconds");
    assert_eq!(rig.post("/api/jobs/team", &launch).status, 200);
    let sent: Value = serde_json::from_slice(&fake.world().asked.last().unwrap().body).unwrap();
    assert_eq!(sent["timeoutSeconds"], 1_800);
    assert_eq!(rig.pending(Kind::MicroUsd), 32 * 6_667);
}

#[test]
fn a_job_gets_its_own_token_and_no_other_leaves_the_gate() {
    let fake = Fake::start();
    let rig = Rig::new(&fake);
    let mut launch = job();
    launch["secrets"] = json!({"HF_TOKEN": TOKEN});
    let reply = rig.post("/api/jobs/team", &launch);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let sent: Value = serde_json::from_slice(&fake.world().asked.last().unwrap().body).unwrap();
    assert_eq!(sent["secrets"], json!({"HF_TOKEN": JOB}));
    let world = fake.world();
    assert!(world.asked.iter().all(|asked| !String::from_utf8_lossy(&asked.body).contains(TOKEN)));
    assert!(world.asked.iter().all(|asked| !String::from_utf8_lossy(&asked.body).contains(KEY)));
    drop(world);
    launch["secrets"] = json!({"WANDB_API_KEY": "w"});
    let reply = rig.post("/api/jobs/team", &launch);
    assert!(reply.status == 403 && reply.headers["x-error-message"].contains("holds no value"), "{reply:?}");
    let list = rig.get("/api/jobs/team").text();
    let entries = rig.entries();
    for secret in [TOKEN, KEY, JOB] {
        assert!(!entries.contains(secret) && !list.contains(secret), "{secret}");
    }
    let mut without = crate::rig::Setup::default();
    without.lines.clear();
    let rig = Rig::with(&fake, &without);
    launch["secrets"] = json!({"HF_TOKEN": "x"});
    let reply = rig.post("/api/jobs/team", &launch);
    assert!(reply.status == 403 && reply.headers["x-error-message"].contains("job_token_file"), "{reply:?}");
}

#[test]
fn a_refusal_of_the_hub_frees_the_hold_and_a_lost_answer_keeps_it() {
    let fake = Fake::start();
    let rig = Rig::new(&fake);
    fake.world().launching = Launching::Refused(400);
    let refused = rig.post("/api/jobs/team", &job());
    assert!(refused.status == 400 && refused.headers["x-error-message"].contains("no room"), "{refused:?}");
    assert_eq!((rig.pending(Kind::MicroUsd), rig.posted(Kind::MicroUsd)), (0, 0));
    for (count, launching) in [Launching::Cut, Launching::Mumble, Launching::Failed].into_iter().enumerate() {
        fake.world().launching = launching;
        let lost = rig.post("/api/jobs/team", &job());
        assert_eq!(lost.status, 403, "{launching:?}: {lost:?}");
        assert!(lost.headers["x-error-message"].contains("held"), "{lost:?}");
        assert_eq!(rig.pending(Kind::MicroUsd), HELD, "{launching:?}");
        assert_eq!(fake.world().jobs.len(), count + 1);
        fake.run_all(30);
        fake.end_all("COMPLETED");
        rig.until("found by its label and settled", |rig| rig.pending(Kind::MicroUsd) == 0);
        assert_eq!(rig.posted(Kind::MicroUsd), (count as u64 + 1) * 6_667, "{launching:?}");
    }
}

#[test]
fn a_job_is_cancelled_when_its_time_is_used_up_or_its_account_revoked() {
    let fake = Fake::start();
    let rig = Rig::new(&fake);
    launched(&rig);
    fake.run_all(599);
    rig.until("ten minutes posted", |rig| rig.posted(Kind::MicroUsd) == 10 * 6_667);
    assert_eq!(fake.count("POST", "/api/jobs/team/job0/cancel"), 0);
    fake.run_all(600);
    rig.until("settled", |rig| rig.pending(Kind::MicroUsd) == 0);
    assert_eq!(fake.count("POST", "/api/jobs/team/job0/cancel"), 1);
    assert_eq!(rig.posted(Kind::MicroUsd), 10 * 6_667);
    launched(&rig);
    fake.run_all(10);
    rig.gate.freeze(&rig.account_id(), "test").unwrap();
    rig.until("a minute posted", |rig| rig.posted(Kind::MicroUsd) == 11 * 6_667);
    assert_eq!(fake.count("POST", "/api/jobs/team/job1/cancel"), 0, "what runs goes on while an account is frozen");
    rig.gate.revoke(&rig.account_id(), "test").unwrap();
    rig.until("cancelled", |_| fake.count("POST", "/api/jobs/team/job1/cancel") == 1);
    rig.until("settled", |rig| rig.pending(Kind::MicroUsd) == 0);
    assert_eq!(rig.post("/api/jobs/team", &job()).status, 403);
}

#[test]
fn a_cancel_that_fails_is_tried_again_and_keeps_the_hold() {
    let fake = Fake::start();
    let rig = Rig::new(&fake);
    launched(&rig);
    fake.world().cancel_fails = Some(500);
    fake.run_all(620);
    rig.until("three tries", |_| fake.count("POST", "/api/jobs/team/job0/cancel") >= 3);
    assert!(rig.pending(Kind::Jobs) == 1 && rig.pending(Kind::MicroUsd) > 0, "the hold stays");
    // What runs beyond its hold is counted all the same.
    fake.run_all(13 * 60);
    rig.until("thirteen minutes", |rig| rig.posted(Kind::MicroUsd) == 13 * 6_667);
    fake.world().cancel_fails = None;
    rig.until("settled", |rig| rig.pending(Kind::Jobs) == 0);
    assert_eq!(rig.posted(Kind::MicroUsd), 13 * 6_667);
}

#[test]
fn the_dearer_of_two_prices_counts_and_an_unreadable_one_launches_nothing() {
    let fake = Fake::start();
    let rig = Rig::new(&fake);
    fake.world().price = None;
    let reply = rig.post("/api/jobs/team", &job());
    assert!(reply.status == 403 && reply.headers["x-error-message"].contains("prices"), "{reply:?}");
    fake.world().price = Some(10_000);
    launched(&rig);
    assert_eq!(rig.pending(Kind::MicroUsd), 12 * 10_000);
    fake.run_all(60);
    fake.end_all("COMPLETED");
    rig.until("settled", |rig| rig.pending(Kind::MicroUsd) == 0);
    assert_eq!(rig.posted(Kind::MicroUsd), 10_000);
    let rig = Rig::new(&fake);
    fake.world().price = Some(1);
    launched(&rig);
    assert_eq!(rig.pending(Kind::MicroUsd), HELD, "a lower price does not count");
}

#[test]
fn labels_and_machines_that_lie_stop_the_job() {
    let fake = Fake::start();
    let rig = Rig::new(&fake);
    launched(&rig);
    fake.world().jobs[0]["flavor"] = json!("a100x8");
    rig.until("cancelled", |_| fake.count("POST", "/api/jobs/team/job0/cancel") >= 1);
    rig.until("settled", |rig| rig.pending(Kind::MicroUsd) == 0);
    // Two jobs with one label: both are stopped, both are paid.
    fake.world().launching = Launching::Mumble;
    let mut world = fake.world();
    world.jobs.clear();
    drop(world);
    assert_eq!(rig.post("/api/jobs/team", &job()).status, 403);
    let mut world = fake.world();
    let mut twin = world.jobs[0].clone();
    twin["id"] = json!("twin");
    let mut stranger = twin.clone();
    (stranger["id"], stranger["labels"]["weir-call"]) = (json!("stranger"), json!("another call's"));
    world.jobs.extend([twin, stranger]);
    drop(world);
    fake.run_all(50);
    let before = rig.posted(Kind::MicroUsd);
    rig.until("settled", |rig| rig.pending(Kind::MicroUsd) == 0);
    let asked = |id: &str| fake.count("POST", &format!("/api/jobs/team/{id}/cancel"));
    assert!(asked("twin") >= 1 && asked("stranger") == 0);
    assert!(rig.posted(Kind::MicroUsd) - before <= 2 * 6_667);
}

#[test]
fn an_agent_sees_and_stops_its_own_jobs_only() {
    let fake = Fake::start();
    let rig = Rig::new(&fake);
    let id = launched(&rig);
    let mut other = fake.world().jobs[0].clone();
    other["id"] = json!("others");
    fake.world().jobs.push(other);
    fake.run_all(5);
    for (method, path) in
        [("GET", "others"), ("POST", "others/cancel"), ("GET", "others/logs"), ("GET", "others/metrics")]
    {
        let reply = rig.ask(method, &format!("/api/jobs/team/{path}"), &[], b"");
        assert!(
            reply.status == 403 && reply.headers["x-error-message"].contains("not launched through"),
            "{path}: {reply:?}"
        );
    }
    let listed = rig.get("/api/jobs/team").json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(rig.get(&format!("/api/jobs/team/{id}")).json()["durations"]["runningSecs"], 5);
    let logs = rig.get(&format!("/api/jobs/team/{id}/logs"));
    assert!(logs.headers["content-type"] == "text/event-stream" && logs.text().contains("hello"));
    let cancelled = rig.ask("POST", &format!("/api/jobs/team/{id}/cancel"), &[], b"");
    assert_eq!((cancelled.status, &cancelled.json()["status"]["stage"]), (200, &json!("CANCELED")));
    rig.until("settled", |rig| rig.pending(Kind::MicroUsd) == 0);
    assert_eq!(rig.posted(Kind::MicroUsd), 6_667);
    assert_eq!(rig.get("/api/jobs/team?stage=RUNNING").json(), json!([]));
}

#[test]
fn a_thousand_launches_at_once_against_money_for_five_are_five() {
    let fake = Fake::start();
    let policy = crate::rig::POLICY.replace("limit = 1_000_000", &format!("limit = {}", 5 * HELD + HELD - 1));
    let rig = Arc::new(Rig::with(&fake, &crate::rig::Setup { policy, ..crate::rig::Setup::default() }));
    let threads: Vec<_> = (0..50)
        .map(|_| {
            let rig = rig.clone();
            std::thread::spawn(move || {
                let mut counts = [0_usize; 3];
                for _ in 0..20 {
                    match rig.post("/api/jobs/team", &job()).status {
                        200 => counts[0] += 1,
                        402 => counts[1] += 1,
                        _ => counts[2] += 1,
                    }
                }
                counts
            })
        })
        .collect();
    let counts = threads.into_iter().map(|thread| thread.join().unwrap());
    let sum = counts.fold([0; 3], |sum, next| [sum[0] + next[0], sum[1] + next[1], sum[2] + next[2]]);
    assert_eq!(sum, [5, 995, 0]);
    assert_eq!((fake.world().jobs.len(), rig.pending(Kind::MicroUsd)), (5, 5 * HELD));
}
