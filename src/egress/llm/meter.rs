//! Reads what a provider answers, event by event or whole, for what it used and whether it came to an end.

use serde_json::{Map, Value};

use super::ask::Api;
use super::usage::Used;
use crate::model::{Amounts, GuestError, Outcome, ReasonCode, Status, parse_json};
use crate::policy::CacheWrite;

/// What to do with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It goes to the client.
    Pass,
    /// The client did not ask for it.
    Hide,
    /// It goes to the client, and is the last that counts.
    Last,
}

/// Why an answer ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The client went.
    Client,
    /// The upstream broke off.
    Upstream,
    /// An account was revoked.
    Revoked,
    /// The gate stops.
    Stopped,
}

/// Meters one answer.
pub(super) struct Meter {
    api: Api,
    write: CacheWrite,
    hide: bool,
    /// What was said last, or most.
    said: Option<Used>,
    /// Said in full, and the answer is whole.
    whole: bool,
    /// Something that should have been a report was none.
    unreadable: bool,
    /// Bytes of what was written so far: no fewer than tokens.
    bytes: u64,
    /// The provider says that it failed.
    failed: bool,
    /// The most that can have been read and written.
    most: (u64, u64),
}

impl Meter {
    /// Of an answer on `api` to a request that `writes` to a cache and can use `most` tokens, read and written.
    /// `hide` is for a report of usage that the client did not ask for.
    pub(super) const fn new(api: Api, write: CacheWrite, hide: bool, most: (u64, u64)) -> Self {
        Self { api, write, hide, said: None, whole: false, unreadable: false, bytes: 0, failed: false, most }
    }

    /// Takes an answer that is not a stream.
    pub(super) fn whole(&mut self, body: &[u8]) {
        let usage = parse_json(body).ok().and_then(|value| value.get("usage").and_then(Value::as_object).cloned());
        match usage {
            // A report of half of it is none.
            Some(usage)
                if self.api != Api::Messages
                    || ["input_tokens", "output_tokens"]
                        .iter()
                        .all(|key| usage.get(*key).is_some_and(Value::is_u64)) =>
            {
                self.say(&usage);
                self.whole = !self.unreadable;
            }
            _ => self.unreadable = true,
        }
    }

    /// Takes the data of an event.
    pub(super) fn event(&mut self, data: &[u8]) -> Event {
        if data == b"[DONE]" {
            self.whole |= self.said.is_some();
            return Event::Last;
        }
        let Ok(Value::Object(event)) = parse_json(data) else {
            self.unreadable = true;
            return Event::Pass;
        };
        match self.api {
            Api::Messages | Api::CountTokens => self.anthropic(&event),
            Api::Chat => self.chat(&event),
            Api::Responses => self.response(&event),
        }
    }

    fn say(&mut self, usage: &Map<String, Value>) {
        let used = match self.api {
            Api::Messages | Api::CountTokens => Used::anthropic(usage, self.write),
            Api::Chat => Used::openai(usage, true),
            Api::Responses => Used::openai(usage, false),
        };
        match used {
            Ok(used) => self.said = Some(self.said.map_or(used, |said| said.most(used))),
            Err(_) => self.unreadable = true,
        }
    }

    fn anthropic(&mut self, event: &Map<String, Value>) -> Event {
        let of = |value: Option<&Value>| value.and_then(|value| value.get("usage")).and_then(Value::as_object).cloned();
        match event.get("type").and_then(Value::as_str).unwrap_or_default() {
            "message_start" => match of(event.get("message")) {
                Some(usage) => self.say(&usage),
                None => self.unreadable = true,
            },
            "content_block_start" => self.count(event.get("content_block")),
            "content_block_delta" => self.count(event.get("delta")),
            "message_delta" => match event.get("usage").and_then(Value::as_object) {
                Some(usage) if usage.get("output_tokens").is_some_and(Value::is_u64) => {
                    self.say(usage);
                    self.whole = true;
                }
                _ => self.unreadable = true,
            },
            "message_stop" => return Event::Last,
            "error" => self.failed = true,
            _ => {}
        }
        Event::Pass
    }

    fn chat(&mut self, event: &Map<String, Value>) -> Event {
        let choices = event.get("choices").and_then(Value::as_array);
        choices.into_iter().flatten().for_each(|choice| self.count(choice.get("delta")));
        self.failed |= event.contains_key("error");
        let Some(usage) = event.get("usage").filter(|usage| !usage.is_null()) else { return Event::Pass };
        match usage.as_object() {
            Some(usage) => self.say(usage),
            None => self.unreadable = true,
        }
        if choices.is_some_and(Vec::is_empty) {
            self.whole = true;
            if self.hide {
                return Event::Hide;
            }
        }
        Event::Pass
    }

    fn response(&mut self, event: &Map<String, Value>) -> Event {
        let word = event.get("type").and_then(Value::as_str).unwrap_or_default();
        match word {
            "response.completed" | "response.incomplete" | "response.failed" => {
                let usage = event.get("response").and_then(|response| response.get("usage"));
                match usage.and_then(Value::as_object) {
                    Some(usage) => {
                        self.say(usage);
                        self.whole = true;
                    }
                    None if word == "response.failed" => self.failed = true,
                    None => self.unreadable = true,
                }
                Event::Last
            }
            "error" => {
                self.failed = true;
                Event::Pass
            }
            _ => {
                if word.ends_with(".delta")
                    && let Some(Value::String(text)) = event.get("delta")
                {
                    self.add(text);
                }
                Event::Pass
            }
        }
    }

    fn add(&mut self, text: &str) {
        self.bytes = self.bytes.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX));
    }

    /// Counts every text below `value`; without recursion.
    fn count(&mut self, value: Option<&Value>) {
        let mut stack: Vec<&Value> = value.into_iter().collect();
        while let Some(value) = stack.pop() {
            match value {
                Value::String(text) => self.add(text),
                Value::Array(items) => stack.extend(items),
                // A type is a word of the protocol, and a signature is no text.
                Value::Object(map) => {
                    stack.extend(map.iter().filter(|(key, _)| *key != "type").map(|(_, value)| value))
                }
                Value::Null | Value::Bool(_) | Value::Number(_) => {}
            }
        }
    }

    /// The outcome of an answer that came to its end.
    pub(super) fn end(&self) -> Outcome {
        match self.said {
            // What was held counts: nobody knows what it was.
            _ if self.unreadable => {
                told(Status::Unknown, self.at_least(), "the provider's report of usage cannot be read")
            }
            Some(used) if self.whole => Outcome { usage: used.amounts(), ..Outcome::of(Status::Done) },
            _ => self.cut(Cut::Upstream),
        }
    }

    /// The outcome of an answer that ended early: what was said, and what was seen beyond it.
    pub(super) fn cut(&self, cut: Cut) -> Outcome {
        if self.unreadable {
            return told(Status::Unknown, self.at_least(), "the provider's report of usage cannot be read");
        }
        if self.failed && self.said.is_none() && self.bytes == 0 {
            return told(Status::Broken, Amounts::ZERO, "the provider failed before it generated anything");
        }
        let text = match cut {
            Cut::Client => "the client closed the connection",
            Cut::Upstream => "the provider broke off",
            Cut::Revoked => "an account was revoked",
            Cut::Stopped => "the gate stopped",
        };
        let status = if cut == Cut::Revoked { Status::Exhausted } else { Status::Failed };
        let stopped = (cut == Cut::Revoked).then_some(ReasonCode::AccountRevoked);
        Outcome { stopped, ..told(status, self.at_least(), text) }
    }

    /// What must have been used: what was said where something was, everything that the request can be where not,
    /// and a token for each byte that was seen.
    fn at_least(&self) -> Amounts {
        let (read, written) = self.most;
        let (short, long) = match self.write {
            CacheWrite::None => (0, 0),
            CacheWrite::Short => (read, 0),
            CacheWrite::Long => (0, read),
        };
        let unsaid = Used { read, cached: 0, short, long, written: 0 };
        let said = self.said.unwrap_or(unsaid);
        let seen = if self.whole { 0 } else { self.bytes.min(written) };
        Used { written: said.written.max(seen).max(1), ..said }.amounts()
    }
}

fn told(status: Status, usage: Amounts, text: &str) -> Outcome {
    let error = GuestError { kind: "Generation".into(), message: text.to_owned(), traceback: String::new() };
    Outcome { usage, error: Some(error), ..Outcome::of(status) }
}

/// The outcome of a request of which nobody knows what came.
pub(super) fn unknown(text: &str) -> Outcome {
    told(Status::Unknown, Amounts::ZERO, text)
}

/// The outcome of a request that was never generated.
pub(super) fn nothing(text: &str) -> Outcome {
    told(Status::Broken, Amounts::ZERO, text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Kind;

    fn metered(api: Api, events: &[Value]) -> Meter {
        let mut meter = Meter::new(api, CacheWrite::None, false, (1_000, 500));
        events.iter().for_each(|event| drop(meter.event(event.to_string().as_bytes())));
        meter
    }

    fn shown(outcome: &Outcome) -> (Status, u64, u64) {
        (outcome.status, outcome.usage.of(Kind::TokensIn), outcome.usage.of(Kind::TokensOut))
    }

    fn start(read: u64) -> Value {
        json!({"type": "message_start", "message": {"usage": {"input_tokens": read, "output_tokens": 1}}})
    }

    fn text(text: &str) -> Value {
        json!({"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}})
    }

    fn delta(written: Value) -> Value {
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": written}})
    }

    #[test]
    fn the_last_of_growing_reports_counts_and_none_is_added() {
        let stop = json!({"type": "message_stop"});
        let events = [start(7), text("hello"), delta(json!(3)), delta(json!(9)), delta(json!(9)), start(7), stop];
        assert_eq!(shown(&metered(Api::Messages, &events).end()), (Status::Done, 7, 9));
    }

    #[test]
    fn an_answer_that_is_cut_costs_what_was_seen_and_never_nothing() {
        let cut = |events: &[Value]| shown(&metered(Api::Messages, events).cut(Cut::Client));
        assert_eq!(cut(&[]), (Status::Failed, 1_000, 1), "nothing seen: all that can have been read");
        assert_eq!(cut(&[start(7)]), (Status::Failed, 7, 1));
        assert_eq!(cut(&[start(7), text("hello")]), (Status::Failed, 7, 5));
        assert_eq!(cut(&[start(7), text(&"x".repeat(9_000))]), (Status::Failed, 7, 500), "no more than was granted");
        assert_eq!(cut(&[json!({"type": "error", "error": {}})]), (Status::Broken, 0, 0));
        assert_eq!(cut(&[start(7), json!({"type": "error"})]), (Status::Failed, 7, 1));
        assert_eq!(shown(&metered(Api::Messages, &[start(7), text("hi")]).end()), (Status::Failed, 7, 2), "no end");
    }

    #[test]
    fn a_report_that_cannot_be_read_is_an_unknown_cost() {
        for wrong in [json!(-3), json!("9"), json!(1.5), Value::Null] {
            let meter = metered(Api::Messages, &[start(7), delta(wrong.clone())]);
            assert_eq!(meter.end().status, Status::Unknown, "{wrong}");
        }
        let mut meter = metered(Api::Messages, &[start(7)]);
        meter.event(b"{\"type\": \"message_delta\", \"usage\": {\"output_tokens\": 1}, \"usage\": {}}");
        assert_eq!(meter.cut(Cut::Client).status, Status::Unknown);
        let mut meter = Meter::new(Api::Chat, CacheWrite::None, false, (1, 1));
        meter.whole(b"{\"choices\": []}");
        assert_eq!(meter.end().status, Status::Unknown);
    }

    #[test]
    fn the_report_that_was_not_asked_for_is_hidden_and_nothing_else() {
        let usage = json!({"prompt_tokens": 5, "completion_tokens": 3});
        let mut meter = Meter::new(Api::Chat, CacheWrite::None, true, (1, 1));
        let mut event = |value: Value| meter.event(value.to_string().as_bytes());
        assert_eq!(event(json!({"choices": [{"delta": {"content": "hi"}}], "usage": null})), Event::Pass);
        assert_eq!(event(json!({"choices": [{"delta": {}}], "usage": usage})), Event::Pass);
        assert_eq!(event(json!({"choices": [], "usage": usage})), Event::Hide);
        assert_eq!(meter.event(b"[DONE]"), Event::Last);
        assert_eq!(shown(&meter.end()), (Status::Done, 5, 3));
    }

    #[test]
    fn a_response_says_at_its_end_what_it_used() {
        let ended = |word: &str, usage: Value| {
            let events = [
                json!({"type": "response.output_text.delta", "delta": "four"}),
                json!({"type": word, "response": {"usage": usage}}),
            ];
            shown(&metered(Api::Responses, &events).end())
        };
        let usage = json!({"input_tokens": 5, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 1}});
        assert_eq!(ended("response.completed", usage.clone()), (Status::Done, 5, 3));
        assert_eq!(ended("response.incomplete", usage.clone()), (Status::Done, 5, 3));
        assert_eq!(ended("response.failed", usage), (Status::Done, 5, 3));
        assert_eq!(ended("response.failed", Value::Null), (Status::Failed, 1_000, 4));
        assert_eq!(ended("response.completed", Value::Null), (Status::Unknown, 1_000, 4));
    }
}
