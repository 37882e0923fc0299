//! A small journal with every kind of entry, for the tests that read or damage it.

use weir::audit::{Body, Chain, Head, Key, OutcomeEntry, Receipt, ReceiptParts, Sealed};
use weir::model::{
    Action, Amounts, Call, Decision, Digest, Effect, Evidence, Happened, Kind, Name, Reason, ReasonCode, Resource,
    Status, Subject, Timestamp,
};

pub const SECRET: &str = "hunter2-is-the-password";

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn key() -> Key {
    Key::from_seed(&[7; 32])
}

pub fn call(id: &str) -> Call {
    let args = serde_json::json!({"path": "/data/a.csv", "token": SECRET, "n": 1e300});
    Call {
        id: name(id),
        subject: Subject {
            org: name("acme"),
            agent: name("coder"),
            session: name("s1"),
            run: name("r1"),
            delegation: vec![name("planner")],
            project: None,
        },
        action: Action::ToolCall,
        resource: Resource::named(name("read_file")),
        args: args.as_object().unwrap().clone(),
        parent: Some(name("outer")),
        surface: name("http"),
    }
}

pub fn decision(effect: Effect) -> Decision {
    let code = if effect == Effect::Allow { ReasonCode::Allowed } else { ReasonCode::BadArgument };
    Decision {
        effect,
        reason: Reason::new(code, format!("argument `token` is {SECRET}")).by("files", &[]),
        obligations: Vec::new(),
        reserve: held(),
        grant: None,
        exec: None,
        policy: Digest::of(b"policy"),
    }
}

pub fn held() -> Amounts {
    Amounts::ZERO.with(Kind::Calls, 1).with(Kind::MicroUsd, 1 << 60)
}

pub fn evidence(call: &Call, at: Timestamp, happened: Happened) -> Evidence {
    Evidence {
        session: call.subject.session.clone(),
        at,
        action: call.action,
        effect: None,
        resource: call.resource.name.clone(),
        happened,
        labels: vec!["untrusted".into(), "größer\u{1f980}".into()],
        action_digest: call.digest(),
        input_digest: Digest::ZERO,
        delegation: 1,
        protected_path: false,
        earlier_state: false,
        traceable: true,
    }
}

pub fn intent(call: &Call) -> Body {
    Body::intent(call, Digest::of(b"policy"), held(), Some("asked on the console".into()))
}

pub fn ran(call: &Call, at: Timestamp, intent: Digest) -> Body {
    let used = Amounts::ZERO.with(Kind::Calls, 1).with(Kind::MicroUsd, (1 << 60) - 1);
    let parts = ReceiptParts {
        call,
        args: None,
        decision: &decision(Effect::Allow),
        policy: &name("demo"),
        intent: Some(intent),
        approval: Some("asked on the console"),
        status: Some(Status::Done),
        usage: used,
        result: Some(Digest::of(b"result")),
        files: &[],
        tape: None,
        at,
    };
    outcome(call, at, used, Happened::Approved, Receipt::sign(&parts, &key()))
}

pub fn refused(call: &Call, at: Timestamp) -> Body {
    let parts = ReceiptParts {
        call,
        args: None,
        decision: &decision(Effect::Deny),
        policy: &name("demo"),
        intent: None,
        approval: None,
        status: None,
        usage: Amounts::ZERO,
        result: None,
        files: &[],
        tape: None,
        at,
    };
    outcome(call, at, Amounts::ZERO, Happened::Denied, Receipt::sign(&parts, &key()))
}

fn outcome(call: &Call, at: Timestamp, posted: Amounts, happened: Happened, receipt: Receipt) -> Body {
    let evidence = evidence(call, at, happened);
    Body::Outcome(Box::new(OutcomeEntry {
        call: call.id.clone(),
        posted,
        labels: vec!["seen".into()],
        evidence,
        receipt,
    }))
}

/// Eleven entries, one intent still open, and the head.
pub fn journal() -> (Vec<Sealed>, Chain) {
    let mut chain = Chain::default();
    let mut entries = Vec::new();
    let mut at = 1_772_366_400_000;
    let mut add = |chain: &mut Chain, body: Body| {
        at += 250;
        entries.push(chain.append(Timestamp(at), body));
        entries.last().unwrap().hash
    };
    add(&mut chain, Body::open("0.1.0", &key().public()));
    add(
        &mut chain,
        Body::Policy { id: name("demo"), digest: Digest::of(b"policy"), before: None, windows: Vec::new() },
    );
    let first = add(&mut chain, intent(&call("c1")));
    add(&mut chain, ran(&call("c1"), Timestamp(1), first));
    add(&mut chain, refused(&call("c2"), Timestamp(2)));
    add(&mut chain, intent(&call("c3")));
    let expire = evidence(&call("c3"), Timestamp(3), Happened::Unknown);
    add(&mut chain, Body::Expire { call: name("c3"), posted: held(), evidence: expire });
    let checkpoint = Body::checkpoint(&chain, &key());
    add(&mut chain, checkpoint);
    let second = add(&mut chain, intent(&call("c4")));
    add(&mut chain, intent(&call("c5")));
    add(&mut chain, ran(&call("c4"), Timestamp(4), second));
    (entries, chain)
}

pub fn texts(entries: &[Sealed]) -> Vec<String> {
    entries.iter().map(|entry| entry.text.clone()).collect()
}

pub fn head(chain: &Chain) -> Head {
    Head::sign(chain.count(), chain.head(), &key())
}
