//! Whatever is done to a journal is found, and the first bad entry is named.

#[allow(dead_code, reason = "shared with other tests")]
mod books;

use books::{SECRET, call, head, intent, journal, key, name, ran, refused, texts};
use weir::audit::{About, Bad, Body, Chain, Entry, Head, Key, Question, Reading, Sealed, Verdict, Verified, verify};
use weir::model::{Amounts, Call, Digest, Kind, Timestamp, Window, canonical};

fn check(texts: &[String], head: Option<&Head>) -> Result<Verified, Bad> {
    verify(texts.iter().cloned(), head, &key().public(), |_| {})
}

/// As a gate reads its own journal.
fn replay(texts: &[String], head: Option<&Head>) -> Result<Verified, Bad> {
    let public = key().public();
    let mut reading = Reading::replaying(&public);
    texts.iter().for_each(|text| drop(reading.add(text.clone())));
    reading.finish(head)
}

/// Where the first fault is, which must be found with and without the receipts' signatures.
fn found(texts: &[String], head: &Head, what: &str) -> u64 {
    let seq = check(texts, Some(head)).expect_err(what).seq;
    let again = replay(texts, Some(head)).expect_err(what);
    assert!(again.seq <= seq + 1, "{what}: {again} against {seq}");
    seq
}

#[test]
fn a_sound_journal_verifies() {
    let (entries, chain) = journal();
    let mut seen = 0;
    let told = verify(texts(&entries).into_iter(), Some(&head(&chain)), &key().public(), |_| seen += 1).unwrap();
    assert_eq!((told.entries, told.receipts, told.denials, told.open, seen), (11, 3, 1, 1, 11));
    assert_eq!(told.chain, chain, "a gate can go on from here");
    assert_eq!(replay(&texts(&entries), Some(&head(&chain))), Ok(told));
    let headless = replay(&texts(&entries), None).unwrap_err();
    assert_eq!((headless.seq, headless.text.as_str()), (11, "the signed head is missing"));
    assert_eq!(check(&[], None), Ok(Verified::default()));
}

#[test]
fn every_flip_of_every_byte_is_found_in_its_entry() {
    let (entries, chain) = journal();
    let (texts, head) = (texts(&entries), head(&chain));
    for (at, text) in texts.iter().enumerate() {
        for byte in 0..text.len() {
            // One bit each, taken in turn, and one whole byte now and then.
            for mask in [1u8 << (byte % 8), 1 << ((byte + 5) % 8)] {
                let mut bytes = text.clone().into_bytes();
                bytes[byte] ^= mask;
                let mut bad = texts.clone();
                bad[at] = String::from_utf8_lossy(&bytes).into_owned();
                let what = format!("entry {at} byte {byte} mask {mask:#x}");
                let seq = check(&bad, Some(&head)).expect_err(&what).seq;
                assert_eq!(seq, at as u64, "{what}: {}", bad[at]);
            }
        }
    }
}

#[test]
fn every_flip_of_the_head_is_found() {
    let (entries, chain) = journal();
    let text = canonical(&head(&chain));
    for byte in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[byte] ^= 1 << (byte % 7);
        let flipped: Result<Head, _> = serde_json::from_slice(&bytes);
        if let Ok(flipped) = flipped {
            assert!(check(&texts(&entries), Some(&flipped)).is_err(), "byte {byte}");
        }
    }
}

#[test]
fn every_drop_swap_copy_and_cut_is_found_where_it_happened() {
    let (entries, chain) = journal();
    let (texts, head) = (texts(&entries), head(&chain));
    for at in 0..texts.len() {
        let mut dropped = texts.clone();
        dropped.remove(at);
        assert_eq!(found(&dropped, &head, "drop"), at as u64, "drop of {at}");
        let mut twice = texts.clone();
        twice.insert(at, texts[at].clone());
        assert_eq!(found(&twice, &head, "copy"), at as u64 + 1, "copy of {at}");
        assert_eq!(found(&texts[..at], &head, "cut"), at as u64, "cut at {at}");
        for other in at + 1..texts.len() {
            let mut swapped = texts.clone();
            swapped.swap(at, other);
            assert_eq!(found(&swapped, &head, "swap"), at as u64, "swap of {at} and {other}");
        }
    }
}

#[test]
fn a_foreign_entry_is_found_wherever_it_is_put() {
    let (entries, chain) = journal();
    let (texts, head) = (texts(&entries), head(&chain));
    for at in 1..=texts.len() {
        // Forged with care: right number, right predecessor, right time; the key is not needed for it.
        let before = &entries[at - 1];
        let time = serde_json::from_str::<Entry>(&before.text).unwrap().at;
        let mut fork = Chain::after(before.seq, before.hash, time);
        let forged = fork
            .append(time, Body::Policy { id: name("evil"), digest: Digest::ZERO, before: None, windows: Vec::new() });
        let mut inserted = texts.clone();
        inserted.insert(at, forged.text.clone());
        assert_eq!(found(&inserted, &head, "insert"), at as u64, "insert at {at}");
        if at < texts.len() {
            let mut replaced = texts.clone();
            replaced[at] = forged.text;
            assert_eq!(found(&replaced, &head, "replace"), at as u64, "replace {at}");
        }
    }
}

#[test]
fn a_second_way_to_write_an_entry_is_found() {
    let (entries, chain) = journal();
    let (texts, head) = (texts(&entries), head(&chain));
    let first = &texts[1];
    let ways = [
        format!(" {first}"),
        format!("{first}\n"),
        first.replacen('{', "{\"seq\":1,", 1),
        first.replace("\"before\":null,", ""),
        first.replace("\"demo\"", "\"d\\u0065mo\""),
        first.replace("\"seq\":1", "\"seq\":1.0"),
        format!("{{\"x\":1,{}", &first[1..]),
        "[".repeat(100_000),
        String::new(),
    ];
    for way in ways {
        assert_ne!(way, *first);
        let mut bad = texts.clone();
        bad[1] = way.clone();
        assert_eq!(found(&bad, &head, "form"), 1, "{way:.80}");
    }
}

/// Makes the next body from the entries so far.
type Next = Box<dyn Fn(&[Sealed]) -> Body>;

/// A journal of these bodies with its head, signed by the gate's own key: only the story is wrong.
fn story(bodies: Vec<Next>) -> Result<Verified, Bad> {
    let mut chain = Chain::default();
    let mut entries = vec![chain.append(Timestamp(0), Body::open("0.1.0", &key().public()))];
    for body in bodies {
        let body = body(&entries);
        entries.push(chain.append(Timestamp(9), body));
    }
    check(&texts(&entries), Some(&head(&chain)))
}

fn step(body: impl Fn(&[Sealed]) -> Body + 'static) -> Next {
    Box::new(body)
}

#[test]
fn a_story_that_no_gate_tells_is_found() {
    let intends = |id: &'static str| step(move |_| intent(&call(id)));
    let runs = |id: &'static str, at: usize| step(move |done| ran(&call(id), Timestamp(1), done[at].hash));
    let refuses = |id: &'static str| step(move |_| refused(&call(id), Timestamp(1)));
    let faults: Vec<(&str, u64, Vec<_>)> = vec![
        ("ran without an intent", 1, vec![runs("c1", 0)]),
        ("used before", 2, vec![intends("c1"), intends("c1")]),
        ("used before", 2, vec![refuses("c1"), intends("c1")]),
        ("ended before", 3, vec![intends("c1"), runs("c1", 1), runs("c1", 1)]),
        ("ended before", 2, vec![refuses("c1"), refuses("c1")]),
        ("not the call's intent", 3, vec![intends("c1"), intends("c2"), runs("c1", 2)]),
        ("context is not", 2, vec![intends("c1"), refuses("c1")]),
        ("holds nothing", 1, vec![step(|_| expire("c1"))]),
        ("holds nothing", 3, vec![intends("c1"), step(|_| expire("c1")), step(|_| expire("c1"))]),
        (
            "another action",
            2,
            vec![
                intends("c1"),
                step(|done| {
                    alter(ran(&call("c1"), Timestamp(1), done[1].hash), |o| o.receipt.action.tool = name("rm"))
                }),
            ],
        ),
        (
            "another call",
            2,
            vec![
                intends("c1"),
                step(|done| alter(ran(&call("c1"), Timestamp(1), done[1].hash), |o| o.call = name("c2"))),
            ],
        ),
        (
            "another approval",
            2,
            vec![
                intends("c1"),
                step(|done| alter(ran(&call("c1"), Timestamp(1), done[1].hash), |o| o.receipt.approval = None)),
            ],
        ),
        (
            "signature",
            2,
            vec![
                intends("c1"),
                step(|done| alter(ran(&call("c1"), Timestamp(1), done[1].hash), |o| o.receipt.at = Timestamp(2))),
            ],
        ),
        (
            "without an intent",
            1,
            vec![step(|_| {
                alter(refused(&call("c1"), Timestamp(1)), |o| o.posted = Amounts::ZERO.with(Kind::Calls, 1))
            })],
        ),
        ("in the clear", 1, vec![step(|_| with_args("c1"))]),
        ("another key", 1, vec![step(|_| Body::open("0.1.0", &Key::from_seed(&[8; 32]).public()))]),
        ("checkpoint", 1, vec![step(|_| Body::Checkpoint { count: 1, signature: key().sign(b"other") })]),
    ];
    for (text, seq, bodies) in faults {
        let bad = story(bodies).expect_err(text);
        assert!(bad.text.contains(text) && bad.seq == seq, "expected `{text}` at {seq}, got {bad}");
    }
    let told = story(vec![intends("c1"), intends("c2"), runs("c2", 2), refuses("c3"), runs("c1", 1)]).unwrap();
    assert_eq!((told.receipts, told.denials, told.open), (3, 1, 0));
}

/// A question about `c1`, put by call `c0`: an answer is for the call, whatever its id.
fn question() -> Question {
    let Body::Intent { policy, .. } = intent(&call("c1")) else { panic!("an intent") };
    Question::new(&call("c0"), About::Rule { policy, rule: Some("ask".into()) }, Timestamp(99), 1, Digest::ZERO)
}

fn capped(budget: &str) -> Question {
    let (account, by) = ("acme".to_owned(), Amounts::ZERO.with(Kind::Calls, 1));
    let about = About::Budget { policy: Digest::ZERO, budget: budget.into(), account, by, window: Window::Total };
    Question { about, ..question() }
}

fn ask(question: impl Fn() -> Question + 'static) -> Next {
    step(move |_| Body::Ask { question: Box::new(question()) })
}

fn says(verdict: Verdict) -> Next {
    step(move |_| Body::Answer { question: question().id, verdict, by: "operator".into(), until: Timestamp(99) })
}

fn raises(budget: &'static str) -> Next {
    let by = Amounts::ZERO.with(Kind::Calls, 1);
    step(move |_| Body::Raise {
        budget: budget.into(),
        account: "acme".into(),
        by,
        window: Window::Total,
        approval: "operator".into(),
        question: Some(question().id),
    })
}

fn uses(id: &'static str, change: impl Fn(&mut Call) + 'static) -> Next {
    step(move |_| {
        let mut call = call(id);
        change(&mut call);
        intent(&call).using(Some(question().id))
    })
}

#[test]
fn answers_that_no_gate_takes_are_found() {
    use Verdict::{Expired, Granted, Refused};
    let uses_it = |id| uses(id, |_| {});
    let faults: Vec<(&str, u64, Vec<_>)> = vec![
        ("that nobody asked", 1, vec![says(Granted)]),
        ("that nobody asked", 1, vec![uses_it("c1")]),
        ("that nobody asked", 1, vec![raises("b")]),
        ("has its answer", 3, vec![ask(question), says(Refused), says(Granted)]),
        ("has its answer", 3, vec![ask(question), says(Granted), says(Granted)]),
        ("has no yes", 2, vec![ask(question), uses_it("c1")]),
        ("used before", 3, vec![ask(question), says(Refused), uses_it("c1")]),
        ("used before", 3, vec![ask(question), says(Expired), uses_it("c1")]),
        ("used before", 4, vec![ask(question), says(Granted), uses_it("c1"), uses_it("c2")]),
        (
            "another call",
            3,
            vec![ask(question), says(Granted), uses("c1", |call| call.subject.session = name("other"))],
        ),
        ("another call", 3, vec![ask(question), says(Granted), uses("c1", |call| call.args.clear())]),
        (
            "another call",
            3,
            vec![
                ask(|| {
                    let about = About::Rule { policy: Digest::of(b"next"), rule: None };
                    Question { about, ..question() }
                }),
                says(Granted),
                uses_it("c1"),
            ],
        ),
        ("no raise", 2, vec![ask(|| capped("b")), says(Granted)]),
        ("another budget", 2, vec![ask(|| capped("b")), raises("c")]),
        ("in the clear", 1, vec![ask(|| Question { call: Box::new(call("c1")), ..question() })]),
    ];
    for (number, (text, seq, bodies)) in faults.into_iter().enumerate() {
        let bad = story(bodies).expect_err(text);
        assert!(bad.text.contains(text) && bad.seq == seq, "{number}: expected `{text}` at {seq}, got {bad}");
    }
    story(vec![ask(question), says(Granted), uses("c1", |call| call.subject.run = name("later"))]).unwrap();
    story(vec![ask(|| capped("b")), raises("b")]).unwrap();
}

fn alter(body: Body, change: impl Fn(&mut weir::audit::OutcomeEntry)) -> Body {
    let Body::Outcome(mut outcome) = body else { panic!("an outcome") };
    change(&mut outcome);
    Body::Outcome(outcome)
}

fn expire(id: &str) -> Body {
    let evidence = books::evidence(&call(id), Timestamp(3), weir::model::Happened::Unknown);
    Body::Expire { call: name(id), posted: books::held(), evidence }
}

fn with_args(id: &str) -> Body {
    let Body::Intent { args, policy, held, approval, .. } = intent(&call(id)) else { panic!("an intent") };
    Body::Intent { call: Box::new(call(id)), args, policy, held, approval, question: None }
}

#[test]
fn another_key_verifies_nothing() {
    let (entries, chain) = journal();
    let other = Key::from_seed(&[8; 32]);
    let bad = verify(texts(&entries).into_iter(), Some(&head(&chain)), &other.public(), |_| {}).unwrap_err();
    assert_eq!((bad.seq, bad.text.as_str()), (0, "the store was opened with another key"));
    let forged = Head::sign(chain.count(), chain.head(), &other);
    assert!(check(&texts(&entries), Some(&forged)).unwrap_err().text.contains("signature of the journal's head"));
}

#[test]
fn the_first_entry_opens_the_store_and_time_does_not_go_back() {
    let mut chain = Chain::default();
    let first = chain
        .append(Timestamp(5), Body::Policy { id: name("p"), digest: Digest::ZERO, before: None, windows: Vec::new() });
    assert!(check(&[first.text], None).unwrap_err().text.contains("does not open"));
    let mut chain = Chain::default();
    let open = || Body::open("0.1.0", &key().public());
    let texts = [chain.append(Timestamp(5), open()).text, chain.append(Timestamp(3), open()).text];
    assert_eq!(check(&texts, None).map(|told| told.entries), Ok(2), "a clock stepped back: the chain keeps its time");
    let mut fork = Chain::after(0, Digest::of(texts[0].as_bytes()), Timestamp(0));
    let early = fork.append(Timestamp(3), open()).text;
    let bad = check(&[texts[0].clone(), early], None).unwrap_err();
    assert_eq!((bad.seq, bad.text.as_str()), (1, "it is earlier than the entry before"));
}

#[test]
fn no_entry_holds_an_argument_a_result_or_the_text_of_a_reason() {
    let (entries, _) = journal();
    assert!(call("c1").args_text().contains(SECRET));
    for entry in entries {
        assert!(!entry.text.contains(SECRET) && !entry.text.contains("/data/a.csv"), "{}", entry.text);
    }
}
