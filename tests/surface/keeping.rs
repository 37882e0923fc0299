//! Sessions that last: whose they are, when they can be changed, and that labels go where variables go.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use serde_json::json;
use weir::model::{OutputFile, Quota, Seat, Timestamp};
use weir::pep::port::{KeepFault, Keeper, Kept, Point};

use crate::rig::{AGENT, OPERATOR, Rig, eventually, name};

/// A keeper whose sessions are lists of steps.
#[derive(Default)]
pub struct Shelf(Mutex<Vec<Kept>>, crate::files::Shelf);

impl Shelf {
    /// Notes a step of `seat`.
    pub fn ran(&self, seat: &Seat) {
        self.put(seat.clone());
        self.with(seat, |kept| kept.steps += 1).unwrap();
    }

    /// Keeps something of `seat`.
    pub fn put(&self, seat: Seat) {
        let mut all = self.0.lock().unwrap();
        if !all.iter().any(|kept| kept.seat == seat) {
            let (guest, live) = (name("python"), true);
            all.push(Kept { seat, guest, live, steps: 0, memory_bytes: 65_536, checkpoints: Vec::new() });
        }
    }

    fn with<T>(&self, seat: &Seat, work: impl FnOnce(&mut Kept) -> T) -> Result<T, KeepFault> {
        let mut all = self.0.lock().unwrap();
        all.iter_mut().find(|kept| kept.seat == *seat).map(work).ok_or(KeepFault::Absent("kept session of this name"))
    }
}

impl Keeper for Shelf {
    fn list(&self) -> Vec<Kept> {
        self.0.lock().unwrap().clone()
    }

    fn checkpoint(&self, seat: &Seat) -> Result<Point, KeepFault> {
        self.with(seat, |kept| {
            if kept.checkpoints.len() == 3 {
                return Err(KeepFault::Full("three are enough".into()));
            }
            let id = format!("{:032x}", kept.checkpoints.len());
            let point = Point { id, at: Timestamp(1), steps: kept.steps, bytes: 10, after: None };
            kept.checkpoints.push(point.clone());
            Ok(point)
        })?
    }

    fn roll_back(&self, seat: &Seat, point: Option<&str>) -> Result<Point, KeepFault> {
        self.with(seat, |kept| {
            let found = kept.checkpoints.iter().rev().find(|known| point.is_none_or(|point| known.id == point));
            let found = found.cloned().ok_or(KeepFault::Absent("such checkpoint"))?;
            kept.steps = found.steps;
            Ok(found)
        })?
    }

    fn fork(&self, seat: &Seat, point: Option<&str>, to: &Seat) -> Result<Point, KeepFault> {
        if point == Some("changed") {
            return Err(KeepFault::Refused("its file is not what this gate kept there".into()));
        }
        let steps = self.with(seat, |kept| kept.steps)?;
        self.put(to.clone());
        self.with(to, |kept| kept.steps = steps)?;
        self.checkpoint(to)
    }

    fn remove(&self, seat: &Seat) -> Result<(), KeepFault> {
        self.with(seat, |_| ())?;
        self.0.lock().unwrap().retain(|kept| kept.seat != *seat);
        Ok(())
    }

    fn furnish(&self, seat: &Seat, quota: &Quota) -> Result<(), KeepFault> {
        self.1.furnish(seat, quota)
    }

    fn files(&self, seat: &Seat) -> Result<Vec<OutputFile>, KeepFault> {
        self.1.files(seat)
    }

    fn read(&self, seat: &Seat, path: &str) -> Result<Vec<u8>, KeepFault> {
        self.1.read(seat, path)
    }

    fn write(&self, seat: &Seat, path: &str, content: &[u8]) -> Result<OutputFile, KeepFault> {
        self.1.write(seat, path, content)
    }
}

fn seat(agent: &str, session: &str) -> Seat {
    Seat { org: name("acme"), agent: name(agent), name: name(session) }
}

fn sessions(rig: &Rig, token: &str) -> Vec<String> {
    let listed = rig.ask(token, "GET", "/v1/kept", None).json();
    listed["sessions"].as_array().unwrap().iter().map(|row| row["session"].as_str().unwrap().to_owned()).collect()
}

fn to(session: &str, what: &str) -> String {
    format!("/v1/sessions/{session}/{what}")
}

#[test]
fn a_session_is_put_aside_and_gone_back_to() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    assert_eq!(rig.get(&to(&session, "checkpoints")).json(), json!({"checkpoints": []}));
    rig.execute(&session, "print x");
    let made = rig.post(&to(&session, "checkpoints"), json!({}));
    assert_eq!((made.status, &made.json()["steps"]), (201, &json!(1)), "{}", made.text());
    rig.execute(&session, "print x");
    rig.post(&to(&session, "checkpoints"), json!({}));
    let points = rig.get(&to(&session, "checkpoints")).json();
    assert_eq!(points["checkpoints"].as_array().unwrap().len(), 2);
    let first = &points["checkpoints"][0]["id"];
    let back = rig.post(&to(&session, "rollback"), json!({"checkpoint": first}));
    assert_eq!((back.status, &back.json()["id"]), (200, first));
    let kept = rig.get("/v1/kept").json();
    assert_eq!((&kept["sessions"][0]["steps"], &kept["sessions"][0]["open"]), (&json!(1), &json!(true)));
    assert_eq!(rig.post(&to(&session, "rollback"), json!({})).json()["steps"], 2, "the newest one");
    assert_eq!(rig.post(&to(&session, "rollback"), json!({"checkpoint": "none"})).code(), "not_found");
    rig.post(&to(&session, "checkpoints"), json!({}));
    let full = rig.post(&to(&session, "checkpoints"), json!({}));
    assert_eq!((full.code().as_str(), full.text().contains("three are enough")), ("conflict", true));
    for bad in [json!({"checkpoint": 1}), json!({"point": "x"}), json!([])] {
        assert_eq!(rig.post(&to(&session, "rollback"), bad).code(), "malformed");
    }
}

#[test]
fn an_agent_reaches_its_own_sessions_and_an_operator_all() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    rig.execute(&session, "print x");
    rig.script.shelf.put(seat("spy", "foreign"));
    assert_eq!(sessions(&rig, AGENT), std::slice::from_ref(&session));
    assert_eq!(sessions(&rig, OPERATOR), [session.clone(), "foreign".to_owned()]);
    for what in ["checkpoints", "rollback", "fork"] {
        assert_eq!(rig.post(&to("foreign", what), json!({})).code(), "not_found", "{what}");
    }
    assert_eq!(rig.get(&to("foreign", "checkpoints")).code(), "not_found");
    assert_eq!(rig.post("/v1/sessions", json!({"tools": [], "resume": "foreign"})).code(), "not_found");
    let by_operator = |what: &str| rig.ask(OPERATOR, "POST", &to("foreign", what), Some(json!({})));
    assert_eq!(by_operator("checkpoints").status, 201);
    assert_eq!(by_operator("rollback").status, 200);
    assert_eq!(by_operator("fork").code(), "conflict", "not into this gate's agent");
    assert_eq!(rig.ask(AGENT, "DELETE", &format!("/v1/kept/{session}"), None).code(), "forbidden");
    assert_eq!(rig.ask(OPERATOR, "DELETE", &format!("/v1/kept/{session}"), None).json(), json!({}));
    assert_eq!(rig.ask(OPERATOR, "DELETE", "/v1/kept/none", None).code(), "not_found");
    assert_eq!(sessions(&rig, OPERATOR), ["foreign"]);
}

#[test]
fn nothing_of_a_session_changes_while_it_runs() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    let event = rig.execute(&session, "call echo {}").json();
    for what in ["checkpoints", "rollback", "fork"] {
        assert_eq!(rig.post(&to(&session, what), json!({})).code(), "conflict", "{what}");
    }
    assert_eq!(rig.ask(OPERATOR, "DELETE", &format!("/v1/kept/{session}"), None).code(), "conflict");
    assert_eq!(rig.get(&to(&session, "checkpoints")).status, 200, "reading is no change");
    assert_eq!(rig.resume(&event, json!(1)).json()["status"], "done");
    assert_eq!(rig.post(&to(&session, "checkpoints"), json!({})).status, 201);
}

#[test]
fn a_copy_is_a_session_of_its_own_with_the_same_tools() {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    rig.execute(&session, "print x");
    let forked = rig.ask(OPERATOR, "POST", &to(&session, "fork"), Some(json!({})));
    assert_eq!(forked.status, 201, "{}", forked.text());
    let answer = forked.json();
    let copy = answer["session"].as_str().unwrap();
    assert_ne!(copy, session);
    assert_eq!((&answer["agent"], &answer["checkpoint"]["steps"]), (&json!("coder"), &json!(1)));
    let event = rig.execute(copy, "call echo {}").json();
    assert_eq!(event["event"], "tool", "the tools came along: {event}");
    assert_eq!(rig.resume(&event, json!(1)).json()["status"], "done");
    let refused = rig.post(&to(&session, "fork"), json!({"checkpoint": "changed"}));
    assert_eq!(refused.code(), "conflict");
    assert_eq!(sessions(&rig, AGENT).len(), 2, "nothing was opened");
    let child = rig.post("/v1/sessions", json!({"tools": [], "parent": session, "name": "helper"})).json();
    let child = child["session"].as_str().unwrap().to_owned();
    assert_eq!(rig.post(&to(&child, "fork"), json!({})).code(), "conflict", "it would gain a budget");
}

#[test]
fn a_copy_has_the_labels_of_its_source() {
    let rig = Rig::start(|setup| {
        let text = String::from_utf8(include_bytes!("policy.toml").to_vec()).unwrap();
        let text = text.replacen("effect = \"read\"", "effect = \"read\"\nlabels = [\"seen\"]", 1);
        let rule = "[[rule]]\nid = \"sealed\"\neffect = \"deny\"\nactions = [\"tool.call\"]\nresources = [\"paid\"]\n\
            when = \"context.labels.contains(\\\"seen\\\")\"\nreason = \"the test says so\"\n";
        let names = "[labels]\nnames = [\"seen\"]\n";
        setup.policy = weir::policy::parse(format!("{text}\n{names}\n{rule}").as_bytes(), "policy.toml").unwrap();
    });
    let decide = |session: &str, tool: &str| {
        rig.post("/v1/decide", json!({"session": session, "action": "tool.call", "resource": tool})).json()
    };
    let session = rig.session();
    rig.execute(&session, "print x");
    let clean = rig.post(&to(&session, "fork"), json!({})).json();
    let seen = decide(&session, "echo");
    rig.post("/v1/outcome", json!({"call": seen["call"], "status": "done"}));
    assert_eq!(decide(&session, "paid")["effect"], "deny", "the label is on the source");
    let marked = rig.post(&to(&session, "fork"), json!({})).json();
    assert_eq!(decide(clean["session"].as_str().unwrap(), "paid")["effect"], "allow", "it was copied before");
    assert_eq!(decide(marked["session"].as_str().unwrap(), "paid")["effect"], "deny");
}

#[test]
fn a_kept_session_is_opened_again_under_its_id_and_account() {
    let rig = Rig::start(|setup| setup.config.idle = std::time::Duration::from_millis(300));
    let session = rig.session();
    rig.execute(&session, "print x");
    let spend = |session: &str| {
        rig.post("/v1/decide", json!({"session": session, "action": "tool.call", "resource": "paid"})).json()
    };
    let resume = || rig.post("/v1/sessions", json!({"tools": [{"name": "echo"}], "resume": session}));
    assert_eq!(resume().code(), "conflict", "it is open");
    for _ in 0..2 {
        let call = spend(&session);
        rig.post("/v1/outcome", json!({"call": call["call"], "status": "done"}));
    }
    eventually("idle", || *rig.script.rested.lock().unwrap() == [name(&session)]);
    assert_eq!(rig.execute(&session, "print x").status, 404);
    let kept = rig.get("/v1/kept").json();
    assert_eq!((&kept["sessions"][0]["session"], &kept["sessions"][0]["open"]), (&json!(session), &json!(false)));
    let again = resume();
    assert_eq!((again.status, &again.json()["session"]), (201, &json!(session)), "{}", again.text());
    assert_eq!(spend(&session)["reason"], "budget_exhausted", "what was spent stays spent");
    assert_eq!(rig.execute(&session, "print x").json()["status"], "done");
    for (id, code) in [("none", "not_found"), ("seat:00", "not_found")] {
        assert_eq!(rig.post("/v1/sessions", json!({"tools": [], "resume": id})).code(), code);
    }
    let both = json!({"tools": [], "resume": session, "parent": session, "name": "x"});
    assert_eq!(rig.post("/v1/sessions", both).code(), "malformed");
}

#[test]
fn closing_forgets_and_stopping_lets_rest() {
    let mut rig = Rig::start(|_| {});
    let (closed, rested) = (rig.session(), rig.session());
    rig.ask(AGENT, "DELETE", &format!("/v1/sessions/{closed}"), None);
    rig.stop();
    rig.ended();
    assert_eq!(*rig.script.closed.lock().unwrap(), [name(&closed), name(&rested)]);
    assert_eq!(*rig.script.rested.lock().unwrap(), [name(&rested)]);
    assert_eq!(rig.script.started.load(Ordering::SeqCst), 0);
}
