//! A question answered by its link: signed, for one question, without a token; and told to an operator alone.

use serde_json::{Value, json};

use crate::rig::{AGENT, OPERATOR, Reply, Rig, eventually};

/// A request with no token, as a browser sends it.
fn browse(rig: &Rig, method: &str, path: &str, form: &str, more: &str) -> Reply {
    let kind = if form.is_empty() { "" } else { "Content-Type: application/x-www-form-urlencoded\r\n" };
    let length = form.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost:7000\r\n{kind}{more}Content-Length: {length}\r\n\r\n");
    rig.unix().send(format!("{head}{form}").as_bytes())
}

fn links(rig: &Rig) -> Vec<String> {
    let listed = rig.ask(OPERATOR, "GET", "/v1/approvals", None).json();
    listed["approvals"].as_array().unwrap().iter().map(|card| card["link"].as_str().unwrap().to_owned()).collect()
}

/// Asks about `texts`, one question each; gives every answer to `person` with the links of those that wait.
fn asked(texts: &[&str], person: impl FnOnce(&Rig, Vec<String>)) -> Vec<Value> {
    let rig = Rig::start(|_| {});
    let session = rig.session();
    std::thread::scope(|scope| {
        let (rig, session) = (&rig, &session);
        let asking: Vec<_> = texts
            .iter()
            .map(|text| {
                let call =
                    json!({"session": session, "action": "tool.call", "resource": "risky", "args": {"text": text}});
                scope.spawn(move || rig.post("/v1/decide", call).json())
            })
            .collect();
        eventually("asked", || links(rig).len() == texts.len());
        person(rig, links(rig));
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn parts(link: &str) -> (&str, &str) {
    link.split_once("?s=").unwrap()
}

#[test]
fn a_link_shows_one_question_and_takes_one_answer() {
    let said = asked(&["<script>alert(1)</script>\u{202e}"], |rig, links| {
        let (path, signature) = parts(&links[0]);
        let page = browse(rig, "GET", &links[0], "", "");
        assert_eq!(page.status, 200);
        let text = page.text();
        assert!(text.contains("&lt;script&gt;alert(1)") && !text.contains("<script") && text.contains("\\u{202e}"));
        assert!(page.head.contains("default-src 'none'") && page.head.contains("form-action 'self'"), "{}", page.head);
        let form = format!("s={signature}&verdict=approve");
        let own = "Origin: http://localhost:7000\r\n";
        let done = browse(rig, "POST", path, &form, own);
        assert!(done.status == 200 && done.text().contains("Approved, once"), "{done:?}");
        for again in [browse(rig, "POST", path, &form, own), browse(rig, "GET", &links[0], "", "")] {
            assert_eq!(again.status, 404, "an answer is given once");
        }
    });
    assert_eq!(said[0]["effect"], "allow");
}

#[test]
fn a_link_is_for_its_own_question_and_is_told_to_an_operator_alone() {
    let said = asked(&["one", "two"], |rig, links| {
        assert_eq!(rig.ask(AGENT, "GET", "/v1/approvals", None).status, 403);
        let ((first, good), (_, other)) = (parts(&links[0]), parts(&links[1]));
        let changed = format!("{}{}", if good.starts_with('0') { '1' } else { '0' }, &good[1..]);
        for bad in ["", "00", other, &changed, &good[..62], AGENT, "zz"] {
            assert_eq!(browse(rig, "GET", &format!("{first}?s={bad}"), "", "").status, 404, "{bad}");
            let posted = browse(rig, "POST", first, &format!("s={bad}&verdict=approve"), "");
            assert!([400, 404].contains(&posted.status), "{bad}");
        }
        assert_eq!(browse(rig, "GET", first, "", "").status, 404);
        let foreign =
            browse(rig, "POST", first, &format!("s={good}&verdict=approve"), "Origin: http://evil.example\r\n");
        assert_eq!(foreign.status, 403);
        let other_port =
            browse(rig, "POST", first, &format!("s={good}&verdict=approve"), "Origin: http://localhost:1\r\n");
        assert_eq!(other_port.status, 403);
        let json = rig.ask(AGENT, "POST", first, Some(json!({"s": good, "verdict": "approve"})));
        assert_eq!(json.status, 415);
        assert_eq!(links.len(), 2, "nothing was answered by any of these");
        for link in &links {
            let (path, signature) = parts(link);
            assert_eq!(browse(rig, "POST", path, &format!("s={signature}&verdict=refuse"), "").status, 200);
        }
    });
    assert!(said.iter().all(|said| said["reason"] == "approval_refused"), "{said:?}");
}
