//! Nested calls of one execution: parsed strictly, counted, and sent through the whole line of the gate.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::tape::{Mark, Turn};
use super::wire::Request;
use super::{Work, tagged};
use crate::model::{Action, Effect, GuestError, Limits, Outcome, ReasonCode, Status, parse_json};
use crate::pep::Answer;
use crate::pep::port::ToolSpec;

/// Calls that are answered "no more" before a guest that does not listen is stopped.
const PATIENCE: u64 = 64;
/// Objects of the host that one session can hold.
const HANDLES: usize = 100_000;

/// The nested calls of one execution.
pub(crate) struct Exchange<'a> {
    work: &'a Work<'a>,
    tools: BTreeMap<String, ToolSpec>,
    /// Ids of host objects that came into this session.
    handles: &'a mut HashSet<String>,
    calls: u64,
    denials: Vec<ReasonCode>,
    /// What the final-answer tool returned, once it has run.
    pub(crate) answer: Option<Value>,
    /// What the last call meant.
    pub(crate) mark: Mark,
    /// Time spent on the host's side of calls.
    pub(crate) hosted: Duration,
}

/// Whether the guest goes on after a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// With this reply.
    Reply(String),
    /// It does not: it keeps calling after the limit.
    Stop,
}

impl<'a> Exchange<'a> {
    /// No calls yet; `tools` are those for which the guest has stubs.
    pub(crate) fn new(work: &'a Work<'a>, tools: Vec<ToolSpec>, handles: &'a mut HashSet<String>) -> Self {
        let tools = tools.into_iter().map(|tool| (tool.name.as_str().to_owned(), tool)).collect();
        let (denials, mark) = (Vec::new(), Mark::Plain);
        let mut new = Self { work, tools, handles, calls: 0, denials, answer: None, mark, hosted: Duration::ZERO };
        for value in work.variables.values() {
            new.admit(value);
        }
        new
    }

    /// What comes with the program, two lines of JSON: what may be used, and how much, which a guest that was told the
    /// same before need not read again; and the variables.
    pub(crate) fn request(&self) -> String {
        let grant = self.work.grant;
        let used = json!({
            "tools": self.tools.values().collect::<Vec<_>>(),
            "imports": grant.imports,
            "files": !grant.files.is_empty() || grant.scratch.is_some(),
            "result_bytes": grant.limits.result_bytes,
        });
        // Neither has a line break of its own: JSON writes those inside texts as escapes.
        format!("{used}\n{}", Value::Object(self.work.variables.clone()))
    }

    /// Handles one call of the guest.
    pub(crate) fn handle(&mut self, request: &Request) -> Next {
        self.calls += 1;
        self.mark = Mark::Plain;
        if self.calls > self.work.grant.limits.callbacks.saturating_add(PATIENCE) {
            return Next::Stop;
        }
        let reply = if self.over_limit() {
            json!({"ended": "limit"})
        } else if self.answer.is_some() {
            json!({"ended": "final"})
        } else {
            self.forward(request).unwrap_or_else(|error| error_reply(&error.kind, &error.message))
        };
        Next::Reply(reply.to_string())
    }

    /// Replies to one call as it was replied to before, and asks nobody.
    pub(crate) fn repeat(&mut self, turn: Option<&Turn>) -> Next {
        self.calls += 1;
        let Some((turn, text)) = turn.and_then(|turn| Some((turn, turn.answer.as_ref()?))) else { return Next::Stop };
        self.mark = turn.mark.clone();
        match &turn.mark {
            Mark::Plain => {
                let given = parse_json(text.as_bytes()).ok().and_then(|mut reply| Some(reply.get_mut("value")?.take()));
                given.iter().for_each(|value| self.admit(value));
            }
            Mark::Denied(code) => self.denials.push(*code),
            Mark::Final(answer) => {
                self.answer = parse_json(answer.as_bytes()).ok();
                self.answer.clone().iter().for_each(|value| self.admit(value));
            }
        }
        Next::Reply(text.clone())
    }

    /// True once more calls were made than the limit allows.
    pub(crate) const fn over_limit(&self) -> bool {
        self.calls > self.work.grant.limits.callbacks
    }

    /// True for a host object that came into this session.
    pub(crate) fn knows(&self, handle: &str) -> bool {
        self.handles.contains(handle)
    }

    /// Why the last refused call was refused.
    pub(crate) fn last_denial(&self) -> Option<ReasonCode> {
        self.denials.last().copied()
    }

    fn forward(&mut self, request: &Request) -> Result<Value, GuestError> {
        if request.name.len() > Limits::NAME_BYTES {
            return Err(wrong("a name has at most 128 characters"));
        }
        let args = self.arguments(request)?;
        let tool = self.tools.get(&request.name);
        let action = match request.kind.as_str() {
            "import" => Action::CodeImport,
            "tool" if tool.is_some_and(|tool| tool.is_agent) => Action::AgentInvoke,
            "tool" => Action::ToolCall,
            _ => return Err(wrong("there are two kinds of call: tool and import")),
        };
        let is_final = action != Action::CodeImport && tool.is_some_and(|tool| tool.is_final);
        let since = Instant::now();
        let answer = self.work.inner.call(action, &request.name, args);
        self.hosted += since.elapsed();
        self.reply(answer, action, is_final)
    }

    fn arguments(&self, request: &Request) -> Result<Map<String, Value>, GuestError> {
        let limit = self.work.grant.limits.result_bytes;
        let over = |bytes: u64| wrong(&format!("{bytes} bytes of arguments are over the limit of {limit} bytes"));
        let text = request.args.as_ref().map_err(|bytes| over(*bytes))?;
        if text.len() as u64 > limit {
            return Err(over(text.len() as u64));
        }
        let value = parse_json(text.as_bytes()).map_err(|fault| wrong(&fault.to_string()))?;
        tagged::check(&value, &mut |id| self.knows(id)).map_err(|fault| wrong(&fault.to_string()))?;
        match value {
            Value::Object(args) if !args.contains_key("$") => Ok(args),
            _ => Err(wrong("arguments are an object of names and values")),
        }
    }

    /// The reply for what the gate answered.
    fn reply(&mut self, answer: Answer, action: Action, is_final: bool) -> Result<Value, GuestError> {
        if let Some(text) = refusal(&answer, action) {
            self.denied(answer.decision.reason.code);
            return Ok(json!({"denied": text}));
        }
        let Answer { decision, outcome, .. } = answer;
        let outcome = outcome.unwrap_or_else(|| Outcome::of(Status::Done));
        match outcome.status {
            Status::Done if is_final => {
                self.value(&outcome.output)?;
                self.mark = Mark::Final(outcome.output.to_string());
                self.answer = Some(outcome.output);
                Ok(json!({"ended": "final"}))
            }
            Status::Done => {
                self.value(&outcome.output)?;
                Ok(json!({"value": outcome.output}))
            }
            Status::Denied => {
                self.denied(outcome.stopped.unwrap_or(decision.reason.code));
                Ok(json!({"denied": said(&outcome, "a denial inside the call was not handled")}))
            }
            Status::Failed => Err(outcome.error.unwrap_or_else(|| wrong("the tool failed and did not say why"))),
            Status::Exhausted => Ok(error_reply("LimitReached", &said(&outcome, "a limit stopped the call"))),
            Status::Broken => Ok(error_reply("ToolUnavailable", &said(&outcome, "the tool could not be run"))),
            Status::Unknown => Ok(error_reply("ToolTimeout", &said(&outcome, "the host did not answer in time"))),
        }
    }

    fn denied(&mut self, code: ReasonCode) {
        self.mark = Mark::Denied(code);
        self.denials.push(code);
    }

    /// Checks a value of the host and lets its objects into the session.
    fn value(&mut self, value: &Value) -> Result<(), GuestError> {
        tagged::check(value, &mut |_| true).map_err(|fault| wrong(&format!("the tool's result: {fault}")))?;
        self.admit(value);
        if self.handles.len() > HANDLES {
            return Err(wrong("this session holds too many objects of the host"));
        }
        Ok(())
    }

    fn admit(&mut self, value: &Value) {
        let handles = &mut *self.handles;
        // The shape was checked before; this pass only collects.
        let _ = tagged::check(value, &mut |id| {
            handles.insert(id.to_owned());
            true
        });
    }
}

/// Why the call did not run; an allowed import has nothing to run.
fn refusal(answer: &Answer, action: Action) -> Option<String> {
    let granted = action == Action::CodeImport && answer.decision.effect == Effect::Allow;
    let silent = || (answer.outcome.is_none() && !granted).then(|| answer.decision.reason.denial("the call"));
    answer.denial.clone().or_else(silent)
}

fn said(outcome: &Outcome, otherwise: &str) -> String {
    outcome.error.as_ref().map_or_else(|| otherwise.to_owned(), |error| error.message.clone())
}

fn wrong(message: &str) -> GuestError {
    GuestError { kind: "ValueError".into(), message: message.to_owned(), traceback: String::new() }
}

fn error_reply(kind: &str, message: &str) -> Value {
    json!({"error": {"type": kind, "message": message}})
}
