//! The decoders, as the targets reach them: the files of the edges that read hostile bytes, compiled here a second
//! time without engine and sockets, and the promises that each `hostile.rs` beside them holds them to.

/// The paths by which those files name their neighbours in the library.
use weir::{model, pep, policy};

mod egress;
mod hook;
mod sandbox;
mod vault;

pub use vault::kept;

macro_rules! held {
    ($(#[$at:meta] $name:ident = $path:path;)*) => {
        $(
            #[$at]
            pub fn $name(bytes: &[u8]) {
                $path(bytes);
            }
        )*
    };
}

held! {
    /// A worker's frames, one after another.
    conversation = sandbox::hostile::conversation;
    /// A worker's frames.
    frames = sandbox::hostile::frames;
    /// Tapes of executions.
    tapes = sandbox::hostile::tapes;
    /// Tagged values.
    values = sandbox::hostile::values;
    /// What the Hub says.
    answers = egress::hub::hostile::answers;
    /// Commits to the Hub.
    commits = egress::hub::hostile::commits;
    /// Launches of jobs.
    launches = egress::hub::hostile::launches;
    /// Addresses at the Hub's proxy.
    requests = egress::hub::hostile::requests;
    /// Requests to model providers.
    generations = egress::llm::hostile::generations;
    /// What model providers answer.
    streams = egress::llm::hostile::streams;
    /// Events of coding agents' hooks.
    events = hook::hostile::events;
}

/// Strict JSON, the form of every argument: what was read means one thing.
pub fn json(bytes: &[u8]) {
    let Ok(value) = model::parse_json(bytes) else { return };
    let again = model::parse_json(value.to_string().as_bytes()).expect("what was written is read");
    assert_eq!(again, value);
    assert_eq!(model::canonical(&again), model::canonical(&value));
}

/// Policies: faults, or a policy that can be checked.
pub fn policy(bytes: &[u8]) {
    match weir::policy::parse(bytes, "p") {
        Ok(policy) => drop(weir::policy::check(&policy)),
        Err(faults) => assert!(!faults.0.is_empty(), "refused without a word"),
    }
}

/// The grammar's parser is not ours, and the library guards it: its panics are refusals, and all others end the run.
fn spare_the_grammar() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.location().is_some_and(|at| at.file().contains("brush-parser")) {
                hook(info);
            }
        }));
    });
}

/// Command lines: within bounds, the same each time, every program named in the text, and each command written plainly is
/// the same command.
pub fn lines(bytes: &[u8]) {
    spare_the_grammar();
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let script = match weir::shell::commands(text) {
        Ok(script) => script,
        Err(fault) => {
            // What no grammar reads is told in a short text, which may quote a part of the line.
            assert!(fault.to_string().len() < 1_000, "{fault}");
            return;
        }
    };
    assert!(script.commands.len() <= weir::shell::PROGRAMS);
    assert_eq!(weir::shell::commands(text).as_ref(), Ok(&script));
    for simple in &script.commands {
        // Quotes and back-slashes may stand between a name's letters, and escapes for them.
        assert!(text.contains("$'") || stands_in(&simple.program, text), "{:?} in {text:?}", simple.program);
        plainly(simple);
    }
}

/// Whether the letters of `name` stand in `text` in their order.
fn stands_in(name: &str, text: &str) -> bool {
    let mut letters = text.chars();
    name.chars().all(|wanted| letters.any(|letter| letter == wanted))
}

/// A command whose words are all known, written with each of them in quotes, is read as itself.
fn plainly(simple: &weir::shell::Simple) {
    use weir::shell::{ProgramKind, Word, program_kind};
    let plain = matches!(program_kind(&simple.program), ProgramKind::Plain | ProgramKind::Interpreter);
    let words: Option<Vec<&str>> = simple.args.iter().map(Word::literal).collect();
    let (true, Some(words)) = (plain, words) else { return };
    let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
    let line = [quoted(&simple.program)].into_iter().chain(words.into_iter().map(quoted)).collect::<Vec<_>>().join(" ");
    if line.len() > weir::shell::BYTES {
        return;
    }
    match weir::shell::commands(&line) {
        Ok(again) => assert_eq!(again.commands, [simple.clone()], "{line}"),
        // Brackets and words that open blocks count wherever they stand.
        Err(fault) => assert!(fault.to_string().contains("nests too much"), "{line}: {fault}"),
    }
}
