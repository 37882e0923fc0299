//! What the Hub offers and the gate never passes on, each with the reason that a person is told.
//!
//! Only texts follow from this table: what it does not name is refused as well.

use hyper::Method;

use super::request::Refused;
use crate::model::Action;

/// How an address begins, what it would do, and what to do instead. `*` stands for one segment, `**` at the end for any.
const ROWS: &[(&str, &str, &str)] = &[
    (
        "api/scheduled-jobs/**",
        "a scheduled job starts again and again without anybody asking",
        "launch one job at a time",
    ),
    ("api/jobs/*/*/duplicate", "a copy of a job is a launch that nobody has judged", "launch the job anew"),
    ("api/jobs/*/*/expose", "opening a port lets others into a job", "write results to a granted repository"),
    ("api/jobs/*/*/labels", "labels are how the gate finds its jobs again", "give labels when the job is launched"),
    ("api/jobs/**", "a job can be launched, looked at and cancelled", "use one of these"),
    ("api/spaces/*/*/hardware", "a Space's machine costs money for as long as it is there", "launch a job, which ends"),
    ("api/spaces/*/*/sleeptime", "a Space that never sleeps costs money", "ask a person"),
    ("api/spaces/*/*/dev-mode", "dev mode opens a Space to a shell", "ask a person"),
    ("api/spaces/*/*/restart", "a Space that runs costs money", "ask a person"),
    ("api/spaces/*/*/secrets", "secrets of a Space are handed to its code", "ask a person"),
    ("api/spaces/*/*/variables", "variables of a Space change what it does", "ask a person"),
    ("api/spaces/*/*/volumes", "volumes of a Space reach other repositories", "ask a person"),
    ("api/repos/delete", "a deleted repository does not come back", "ask a person"),
    ("api/repos/move", "a moved repository is another one to every pin", "ask a person"),
    ("api/*/*/*/settings", "settings make repositories public, or change who may use them", "ask a person"),
    ("api/*/*/*/discussions/**", "discussions are other people's, and merging changes a repository", "ask a person"),
    ("api/*/*/*/branch/**", "branches move what others rely on", "commit to the repository's main branch"),
    ("api/*/*/*/tag/**", "tags move what others rely on", "commit to the repository's main branch"),
    ("api/*/*/*/super-squash/**", "squashing destroys a repository's history", "ask a person"),
    ("api/*/*/*/lfs-files/**", "this deletes or copies large files outside any commit", "commit files instead"),
    ("api/*/*/*/duplicate", "a copy is a new repository that no policy names", "ask a person"),
    ("api/*/*/*/user-access-request/**", "this changes who may read a repository", "ask a person"),
    ("api/*/*/*/xet-write-token/**", "Xet uploads would pass by the gate", "set HF_HUB_DISABLE_XET=1"),
    ("api/*/*/*/xet-read-token/**", "Xet downloads would pass by the gate", "set HF_HUB_DISABLE_XET=1"),
    ("api/settings/**", "account settings and webhooks act outside this session", "ask a person"),
    ("api/buckets/**", "buckets are written past the gate", "commit to a granted repository"),
    ("buckets/**", "buckets are written past the gate", "commit to a granted repository"),
    ("api/collections/**", "collections are shown to others", "ask a person"),
    ("api/models", "searching the Hub sends out what this session is about", "ask for a pinned repository by its name"),
    (
        "api/datasets",
        "searching the Hub sends out what this session is about",
        "ask for a pinned repository by its name",
    ),
    ("api/spaces", "searching the Hub sends out what this session is about", "ask for a pinned repository by its name"),
    ("api/telemetry/**", "the gate sends no telemetry", "set HF_HUB_DISABLE_TELEMETRY=1"),
    ("uploads", "attachments are public", "commit to a granted repository"),
];

/// Why `parts` are refused, when the table knows them.
pub(super) fn forbidden(method: &Method, parts: &[&str]) -> Option<Refused> {
    let (_, what, instead) = ROWS.iter().find(|(pattern, ..)| matches(pattern, parts))?;
    let spends =
        |part: &&str| ["scheduled-jobs", "jobs", "hardware", "sleeptime", "restart", "dev-mode"].contains(part);
    let (action, about) = match method.as_str() {
        _ if parts.iter().any(spends) => (Action::JobLaunch, "machine"),
        "GET" | "HEAD" => (Action::PackageFetch, "request"),
        _ => (Action::PackagePublish, "change"),
    };
    Some(Refused::new(*what, instead).of(action, about))
}

fn matches(pattern: &str, parts: &[&str]) -> bool {
    let mut rest = parts.iter();
    for wanted in pattern.split('/') {
        match (wanted, rest.next()) {
            ("**", _) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(part)) if wanted == *part => {}
            _ => return false,
        }
    }
    rest.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_text_that_fits_a_denial() {
        for (pattern, what, instead) in ROWS {
            let parts: Vec<&str> = pattern.split('/').collect();
            let refused = forbidden(&Method::POST, &parts).unwrap();
            assert!(what.len() + instead.len() < 200 && !refused.what.is_empty(), "{pattern}");
        }
    }

    #[test]
    fn a_pattern_covers_whole_segments() {
        assert!(matches("api/jobs/*/*/labels", &["api", "jobs", "me", "1", "labels"]));
        assert!(!matches("api/jobs/*/*/labels", &["api", "jobs", "me", "1", "labels", "x"]));
        assert!(matches("api/settings/**", &["api", "settings"]) && !matches("api/settings/**", &["api"]));
    }
}
