//! A command line of a POSIX-like shell, taken apart into the programs that it would run.
//!
//! Pure and bounded. What is here is read with a real grammar and then narrowed: whatever is put together at run
//! time where a program's name stands, changes what later words mean, or reads differently in bash and zsh is
//! [`Unparsed`], which a policy refuses. It must not decide what may run; `pdp` does, by the policy's rows.

mod expand;
mod table;
mod unwrap;
mod walk;
mod word;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::model::EffectClass;

pub use table::{Kind as ProgramKind, kind as program_kind};
pub use word::{Part, Word};

/// Longest command line, bytes.
pub const BYTES: usize = 32 << 10;
/// Most programs of one line.
pub const PROGRAMS: usize = 256;
/// Deepest nesting of brackets, substitutions and shells within shells.
pub const DEPTH: usize = 12;
/// Most opening brackets, quotes that run commands, and words that open a block.
const OPENINGS: usize = 96;

/// Why a command line is not taken apart: a sentence without a final stop, for the text of a denial.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unparsed(pub String);

impl Unparsed {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// One program that would run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Simple {
    /// Its name: a plain name as found on the search path (`/usr/bin/git` is `git`), or the path as written.
    pub program: String,
    /// Its arguments.
    pub args: Vec<Word>,
    /// The mildest class of effect that these arguments can have.
    pub least: EffectClass,
}

/// Everything that one command line does, as far as a shell shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// Every program that may run, in the order of the text; whether it does can depend on others.
    pub commands: Vec<Simple>,
    /// Files that redirections write.
    pub writes: Vec<Word>,
    /// Files that redirections read.
    pub reads: Vec<Word>,
    /// Folders that `cd` goes to.
    pub folders: Vec<Word>,
    /// Other words that the shell itself reads: operands of `[[`, values, patterns.
    pub words: Vec<Word>,
}

/// Takes `text` apart.
///
/// # Errors
/// [`Unparsed`] when it is not one bounded, unambiguous script whose programs are named in the text.
pub fn commands(text: &str) -> Result<Script, Unparsed> {
    bounded(text)?;
    let mut walk = walk::Walk::default();
    // The grammar's parser is not ours: should hostile text make it panic, the text is not parsed.
    let walked = catch_unwind(AssertUnwindSafe(|| walk.text(text)));
    walked.unwrap_or_else(|_| Err(Unparsed::new("the command line makes the shell's grammar fail")))?;
    Ok(walk.script)
}

/// Takes the words of one program apart that no shell reads: wrappers are looked through, and the text that a shell
/// in `argv` is given is parsed.
///
/// # Errors
/// As [`commands`].
pub fn argv(argv: &[String]) -> Result<Script, Unparsed> {
    argv.iter().try_for_each(|word| bounded(word))?;
    let mut walk = walk::Walk::default();
    let words = argv.iter().map(|word| Word::text(word)).collect();
    let walked = catch_unwind(AssertUnwindSafe(|| walk.run(words)));
    walked.unwrap_or_else(|_| Err(Unparsed::new("the command line makes the shell's grammar fail")))?;
    Ok(walk.script)
}

/// Refuses what is too large, and characters that shells take differently.
fn bounded(text: &str) -> Result<(), Unparsed> {
    if text.len() > BYTES {
        return Err(Unparsed::new(format!(
            "the command line has more than {BYTES} bytes; write a script file instead"
        )));
    }
    let odd = |c: char| (c.is_control() && c != '\n' && c != '\t') || (c.is_whitespace() && !c.is_ascii());
    if let Some(c) = text.chars().find(|c| odd(*c)) {
        let code = u32::from(c);
        return Err(Unparsed::new(format!(
            "the command line holds the character U+{code:04X}, which shells read differently"
        )));
    }
    if has_long_descriptor(text) {
        return Err(Unparsed::new("a redirection names a file descriptor that no process has"));
    }
    let (mut open, mut deepest, mut count) = (0_usize, 0_usize, 0_usize);
    for c in text.chars() {
        match c {
            '(' | '{' => (open, count) = (open + 1, count + 1),
            '`' => count += 1,
            ')' | '}' => open = open.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(open);
    }
    let blocks =
        |word: &str| matches!(word, "if" | "while" | "until" | "for" | "case" | "elif" | "select" | "[[" | "!");
    count += text
        .split(|c: char| !(c.is_alphanumeric() || matches!(c, '[' | '!' | '_')))
        .filter(|word| blocks(word))
        .count();
    if deepest > DEPTH * 2 || count > OPENINGS {
        return Err(Unparsed::new("the command line nests too much; write a script file instead"));
    }
    Ok(())
}

/// Whether a redirection's number has more digits than the grammar's parser can hold.
fn has_long_descriptor(text: &str) -> bool {
    let mut digits = 0_usize;
    text.bytes().any(|byte| {
        let long = digits > 9 && matches!(byte, b'<' | b'>');
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        long
    })
}
