//! Profile in, policy out: the same profile and options give the same bytes.
//!
//! `limits` is the table from factors to numbers, `answers` the table from threats to controls, both
//! documented in `docs/policy.md`. This file only decides who answers what; `text` writes it.

mod limits;
mod rules;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use super::Profile;
use super::answers::{Control, acceptance, controls};
use super::reader::{list, nearest};
use crate::model::{EffectClass, Name, ThreatId};
use limits::Bounds;

/// The tool that ends a task; every derived policy has it.
pub const FINAL_ANSWER: &str = "final_answer";

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
        match self.tools.insert(name.to_owned(), effect) {
            Some(earlier) if earlier != effect => Err(format!("tool `{name}` has two classes")),
            _ => Ok(()),
        }
    }

    /// Grants a declared tool without a person, whatever its class; or one of `job.launch`, `package.publish` and
    /// `process.run`, within what the policy's tables list.
    ///
    /// # Errors
    /// No such tool was declared.
    pub fn allow(&mut self, name: &str) -> Result<(), String> {
        if let Some(action) = MACHINES.into_iter().find(|action| *action == name) {
            self.free.insert(action);
            return Ok(());
        }
        if !self.tools.contains_key(name) {
            let hint = nearest(name, self.tools.keys().map(String::as_str));
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
