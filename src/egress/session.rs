//! Whose call it is: organisation, project and agent from the configuration, the session from what the
//! client says of itself.
//!
//! A client may name its session and, below it, an agent of its own; a name that the gate does not take
//! becomes one that is made of its digest. Budgets of an agent, a project or an organisation do not depend on it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::model::{Digest, Name, Subject};

/// Sessions with a name of their own at once; further ones share the proxies' own.
const SESSIONS: usize = 256;
/// A session that nobody has named for this long makes room.
const IDLE: Duration = Duration::from_secs(3600);

/// Who the agent is.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub org: Name,
    pub project: Option<Name>,
    pub agent: Name,
}

/// The sessions that clients have named.
pub(crate) struct Sessions {
    who: Who,
    own: Name,
    known: Mutex<HashMap<Name, Instant>>,
}

impl Sessions {
    /// No session yet; `own` is that of clients that name none.
    pub(super) fn new(who: Who, own: Name) -> Self {
        Self { who, own, known: Mutex::default() }
    }

    /// The subject of a call in the session that the client names `session`, by the agents `below` the session's own.
    pub(crate) fn subject(&self, session: Option<&str>, below: &[&str]) -> Subject {
        let session = session.filter(|text| !text.is_empty()).map_or_else(|| self.own.clone(), |text| self.admit(text));
        let Who { org, project, agent } = self.who.clone();
        let delegation = below.iter().filter(|text| !text.is_empty()).map(|text| named(text)).collect();
        Subject { org, project, agent, run: session.clone(), session, delegation }
    }

    fn admit(&self, text: &str) -> Name {
        let (name, now) = (named(text), Instant::now());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = known.get_mut(&name) {
            *used = now;
            return name;
        }
        if known.len() >= SESSIONS {
            known.retain(|_, used| now.duration_since(*used) < IDLE);
        }
        if known.len() >= SESSIONS {
            return self.own.clone();
        }
        known.insert(name.clone(), now);
        name
    }
}

/// `text` as a name: itself where it is one.
fn named(text: &str) -> Name {
    Name::new(text).unwrap_or_else(|_| Name::digits(&Digest::of(text.as_bytes()).hex()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions() -> Sessions {
        let name = |text: &str| Name::new(text).unwrap();
        Sessions::new(Who { org: name("o"), project: None, agent: name("a") }, name("own"))
    }

    #[test]
    fn a_client_names_its_session_and_nothing_else() {
        let sessions = sessions();
        let subject = sessions.subject(Some("s-1"), &["helper", "x y"]);
        assert_eq!((subject.org.as_str(), subject.agent.as_str(), subject.session.as_str()), ("o", "a", "s-1"));
        let below: Vec<&str> = subject.delegation.iter().map(Name::as_str).collect();
        assert_eq!((below[0], below[1].len(), below.len()), ("helper", 32, 2));
        assert_eq!(sessions.subject(None, &[]).session.as_str(), "own");
        assert_eq!(sessions.subject(Some(""), &[""]).session.as_str(), "own");
        let long = "x".repeat(5_000);
        assert_eq!(sessions.subject(Some(&long), &[]), sessions.subject(Some(&long), &[]));
        assert_ne!(sessions.subject(Some(&long), &[]), sessions.subject(Some("y z"), &[]));
    }

    #[test]
    fn sessions_beyond_the_limit_share_one() {
        let sessions = sessions();
        let names: Vec<Name> = (0..1_000).map(|n| sessions.subject(Some(&format!("s{n}")), &[]).session).collect();
        assert_eq!(names.iter().filter(|name| name.as_str() == "own").count(), 1_000 - SESSIONS);
        assert_eq!(sessions.subject(Some("s0"), &[]).session.as_str(), "s0");
    }
}
