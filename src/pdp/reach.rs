//! Whether a word of a command line may name a protected path once its patterns are expanded.
//!
//! `Policy::touches_protected` reads texts; this reads words whose quotes are off and whose patterns are marked, so that
//! `.g?t/ho*ks` is seen. It errs towards yes. Words of which nothing is known are not its business: whoever asks
//! treats them as running something.

use crate::policy::Policy;
use crate::shell::{Part, Word};

/// One character of a word, or what stands for some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Char(char),
    /// One character that is no slash.
    One,
    /// Any characters that are no slash.
    Any,
    /// Any digits.
    Digits,
    /// A folder of any depth.
    Folder,
}

/// What ends a path inside a word: `--output=…`, `user@host:…`, `a,b`.
const BREAKS: &[char] = &['=', ',', ':', '@', ';', '|', '&', '<', '>', '(', ')', '{', '}', '#', '"', '\'', '`'];

/// True when `word`, or a path inside it, may be a protected path or below one; seen from `folders` as well.
pub(super) fn touches(policy: &Policy, word: &Word, folders: &[Word]) -> bool {
    any(policy, word, folders, |pattern, path| pattern.holds(path))
}

/// True when `word` may be a folder above a protected path: its end is how the protected path begins.
pub(super) fn is_above(policy: &Policy, word: &Word) -> bool {
    any(policy, word, &[], |pattern, path| pattern.is_below(path))
}

fn any(policy: &Policy, word: &Word, folders: &[Word], test: impl Fn(&Pattern, &Path) -> bool) -> bool {
    if policy.protected.is_empty() || word.is_open() {
        return false;
    }
    let patterns: Vec<Pattern> = policy.protected.iter().map(|text| Pattern::of(text)).collect();
    let signs = signs(word);
    let mut paths = vec![signs.clone()];
    paths.extend(signs.split(|sign| matches!(sign, Sign::Char(c) if BREAKS.contains(c))).map(<[Sign]>::to_vec));
    // A value that stands with its letter: `-ofile`.
    if let [Sign::Char('-'), Sign::Char(letter), rest @ ..] = signs.as_slice()
        && *letter != '-'
    {
        paths.push(rest.to_vec());
    }
    let joined = |folder: &Word| {
        let mut path = self::signs(folder);
        path.push(Sign::Char('/'));
        path.extend(&signs);
        path
    };
    paths.extend(folders.iter().filter(|folder| !folder.is_open()).map(joined));
    paths.iter().map(|signs| Path::of(signs)).any(|path| patterns.iter().any(|pattern| test(pattern, &path)))
}

fn signs(word: &Word) -> Vec<Sign> {
    let mut signs = Vec::new();
    for part in word.parts() {
        match part {
            Part::Text(text) => signs.extend(text.chars().flat_map(char::to_lowercase).map(Sign::Char)),
            Part::One => signs.push(Sign::One),
            Part::Any => signs.push(Sign::Any),
            Part::Number => signs.push(Sign::Digits),
            Part::Folder | Part::Unknown | Part::Words => signs.push(Sign::Folder),
        }
    }
    signs
}

/// A word read as a path.
struct Path {
    /// From the root, or from a folder that nobody here knows.
    anchored: bool,
    climbs: bool,
    parts: Vec<Vec<Sign>>,
}

impl Path {
    fn of(signs: &[Sign]) -> Self {
        let slash = |sign: &Sign| matches!(sign, Sign::Char('/' | '\\'));
        let dots = |part: &[Sign], n: usize| part.len() == n && part.iter().all(|sign| *sign == Sign::Char('.'));
        let anchored = signs.first().is_some_and(|first| slash(first) || *first == Sign::Folder);
        let (mut parts, mut climbs) = (Vec::new(), false);
        for part in signs.split(slash).filter(|part| !part.is_empty() && !dots(part, 1)) {
            if dots(part, 2) {
                climbs = true;
                parts.pop();
            } else {
                parts.push(part.to_vec());
            }
        }
        Self { anchored, climbs, parts }
    }
}

/// A protected path.
struct Pattern {
    absolute: bool,
    parts: Vec<String>,
}

impl Pattern {
    fn of(text: &str) -> Self {
        let parts = text.split('/').filter(|part| !part.is_empty()).map(str::to_lowercase).collect();
        Self { absolute: text.starts_with('/'), parts }
    }

    /// Where in `path` this pattern may begin.
    fn starts<'p>(&self, path: &'p Path) -> impl Iterator<Item = &'p [Vec<Sign>]> + use<'p> {
        let whole =
            self.absolute && !path.climbs && !path.parts.first().is_some_and(|part| part.contains(&Sign::Folder));
        let last = if whole { 0 } else { path.parts.len() };
        let none = whole && !path.anchored;
        (0..=last).filter(move |_| !none).filter_map(|at| path.parts.get(at..))
    }

    fn holds(&self, path: &Path) -> bool {
        self.starts(path).any(|rest| rest.len() >= self.parts.len() && self.agrees(rest) == self.parts.len())
    }

    /// True when `path` ends where this pattern has begun and not ended.
    fn is_below(&self, path: &Path) -> bool {
        let root = self.absolute && path.anchored && path.parts.is_empty();
        let inside =
            |rest: &[Vec<Sign>]| !rest.is_empty() && rest.len() < self.parts.len() && self.agrees(rest) == rest.len();
        root || self.starts(path).any(inside)
    }

    /// How many parts from the start may be the same.
    fn agrees(&self, rest: &[Vec<Sign>]) -> usize {
        rest.iter().zip(&self.parts).take_while(|(part, want)| fits(part, want)).count()
    }
}

/// Whether `part` may expand to `name`. A pattern's beginning does not stand for a dot.
fn fits(part: &[Sign], name: &str) -> bool {
    if part.contains(&Sign::Folder) {
        return false;
    }
    let name: Vec<char> = name.chars().collect();
    let hidden = name.first() == Some(&'.') && matches!(part.first(), Some(Sign::One | Sign::Any));
    !hidden && agree(part, &name)
}

/// Matching with `*`, in one row of states instead of by recursion.
fn agree(part: &[Sign], name: &[char]) -> bool {
    let mut at = vec![false; name.len() + 1];
    at[0] = true;
    for sign in part {
        let mut next = vec![false; name.len() + 1];
        for (index, _) in at.iter().enumerate().filter(|(_, reached)| **reached) {
            match sign {
                Sign::Any => next.iter_mut().skip(index).for_each(|state| *state = true),
                Sign::Digits => {
                    let run = name.iter().skip(index).take_while(|c| c.is_ascii_digit()).count();
                    next.iter_mut().skip(index).take(run + 1).for_each(|state| *state = true);
                }
                Sign::One | Sign::Char(_) => {
                    let same = name.get(index).is_some_and(|c| *sign == Sign::One || *sign == Sign::Char(*c));
                    if let Some(state) = next.get_mut(index + 1).filter(|_| same) {
                        *state = true;
                    }
                }
                Sign::Folder => {}
            }
        }
        at = next;
    }
    at.last().copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdp::twin::policy;
    use crate::shell::commands;

    fn word(text: &str) -> Word {
        commands(&format!("ls {text}")).unwrap().commands.remove(0).args.remove(0)
    }

    #[test]
    fn patterns_and_options_reach_what_they_can_name() {
        let mut policy = policy(Vec::new());
        policy.protected = [".ssh", ".git/hooks", "/etc/shadow", "runs/ledger.jsonl"].map(str::to_owned).to_vec();
        for yes in [
            "~/.ssh/key",
            ".g?t/ho*ks/pre-commit",
            ".GIT/hooks",
            "-o.ssh/x",
            "--output=.git/hooks/x",
            "runs/*",
            "/etc/sha*",
            "a/../.ssh",
            "../../etc/shadow",
            "r[u]ns/ledger.jsonl",
            "u@h:.ssh/x",
            "\"$HOME\"/.ssh",
            "/*/shadow",
            ".s*h/x",
        ] {
            assert!(touches(&policy, &word(yes), &[]), "{yes}");
        }
        for no in [
            "*",
            "my.ssh",
            ".git",
            "etc/shadow",
            "/etc/passwd",
            "runs",
            "src/*.rs",
            "/var/etc/shadow",
            "'.s*h'",
            "git/hooks",
        ] {
            assert!(!touches(&policy, &word(no), &[]), "{no}");
        }
        for above in [".git", "a/.git/", "/etc", "/", "run?", "~/.git"] {
            assert!(is_above(&policy, &word(above)), "{above}");
        }
        for beside in ["git", ".github", "/usr", ".", "src", ".ssh"] {
            assert!(!is_above(&policy, &word(beside)), "{beside}");
        }
        assert!(touches(&policy, &word("etc/shadow"), &[word("../../..")]));
    }
}
