//! Generations through the proxy: what is held, what is billed, what a client sees, to the micro-dollar.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use serde_json::{Value, json};
use weir::egress::Bounds;
use weir::model::{Amounts, Kind};

use crate::door::setup;
use crate::fake::{Asked, Fake, Step, Told};
use crate::provider::{chat_events, chat_usage, error, message, message_events, response_events, streamed, usage};
use crate::rig::{KEY, Reply, Rig, TOKEN};

const OPUS: &str = "claude-opus-4-8";
/// What one request of the scripted run costs, in micro-dollars.
const ONE: u64 = 15_750;

fn request(stream: bool) -> Value {
    json!({"model": OPUS, "max_tokens": 1000, "stream": stream, "messages": [{"role": "user", "content": "hello"}]})
}

fn claude(rig: &Rig, body: &Value) -> Reply {
    let headers = [
        ("anthropic-version", "2023-06-01"),
        ("x-claude-code-session-id", "5f0c"),
        ("content-type", "application/json"),
    ];
    rig.ask("POST", "/v1/messages?beta=true", &headers, body.to_string().as_bytes())
}

fn money(rig: &Rig) -> (u64, u64) {
    (rig.posted(Kind::MicroUsd), rig.pending(Kind::MicroUsd))
}

/// The same setup with a wallet of `limit` micro-dollars.
fn wallet(kind: &'static str, limit: u64) -> crate::rig::Setup {
    let mut setup = setup(kind);
    setup.policy = setup.policy.replace("limit = 2_000_000", &format!("limit = {limit}"));
    setup
}

#[test]
fn thirteen_requests_cost_what_the_client_says_that_they_cost() {
    let fake = Fake::start(|asked| match asked.json()["stream"].as_bool() {
        Some(true) => streamed("hello", &usage(), 50),
        _ => {
            let mut usage = usage();
            usage["output_tokens"] = 50.into();
            message("hello", &usage)
        }
    });
    let rig = Rig::start(&fake, setup("anthropic"));
    let events: String = message_events("hello", &usage(), 50).concat();
    for n in 1..=13 {
        let stream = n % 4 != 0;
        let reply = claude(&rig, &request(stream));
        assert_eq!((reply.status, reply.whole), (200, true), "{}", reply.text());
        if stream {
            assert_eq!(reply.text(), events, "byte for byte");
        }
        assert_eq!(money(&rig), (n * ONE, 0), "settled before the client has its last event");
    }
    // 0.20475 USD, as the client shows it.
    assert_eq!(money(&rig), (204_750, 0));
    let posted = |kind| rig.posted(kind);
    assert_eq!((posted(Kind::TokensIn), posted(Kind::TokensCached)), (13 * 5_100, 13 * 3_000));
    assert_eq!((posted(Kind::TokensCacheWrite), posted(Kind::TokensOut)), (13 * 2_000, 13 * 50));
    assert_eq!(fake.asked().len(), 13);
    let asked = &fake.asked()[0];
    assert_eq!(asked.path, "/v1/messages?beta=true");
    assert_eq!(asked.body, request(true).to_string().into_bytes(), "what need not change goes as it came");
    assert_eq!(asked.headers.get("x-api-key").map(String::as_str), Some(KEY));
    let journal = rig.journal.texts().concat();
    assert!(!journal.contains(KEY) && !journal.contains(TOKEN) && !journal.contains("hello"), "nothing of it is kept");
    assert!(fake.asked().iter().all(|asked| !format!("{asked:?}").contains(TOKEN)));
}

#[test]
fn a_thousand_at_once_against_a_budget_for_five_are_exactly_five() {
    let fake = Fake::start(|_| {
        let slow = message("hi", &json!({"input_tokens": 5, "output_tokens": 1000}));
        Told { steps: [vec![Step::Wait(Duration::from_secs(3))], slow.steps].concat(), ..slow }
    });
    // What one request holds: its bound of input at the price of reading, and 1,000 tokens of output.
    let probe = Rig::start(&fake, setup("anthropic"));
    let waiting = probe.send("POST", "/v1/messages", &[("x-api-key", TOKEN)], request(false).to_string().as_bytes());
    probe.until("the hold", |rig| rig.pending(Kind::MicroUsd) > 0);
    let one = probe.pending(Kind::MicroUsd);
    drop(waiting);
    let before = fake.asked().len();
    let rig = Rig::start(&fake, wallet("anthropic", 5 * one + one / 2));
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..1_000).map(|_| scope.spawn(|| claude(&rig, &request(false)).status)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    let others: Vec<u16> = statuses.iter().copied().filter(|status| !matches!(status, 200 | 402)).collect();
    assert_eq!((count(200), count(402)), (5, 995), "{others:?}");
    assert_eq!(fake.asked().len() - before, 5, "what is refused is never forwarded");
    assert_eq!(money(&rig), (5 * (25 + 25_000), 0));
}

#[test]
fn a_spent_budget_is_told_in_the_clients_own_error_shape_and_once() {
    let fake = Fake::start(|_| error(500, "api_error"));
    let rig = Rig::start(&fake, wallet("anthropic", 100));
    let reply = claude(&rig, &request(true));
    assert_eq!(reply.status, 402);
    let value = reply.json();
    assert_eq!((&value["type"], &value["error"]["type"]), (&json!("error"), &json!("billing_error")));
    let text = value["error"]["message"].as_str().unwrap();
    assert!(text.starts_with("[weir] denied model claude-opus-4-8: budget money") && text.len() < 400, "{text}");
    assert_eq!(reply.headers.get("x-should-retry").map(String::as_str), Some("false"));
    let unknown = claude(&rig, &json!({"model": "claude-unknown", "max_tokens": 5, "messages": []}));
    assert_eq!((unknown.status, unknown.json()["error"]["type"].as_str()), (403, Some("permission_error")));
    assert!(unknown.text().contains("no price"), "{}", unknown.text());
    let chat = Rig::start(&fake, wallet("openai", 100));
    let reply = chat.ask("POST", "/v1/chat/completions", &[], br#"{"model":"gpt-5","messages":[]}"#);
    assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (402, Some("insufficient_quota")));
    assert_eq!(fake.asked().len(), 0);
}

#[test]
fn max_tokens_is_cut_to_what_the_policy_and_the_budget_afford_and_never_raised() {
    let fake = Fake::start(|_| message("hi", &json!({"input_tokens": 1, "output_tokens": 1})));
    let asked = |fake: &Fake| fake.asked().last().unwrap().json()["max_tokens"].as_u64().unwrap();
    let body = |max: u64| json!({"model": OPUS, "max_tokens": max, "messages": [{"role": "user", "content": "x"}]});
    // Half a dollar buys 20,000 tokens of output, less what the input can cost.
    let rig = Rig::start(&fake, wallet("anthropic", 500_000));
    assert_eq!(claude(&rig, &body(64_000)).status, 200);
    let afforded = asked(&fake);
    assert!((18_000..20_000).contains(&afforded), "{afforded}");
    assert_eq!(claude(&rig, &body(500)).status, 200);
    assert_eq!(asked(&fake), 500);
    let mut capped = wallet("anthropic", 500_000);
    capped.policy =
        capped.policy.replacen("name = \"claude-opus-4-8\"\n", "name = \"claude-opus-4-8\"\nmax_tokens = 8_000\n", 1);
    let rig = Rig::start(&fake, capped);
    assert_eq!(claude(&rig, &body(64_000)).status, 200);
    assert_eq!(asked(&fake), 8_000);
    // What is left buys too little to be of use: refused, not crippled.
    let before = fake.asked().len();
    let rig = Rig::start(&fake, wallet("anthropic", 60_000));
    assert_eq!(claude(&rig, &body(64_000)).status, 402);
    let mut thinking = body(64_000);
    thinking["thinking"] = json!({"type": "enabled", "budget_tokens": 32_000});
    let rig = Rig::start(&fake, wallet("anthropic", 500_000));
    assert_eq!(claude(&rig, &thinking).status, 402, "fewer than it thinks with is of no use either");
    assert_eq!(fake.asked().len(), before);
}

#[test]
fn a_chat_without_bound_gets_one_and_its_usage_is_asked_for_and_hidden() {
    let fake = Fake::start(|asked| {
        let usage = chat_usage(1_000, 400, 20);
        let wanted = asked.json()["stream_options"]["include_usage"] == true;
        Told::events(chat_events("hi", wanted.then_some(&usage)).iter().map(String::as_str))
    });
    let rig = Rig::start(&fake, setup("openai"));
    let body = json!({"model": "gpt-5", "stream": true, "messages": [{"role": "user", "content": "x"}]});
    let reply = rig.ask("POST", "/v1/chat/completions", &[], body.to_string().as_bytes());
    let sent = fake.asked()[0].json();
    assert_eq!(
        (&sent["max_completion_tokens"], &sent["stream_options"]),
        (&json!(16_384), &json!({"include_usage": true}))
    );
    assert!(!reply.text().contains("prompt_tokens") && reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
    // 600 at 1.25, 400 at 0.125 and 20 at 10 dollars for a million.
    assert_eq!(money(&rig), (750 + 50 + 200, 0));
    let mut asking = body;
    asking["stream_options"] = json!({"include_usage": true, "include_obfuscation": false});
    asking["max_tokens"] = 100.into();
    asking["n"] = 2.into();
    let reply = rig.ask(
        "POST",
        "/chat/completions",
        &[("authorization", &format!("Bearer {TOKEN}"))],
        asking.to_string().as_bytes(),
    );
    assert_eq!(fake.asked()[1].path, "/v1/chat/completions");
    assert_eq!(fake.asked()[1].json(), asking, "nothing to change");
    assert!(reply.text().contains("\"prompt_tokens\":1000"));
    assert_eq!(money(&rig), (2_000, 0));
}

#[test]
fn responses_are_settled_by_their_last_event() {
    let fake = Fake::start(|asked| {
        let usage = json!({"input_tokens": 1000, "output_tokens": 20, "input_tokens_details": {"cached_tokens": 400}});
        match asked.json()["input"].as_str() {
            Some("whole") => Told::json(200, &json!({"id": "r", "usage": usage})),
            Some("failed") => {
                Told::events(response_events("", "response.failed", &Value::Null).iter().map(String::as_str))
            }
            Some(last) => Told::events(response_events("hi", last, &usage).iter().map(String::as_str)),
            None => error(400, "invalid_request_error"),
        }
    });
    let rig = Rig::start(&fake, setup("openai"));
    let mut spent = 0;
    for (input, cost) in
        [("response.completed", 1_000), ("response.incomplete", 1_000), ("whole", 1_000), ("failed", 0)]
    {
        let body = json!({"model": "gpt-5", "input": input, "stream": input != "whole", "max_output_tokens": 100});
        let reply = rig.ask("POST", "/v1/responses", &[("session_id", "s1")], body.to_string().as_bytes());
        spent += cost;
        assert_eq!((reply.status, money(&rig)), (200, (spent, 0)), "{input}: {}", reply.text());
    }
}

#[test]
fn a_client_that_goes_stops_the_provider_and_is_billed_for_what_was_seen() {
    let fake = Fake::start(|_| {
        let events = message_events("hello", &usage(), 50);
        Told::events(events[..4].iter().map(String::as_str)).then(Step::Linger)
    });
    let rig = Rig::start(&fake, setup("anthropic"));
    let mut stream = rig.send("POST", "/v1/messages", &[("x-api-key", TOKEN)], request(true).to_string().as_bytes());
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("text_delta") {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..read]);
    }
    drop(stream);
    rig.until("the bill", |rig| rig.posted(Kind::MicroUsd) > 0);
    // What was read is known; five bytes of text are taken for five tokens.
    assert_eq!(money(&rig), (500 + 1_500 + 12_500 + 125, 0));
    rig.until("the end upstream", |_| fake.left() == 1);
}

#[test]
fn a_client_that_goes_before_the_answer_is_billed_for_what_was_held() {
    let fake = Fake::start(|_| Told { status: 200, headers: Vec::new(), steps: vec![Step::Linger] });
    let rig = Rig::start(&fake, setup("anthropic"));
    let silent = Fake::start(|_| {
        std::thread::sleep(Duration::from_secs(30));
        error(500, "api_error")
    });
    drop(silent);
    let mut stream = rig.send("POST", "/v1/messages", &[("x-api-key", TOKEN)], request(false).to_string().as_bytes());
    rig.until("the request", |_| fake.asked().len() == 1);
    let held = rig.pending(Kind::MicroUsd);
    stream.flush().unwrap();
    drop(stream);
    rig.until("the bill", |rig| rig.pending(Kind::MicroUsd) == 0);
    assert!(held > 0);
    assert_eq!(money(&rig), (held, 0), "nobody knows what it used");
    rig.until("the end upstream", |_| fake.left() == 1);
}

#[test]
fn a_provider_that_fails_before_it_generates_costs_nothing() {
    let script = |asked: &Asked| match asked.json()["messages"][0]["content"].as_str().unwrap_or_default() {
        "429" => error(429, "rate_limit_error").with("retry-after", "3"),
        "529" => error(529, "overloaded_error"),
        "400" => error(400, "invalid_request_error"),
        "401" => Told::json(401, &json!({"error": {"message": format!("bad key {KEY}")}})),
        "first" => {
            Told::events(["event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n"])
        }
        _ => Told { status: 502, headers: Vec::new(), steps: vec![Step::Send(b"<html>bad gateway</html>".to_vec())] },
    };
    let fake = Fake::start(script);
    let rig = Rig::start(&fake, setup("anthropic"));
    let ask = |content: &str| {
        let body = json!({"model": OPUS, "max_tokens": 10, "stream": true, "messages": [{"role": "user", "content": content}]});
        claude(&rig, &body)
    };
    for (content, status) in [("429", 429), ("529", 529), ("400", 400), ("401", 403), ("first", 200)] {
        let reply = ask(content);
        assert_eq!((reply.status, money(&rig)), (status, (0, 0)), "{content}: {}", reply.text());
        assert!(!format!("{reply:?}").contains(KEY));
    }
    assert_eq!(ask("429").headers.get("retry-after").map(String::as_str), Some("3"));
    assert_eq!(ask("other").status, 502);
    assert!(money(&rig).0 > 0, "what stands between may have failed after the provider did its work");
}

#[test]
fn what_cannot_be_metered_costs_what_was_held() {
    let usages = [json!({"input_tokens": -1, "output_tokens": 1}), json!({"input_tokens": "5"}), json!(7), Value::Null];
    let count = std::sync::atomic::AtomicUsize::new(0);
    let fake = Fake::start(move |asked| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let events = message_events("hi", &usage(), 50);
        match n {
            0..=3 => message("hi", &usages[n]),
            4 => Told::events([
                events[0].as_str(),
                "event: message_delta\ndata: {\"type\": \"message_delta\", nonsense\n\n",
            ]),
            5 => message("hi", &usage()).with("content-encoding", "gzip"),
            6 => Told { status: 200, headers: Vec::new(), steps: vec![Step::Cut] },
            _ => {
                assert_eq!(asked.headers.get("accept-encoding").map(String::as_str), Some("identity"));
                Told { status: 200, headers: Vec::new(), steps: vec![Step::Send(vec![b' '; 20_000])] }
            }
        }
    });
    let mut small = setup("anthropic");
    small.bounds = Bounds { answer_bytes: 10_000, ..Bounds::default() };
    let rig = Rig::start(&fake, small);
    let mut spent = 0;
    for n in 0..8 {
        let reply = claude(&rig, &request(true));
        let (posted, pending) = money(&rig);
        let held = posted - spent;
        assert!(pending == 0 && held >= 25_000, "{n}: {held} for {} {}", reply.status, reply.text());
        spent = posted;
        assert_eq!(reply.status == 200, n <= 4, "{n}: {}", reply.text());
    }
    assert_eq!(rig.gate.doubts().len(), 8, "every one is open to reconciliation");
}

#[test]
fn a_stream_that_breaks_off_is_broken_for_the_client_too_and_billed() {
    let fake = Fake::start(|_| {
        let events = message_events("hello", &usage(), 50);
        Told::events(events[..4].iter().map(String::as_str)).then(Step::Cut)
    });
    let rig = Rig::start(&fake, setup("anthropic"));
    let reply = claude(&rig, &request(true));
    assert!(reply.status == 200 && !reply.whole, "{}", reply.text());
    assert_eq!(money(&rig), (500 + 1_500 + 12_500 + 125, 0));
}

#[test]
fn a_revoked_agent_loses_the_stream_that_runs_and_gets_no_other() {
    let fake = Fake::start(|_| {
        let events = message_events("hello", &usage(), 50);
        Told::events(events[..4].iter().map(String::as_str)).then(Step::Linger)
    });
    let rig = Rig::start(&fake, setup("anthropic"));
    let stream = rig.send("POST", "/v1/messages", &[("x-api-key", TOKEN)], request(true).to_string().as_bytes());
    rig.until("the request", |_| fake.asked().len() == 1);
    let account =
        rig.gate.balances().iter().find(|found| found.account.to_string() == "acme/coder").unwrap().account.clone();
    rig.gate.revoke(&account, "operator").unwrap();
    let reply = Reply::read(stream);
    assert!(!reply.whole, "{}", reply.text());
    rig.until("the end upstream", |_| fake.left() == 1);
    assert_eq!(rig.pending(Kind::MicroUsd), 0);
    assert!(rig.posted(Kind::MicroUsd) > 0);
    let again = claude(&rig, &request(true));
    assert_eq!((again.status, again.text().contains("revoked")), (403, true), "{}", again.text());
}

#[test]
fn a_stop_settles_what_is_open() {
    let fake = Fake::start(|_| {
        let events = message_events("hello", &usage(), 50);
        Told::events(events[..4].iter().map(String::as_str)).then(Step::Linger)
    });
    let mut quick = setup("anthropic");
    quick.bounds = Bounds { grace: Duration::from_millis(50), ..Bounds::default() };
    let mut rig = Rig::start(&fake, quick);
    let stream = rig.send("POST", "/v1/messages", &[("x-api-key", TOKEN)], request(true).to_string().as_bytes());
    rig.until("the request", |_| fake.asked().len() == 1);
    rig.stop();
    assert_eq!(rig.pending(Kind::MicroUsd), 0);
    assert!(rig.posted(Kind::MicroUsd) > 0);
    drop(stream);
}

#[test]
fn sessions_and_subagents_have_accounts_of_their_own() {
    let fake = Fake::start(|_| message("hi", &json!({"input_tokens": 100, "output_tokens": 10})));
    let mut deep = setup("anthropic");
    deep.policy.push_str("\n[peers]\nmax_depth = 1\n");
    let rig = Rig::start(&fake, deep);
    let body = request(false).to_string();
    let ask = |rig: &Rig, pairs: &[(&str, &str)]| rig.ask("POST", "/v1/messages", pairs, body.as_bytes());
    for session in ["one", "two"] {
        assert_eq!(ask(&rig, &[("x-claude-code-session-id", session)]).status, 200);
    }
    let helper = [("x-claude-code-session-id", "one"), ("x-claude-code-agent-id", "helper")];
    assert_eq!(ask(&rig, &helper).status, 200);
    let spent: Vec<(String, Amounts)> =
        rig.gate.balances().into_iter().map(|balance| (balance.account.to_string(), balance.posted)).collect();
    let of = |part: &str, end: bool| {
        let own = spent.iter().find(|(account, _)| if end { account.ends_with(part) } else { account.contains(part) });
        own.map(|(_, posted)| posted.of(Kind::MicroUsd))
    };
    assert_eq!(
        (of("/one", true), of("/two", true), of("helper", false)),
        (Some(1_500), Some(750), Some(750)),
        "{spent:?}"
    );
    let flat = Rig::start(&fake, setup("anthropic"));
    let reply = ask(&flat, &helper);
    assert_eq!((reply.status, reply.text().contains("delegation")), (403, true), "{}", reply.text());
}

#[test]
fn counting_tokens_is_free_and_hostile_bodies_go_nowhere() {
    let fake = Fake::start(|_| Told::json(200, &json!({"input_tokens": 7})));
    let mut small = setup("anthropic");
    small.bounds = Bounds { body_bytes: 100_000, ..Bounds::default() };
    let rig = Rig::start(&fake, small);
    let count = json!({"model": OPUS, "messages": []}).to_string();
    let reply = rig.ask("POST", "/v1/messages/count_tokens", &[], count.as_bytes());
    assert_eq!((reply.status, reply.json(), money(&rig)), (200, json!({"input_tokens": 7}), (0, 0)));
    let deep = format!("{{\"model\":{}1{}}}", "[".repeat(500), "]".repeat(500));
    let cases: Vec<(Vec<u8>, u16)> = vec![
        (b"{}".to_vec(), 400),
        (b"[]".to_vec(), 400),
        (b"".to_vec(), 400),
        (b"{\"model\":\"claude-opus-4-8\",\"model\":\"cheap\",\"max_tokens\":1}".to_vec(), 400),
        (b"{\"model\":\"claude-opus-4-8\",\"max_tokens\":1e400}".to_vec(), 400),
        (b"{\"model\":\"\xff\"}".to_vec(), 400),
        (deep.into_bytes(), 400),
        (vec![b' '; 200_000], 413),
    ];
    let before = fake.asked().len();
    for (body, status) in cases {
        let reply = rig.ask("POST", "/v1/messages", &[], &body);
        assert_eq!(
            reply.status,
            status,
            "{} of {}",
            reply.text(),
            String::from_utf8_lossy(&body[..body.len().min(80)])
        );
    }
    let zipped = rig.ask("POST", "/v1/messages", &[("content-encoding", "gzip")], request(true).to_string().as_bytes());
    assert_eq!((zipped.status, fake.asked().len(), money(&rig)), (400, before, (0, 0)));
}

#[test]
fn nobody_behind_the_address_costs_nothing() {
    let gone = Fake::start(|_| error(500, "api_error"));
    let rig = Rig::start(&gone, setup("anthropic"));
    let address = gone.address;
    drop(gone);
    while std::net::TcpStream::connect(address).is_ok() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let reply = claude(&rig, &request(true));
    assert_eq!((reply.status, money(&rig)), (502, (0, 0)), "{}", reply.text());
}
