//! The matrix of tricks in `launches.toml`: each is judged as it goes over the wire, and what is refused reaches nobody.

use serde::Deserialize;
use serde_json::Value;
use weir::model::Kind;

use crate::fake::Fake;
use crate::rig::{Rig, job};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Matrix {
    launch: Vec<Trick>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trick {
    name: String,
    path: Option<String>,
    body: Option<String>,
    raw: Option<String>,
    says: Option<String>,
    held_s: Option<u64>,
}

#[test]
fn every_trick_is_judged_by_what_goes_over_the_wire() {
    let matrix: Matrix = toml::from_str(include_str!("launches.toml")).unwrap();
    let refusals = matrix.launch.iter().filter(|trick| trick.says.is_some()).count();
    assert!(refusals >= 20, "{refusals}");
    for trick in matrix.launch {
        let fake = Fake::start();
        let rig = Rig::new(&fake);
        let mut body = job();
        if let Some(change) = &trick.body {
            let change: Value = serde_json::from_str(change).unwrap();
            for (key, value) in change.as_object().unwrap() {
                body[key] = value.clone();
            }
        }
        let text = trick.raw.clone().unwrap_or_else(|| body.to_string());
        let path = trick.path.as_deref().unwrap_or("/api/jobs/team");
        let reply = rig.ask("POST", path, &[("content-type", "application/json")], text.as_bytes());
        let told = reply.headers.get("x-error-message").cloned().unwrap_or_default();
        match (&trick.says, trick.held_s) {
            (Some(says), None) => {
                assert!(reply.status == 403 && told.contains(says.as_str()), "{}: {} {told}", trick.name, reply.status);
                assert!(told.contains("[weir] denied") && told.len() <= 400, "{}: {told}", trick.name);
                assert_eq!((fake.world().jobs.len(), rig.pending(Kind::MicroUsd)), (0, 0), "{}", trick.name);
            }
            (None, Some(seconds)) => {
                assert_eq!((reply.status, fake.world().jobs.len()), (200, 1), "{}: {told}", trick.name);
                assert_eq!(rig.pending(Kind::MicroUsd), (seconds.div_ceil(60) + 2) * 6_667, "{}", trick.name);
                assert_eq!(fake.world().jobs[0]["timeoutSeconds"], seconds, "{}", trick.name);
            }
            _ => panic!("{}: either refused with `says` or held for `held_s`", trick.name),
        }
    }
}
