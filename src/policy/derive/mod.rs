//! Profile in, policy out: the same profile and options give the same bytes.
//!
//! `limits` is the table from factors to numbers, `answers` the table from threats to controls, both
//! documented in `docs/policy.md`. This file only decides who answers what; `text` writes it.

mod client;
mod limits;
mod rules;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use super::Profile;
use super::answers::{Control, acceptance, controls};
use super::program::{hides, name_fault};
use super::reader::{list, nearest};
use crate::model::{EffectClass, Name, ThreatId};
use client::{CLIENTS, Client};
use limits::Bounds;

/// The tool that ends a task; every derived policy has it.
pub const FINAL_ANSWER: &str = "final_answer";

/// The label of sessions that have read what came from outside.
const UNTRUSTED: &str = "untrusted";

/// Most words of a program and the beginning of its arguments.
const WORDS: usize = 16;

/// Actions that a derived policy asks a person about where its profile speaks of compute.
const MACHINES: [&str; 3] = ["job.launch", "package.publish", "process.run"];

/// What the operator adds to a profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    tools: BTreeMap<String, EffectClass>,
    allowed: BTreeSet<String>,
    /// Actions on machines and registries that need no person.
    free: BTreeSet<&'static str>,
    peers: BTreeSet<String>,
    /// The coding agent whose tools the policy declares.
    client: Option<&'static Client>,
    /// What its command lines may run, by name.
    programs: BTreeMap<String, ProgramRow>,
    /// Programs that need no person, whatever their class.
    free_programs: BTreeSet<String>,
}

/// What a program does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ProgramRow {
    effect: EffectClass,
    /// Beginnings of its arguments; any when empty.
    args: Vec<Vec<String>>,
}

impl Options {
    /// Declares a tool: `NAME=read|write|exec|network|spend`.
    ///
    /// # Errors
    /// What is wrong, for the user.
    pub fn tool(&mut self, text: &str) -> Result<(), String> {
        let words = list(EffectClass::ALL.iter().map(|class| class.word()));
        let (name, class) =
            text.split_once('=').ok_or_else(|| format!("a tool is NAME=CLASS with a class of {words}"))?;
        let effect = EffectClass::from_word(class).ok_or_else(|| format!("the class of `{name}` is one of {words}"))?;
        Name::new(name).map_err(|fault| format!("tool `{name}`: {fault}"))?;
        if name == FINAL_ANSWER {
            return Err(format!("every derived policy has `{FINAL_ANSWER}` already"));
        }
        if let Some(client) = self.client.filter(|client| client.tools.iter().any(|row| row.name == name)) {
            return Err(format!("`{name}` is a tool of {} and is declared already", client.title));
        }
        match self.tools.insert(name.to_owned(), effect) {
            Some(earlier) if earlier != effect => Err(format!("tool `{name}` has two classes")),
            _ => Ok(()),
        }
    }

    /// Declares the tools of a coding agent and what its command lines may run. To be said before tools and grants.
    ///
    /// # Errors
    /// Nothing is known of it, or it was said after others.
    pub fn client(&mut self, word: &str) -> Result<(), String> {
        let known = || list(CLIENTS.iter().map(|client| client.word));
        let client = CLIENTS.iter().find(|client| client.word == word);
        let client = client.ok_or_else(|| format!("no tools of `{word}` are known; clients are {}", known()))?;
        if *self != Self::default() {
            return Err("the client comes before tools, programs, grants and peers".to_owned());
        }
        self.client = Some(client);
        self.programs = client.programs.iter().map(|known| (known.name.to_owned(), known.row())).collect();
        Ok(())
    }

    /// Declares a program for command lines: `NAME=CLASS`, or `NAME WORD…=CLASS` for one beginning of its arguments.
    ///
    /// # Errors
    /// What is wrong, for the user.
    pub fn program(&mut self, text: &str) -> Result<(), String> {
        if self.client.is_none() {
            return Err("programs are what a client's command lines run; name the client".to_owned());
        }
        let form = || format!("a program is NAME=CLASS or `NAME WORD…=CLASS`, not `{text}`");
        let (words, class) = text.rsplit_once('=').ok_or_else(form)?;
        let mut words = words.split_whitespace().map(str::to_owned);
        let name = words.next().ok_or_else(form)?;
        let beginning: Vec<String> = words.take(WORDS).collect();
        let allowed = [EffectClass::Read, EffectClass::Write, EffectClass::Exec, EffectClass::Network];
        let effect = EffectClass::from_word(class).filter(|class| allowed.contains(class));
        let effect = effect.ok_or_else(|| {
            format!("the class of `{name}` is one of {}", list(allowed.iter().map(|class| class.word())))
        })?;
        Name::new(name.as_str()).map_err(|fault| format!("program `{name}`: {fault}"))?;
        if let Some(why) = name_fault(&name) {
            return Err(format!("`{name}` {why}"));
        }
        if hides(&name, effect, !beginning.is_empty()) {
            return Err(format!("`{name}` runs what it is given: its class is exec, or say how its arguments begin"));
        }
        self.declare(name, effect, beginning)
    }

    fn declare(&mut self, name: String, effect: EffectClass, beginning: Vec<String>) -> Result<(), String> {
        match self.programs.get_mut(&name) {
            None => {
                let args = if beginning.is_empty() { Vec::new() } else { vec![beginning] };
                self.programs.insert(name, ProgramRow { effect, args });
                Ok(())
            }
            Some(row) if row.effect != effect => {
                let known = row.effect.word();
                Err(format!(
                    "`{name}` has the class {known}, and a program has one; edit its row in the derived policy"
                ))
            }
            // A row without beginnings is for all arguments already.
            Some(row) if row.args.is_empty() || row.args.contains(&beginning) => Ok(()),
            Some(_) if beginning.is_empty() => {
                Err(format!("`{name}` has beginnings of arguments; say which one to add to them"))
            }
            Some(row) => {
                row.args.push(beginning);
                Ok(())
            }
        }
    }

    /// Grants a declared tool without a person, whatever its class; a program of command lines; or one of `job.launch`,
    /// `package.publish` and `process.run`, within what the policy's tables list.
    ///
    /// # Errors
    /// No such tool or program was declared, or the tool takes command lines.
    pub fn allow(&mut self, name: &str) -> Result<(), String> {
        if let Some(action) = MACHINES.into_iter().find(|action| *action == name) {
            self.free.insert(action);
            return Ok(());
        }
        if self.client.is_some_and(|client| client.shell == name) {
            return Err(format!("`{name}` takes command lines: allow programs by name instead, such as --allow git"));
        }
        if self.programs.contains_key(name) {
            self.free_programs.insert(name.to_owned());
            return Ok(());
        }
        let of_client = || self.client.into_iter().flat_map(|client| client.tools).map(|row| row.name);
        if !self.tools.contains_key(name) && !of_client().any(|known| known == name) {
            let hint = nearest(name, self.tools.keys().map(String::as_str).chain(of_client()));
            return Err(format!("`{name}` is not a declared tool; declare it with --tool {name}=CLASS{hint}"));
        }
        self.allowed.insert(name.to_owned());
        Ok(())
    }

    /// Names another agent that this one may call.
    ///
    /// # Errors
    /// Not a name.
    pub fn peer(&mut self, name: &str) -> Result<(), String> {
        Name::new(name).map_err(|fault| format!("peer `{name}`: {fault}"))?;
        self.peers.insert(name.to_owned());
        Ok(())
    }

    /// A tool of one of `classes` that is not granted, for an example.
    fn example(&self, classes: &[EffectClass]) -> Option<&str> {
        let fits = |(name, class): &(&String, &EffectClass)| classes.contains(class) && !self.allowed.contains(*name);
        self.tools.iter().find(fits).map(|(name, _)| name.as_str())
    }
}

/// Which threats of a profile each control answers.
struct Plan<'p> {
    profile: &'p Profile,
    options: &'p Options,
    bounds: Bounds,
    threats: Vec<ThreatId>,
}

/// The threats that one part of the policy answers.
struct Answers {
    threats: Vec<ThreatId>,
    assumed: bool,
}

impl Plan<'_> {
    /// The profile's threats that any of `wanted` answers; the control's own when there is none.
    fn answers(&self, wanted: &[Control]) -> Answers {
        let bears = |threat: &ThreatId| controls(*threat).iter().any(|control| wanted.contains(control));
        let mut threats: Vec<_> = self.threats.iter().copied().filter(bears).collect();
        if threats.is_empty() {
            threats.extend(wanted.first().and_then(|control| control.fallback()));
        }
        let assumed = !threats.iter().any(|threat| self.profile.states(*threat));
        Answers { threats, assumed }
    }

    /// The threats that nothing answers, with the reason to accept each.
    fn accepted(&self) -> Vec<(ThreatId, &'static str)> {
        self.threats.iter().filter_map(|threat| acceptance(*threat).map(|reason| (*threat, reason))).collect()
    }
}

/// Derives a policy as TOML text.
#[must_use]
pub fn derive(profile: &Profile, options: &Options) -> String {
    let plan = Plan { profile, options, bounds: Bounds::of(profile), threats: profile.threats() };
    text::write(&plan)
}
