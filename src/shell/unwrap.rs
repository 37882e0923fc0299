//! The words of one command: which program they run, behind whatever wraps it.
//!
//! Options of wrappers are read strictly: one that is not known here makes the line [`Unparsed`], for it could hide
//! where the wrapped program begins.

use super::expand::cut;
use super::table::{Kind, can_be_raised, is_checked, kind, raised};
use super::walk::{Walk, passable, settable};
use super::word::{Part, Word};
use super::{Simple, Unparsed};
use crate::model::EffectClass;

/// Folders whose programs are known by their names alone.
const FOLDERS: &[&str] = &["/bin/", "/usr/bin/", "/usr/local/bin/"];

/// Options of a wrapper.
struct Options {
    /// Letters without a value.
    flags: &'static str,
    /// Letters with one.
    valued: &'static str,
    /// Long options; those with a value end with `=`.
    long: &'static [&'static str],
    /// Words between the options and the program.
    operands: usize,
}

const NONE: Options = Options { flags: "", valued: "", long: &[], operands: 0 };
const ENV: Options =
    Options { flags: "i0v", valued: "u", long: &["--ignore-environment", "--null", "--unset="], operands: 0 };
const TIMEOUT: Options = Options {
    flags: "vfp",
    valued: "ks",
    long: &["--preserve-status", "--foreground", "--verbose", "--kill-after=", "--signal="],
    operands: 1,
};
const NICE: Options = Options { flags: "0123456789", valued: "n", long: &["--adjustment="], operands: 0 };
const IONICE: Options =
    Options { flags: "t", valued: "cn", long: &["--class=", "--classdata=", "--ignore"], operands: 0 };
const STDBUF: Options = Options { flags: "", valued: "ioe", long: &["--input=", "--output=", "--error="], operands: 0 };
const TIME: Options = Options { flags: "pv", valued: "", long: &["--portability", "--verbose"], operands: 0 };
const COMMAND: Options = Options { flags: "p", valued: "", long: &[], operands: 0 };
const XARGS: Options = Options {
    flags: "0rtx",
    valued: "nILPdsE",
    long: &[
        "--null",
        "--no-run-if-empty",
        "--verbose",
        "--exit",
        "--max-args=",
        "--max-procs=",
        "--max-lines=",
        "--delimiter=",
        "--max-chars=",
    ],
    operands: 0,
};

impl Walk {
    /// Finds what `argv` runs.
    pub(super) fn run(&mut self, argv: Vec<Word>) -> Result<(), Unparsed> {
        let Some((first, rest)) = argv.split_first() else { return Ok(()) };
        let written = first.literal().filter(|name| !name.is_empty());
        let Some(written) = written else {
            return Err(Unparsed::new(format!(
                "the name of a program is put together at run time: {}",
                cut(&first.shown())
            )));
        };
        let name = base(written);
        self.enter()?;
        match kind(name) {
            Kind::Harmless if is_checked(name) => self.checked(name, rest)?,
            Kind::Harmless => self.script.words.extend(rest.iter().cloned()),
            Kind::Refused(why) => return Err(Unparsed::new(format!("`{name}` {why}"))),
            Kind::Wrapper => self.wrapper(name, rest)?,
            Kind::Shell => self.shell(name, rest)?,
            Kind::Interpreter | Kind::Plain => self.program(name, rest, EffectClass::Read)?,
        }
        self.leave();
        Ok(())
    }

    fn program(&mut self, name: &str, args: &[Word], least: EffectClass) -> Result<(), Unparsed> {
        let worst = can_be_raised(name).unwrap_or(EffectClass::Read);
        let class = |word: &Word| match word.start() {
            "" if word.may_be_option() => worst,
            start => raised(name, start),
        };
        let least = args.iter().map(class).fold(least, EffectClass::stricter);
        self.found(Simple { program: name.to_owned(), args: args.to_vec(), least })
    }

    fn wrapper(&mut self, name: &str, rest: &[Word]) -> Result<(), Unparsed> {
        let options = match name {
            "find" => return self.find(rest),
            "env" => return self.env(rest),
            "xargs" => return self.xargs(rest),
            "command" if matches!(rest.first().and_then(Word::literal), Some("-v" | "-V")) => return Ok(()),
            "timeout" => TIMEOUT,
            "nice" => NICE,
            "ionice" => IONICE,
            "stdbuf" => STDBUF,
            "time" => TIME,
            "command" => COMMAND,
            _ => NONE,
        };
        let at = after(name, &options, rest)?.0;
        self.run(rest.get(at..).unwrap_or_default().to_vec())
    }

    fn env(&mut self, rest: &[Word]) -> Result<(), Unparsed> {
        let (mut at, _) = after("env", &ENV, rest)?;
        while let Some((name, _)) = rest.get(at).and_then(|word| word.start().split_once('=')) {
            passable(name)?;
            at += 1;
        }
        match rest.get(at..) {
            None | Some([]) => self.program("env", rest, EffectClass::Read),
            Some(argv) => self.run(argv.to_vec()),
        }
    }

    fn xargs(&mut self, rest: &[Word]) -> Result<(), Unparsed> {
        let (at, values) = after("xargs", &XARGS, rest)?;
        let mut argv = rest.get(at..).unwrap_or_default().to_vec();
        if argv.is_empty() {
            return Ok(());
        }
        match values.into_iter().find(|(letter, _)| *letter == 'I') {
            Some((_, mark)) if !mark.is_empty() => argv.iter_mut().for_each(|word| blank(word, &mark)),
            _ => argv.push(Word::unknown()),
        }
        self.run(argv)
    }

    /// `find`, which has a row of its own, and what its actions run.
    fn find(&mut self, rest: &[Word]) -> Result<(), Unparsed> {
        if rest.iter().any(Word::is_open) {
            return Err(Unparsed::new("a word of `find` is put together at run time and could be an action"));
        }
        let mut least = EffectClass::Read;
        let mut words = rest.iter();
        while let Some(word) = words.next() {
            match word.literal().unwrap_or_default() {
                "-exec" | "-execdir" | "-ok" | "-okdir" => {
                    let ends = |word: &Word| matches!(word.literal(), Some(";" | "+"));
                    let mut argv: Vec<Word> = words.by_ref().take_while(|word| !ends(word)).cloned().collect();
                    argv.iter_mut().for_each(|word| blank(word, "{}"));
                    self.run(argv)?;
                }
                "-delete" => least = EffectClass::Write,
                "-fprint" | "-fprint0" | "-fprintf" | "-fls" => {
                    least = EffectClass::Write;
                    self.script.writes.extend(words.next().cloned());
                }
                _ => {}
            }
        }
        self.program("find", rest, least)
    }

    /// A shell: the text after `-c` is read as this one's; with a file or its input it is a program that runs anything.
    fn shell(&mut self, name: &str, rest: &[Word]) -> Result<(), Unparsed> {
        let mut at = 0;
        while let Some(word) = rest.get(at) {
            let Some(option) = word.literal().and_then(|text| text.strip_prefix(['-', '+'])) else { break };
            at += 1;
            match option {
                "-norc" | "-noprofile" | "-posix" | "-login" => {}
                _ if option.is_empty() || option.contains(|c| !"ceulxo".contains(c)) => {
                    return Err(Unparsed::new(format!(
                        "`{name}` is started with {}",
                        cut(word.literal().unwrap_or_default())
                    )));
                }
                _ => {
                    if option.contains('o') {
                        at += 1;
                    }
                    if option.contains('c') {
                        return self.inner(name, rest.get(at..).unwrap_or_default());
                    }
                }
            }
        }
        self.program(name, rest, EffectClass::Exec)
    }

    fn inner(&mut self, name: &str, rest: &[Word]) -> Result<(), Unparsed> {
        let Some((text, rest)) = rest.split_first() else { return self.program(name, rest, EffectClass::Exec) };
        let Some(text) = text.literal() else {
            return Err(Unparsed::new(format!("`{name} -c` {}", "runs text that is put together at run time")));
        };
        if !matches!(name, "sh" | "bash" | "dash") {
            return self.program(name, &[Word::text("-c"), Word::text(text)], EffectClass::Exec);
        }
        super::bounded(text)?;
        self.script.words.extend(rest.iter().cloned());
        self.text(text).map(drop)
    }

    /// Builtins that are harmless as long as they set and evaluate nothing else.
    fn checked(&mut self, name: &str, rest: &[Word]) -> Result<(), Unparsed> {
        match name {
            "cd" => self.cd(rest)?,
            "printf" if rest.first().is_some_and(|word| word.may_be_option() && word.literal() != Some("--")) => {
                return Err(Unparsed::new(
                    "`printf` with an option, or with a format that could be one, can set a variable",
                ));
            }
            "set" => set(rest)?,
            "export" => export(rest)?,
            "read" => read(rest)?,
            "test" | "[" => tested(rest)?,
            _ => {}
        }
        self.script.words.extend(rest.iter().cloned());
        Ok(())
    }

    fn cd(&mut self, rest: &[Word]) -> Result<(), Unparsed> {
        let rest: Vec<&Word> = rest.iter().filter(|word| !matches!(word.literal(), Some("-P" | "-L" | "--"))).collect();
        let mut home = Word::default();
        home.push(Part::Folder);
        match rest.as_slice() {
            [] => self.script.folders.push(home),
            [word] if word.literal() == Some("-") => self.script.folders.push(Word::unknown()),
            [word] => self.script.folders.push((*word).clone()),
            _ => return Err(Unparsed::new("`cd` has more than one folder")),
        }
        Ok(())
    }
}

/// The name of a program as rows know it.
fn base(written: &str) -> &str {
    let name = FOLDERS.iter().find_map(|folder| written.strip_prefix(folder));
    name.filter(|name| !name.is_empty() && !name.contains('/')).unwrap_or(written)
}

/// Where the program begins after the options of the wrapper `name`, and the values of its letters.
fn after(name: &str, options: &Options, rest: &[Word]) -> Result<(usize, Vec<(char, String)>), Unparsed> {
    let unknown = |word: &Word| {
        Unparsed::new(format!("`{name}` has the option {}, which could hide what it runs", cut(&word.shown())))
    };
    let (mut at, mut values) = (0, Vec::new());
    while let Some(word) = rest.get(at) {
        if !word.may_be_option() || word.literal() == Some("-") {
            break;
        }
        let text = word.literal().ok_or_else(|| unknown(word))?;
        at += 1;
        if text == "--" {
            break;
        }
        if text.starts_with("--") {
            let known = |long: &&str| if long.ends_with('=') { text.starts_with(*long) } else { text == *long };
            if !options.long.iter().any(known) {
                return Err(unknown(word));
            }
            continue;
        }
        let mut letters = text.chars().skip(1);
        while let Some(letter) = letters.next() {
            if options.flags.contains(letter) {
                continue;
            }
            if !options.valued.contains(letter) {
                return Err(unknown(word));
            }
            let mut value: String = letters.by_ref().collect();
            if value.is_empty() {
                let next = rest.get(at).and_then(Word::literal).ok_or_else(|| unknown(word))?;
                next.clone_into(&mut value);
                at += 1;
            }
            values.push((letter, value));
        }
    }
    let operands = rest.get(at..).unwrap_or_default().iter().take(options.operands);
    if operands.clone().any(|word| word.may_split() || word.may_be_option()) {
        return Err(Unparsed::new(format!("`{name}` has a word that is put together at run time")));
    }
    Ok(((at + options.operands).min(rest.len()), values))
}

/// Makes `word` unknown where it holds `mark`, in whose place something else comes.
fn blank(word: &mut Word, mark: &str) {
    if word.parts().iter().any(|part| matches!(part, Part::Text(text) if text.contains(mark))) {
        *word = Word::quoted_unknown();
    }
}

fn set(rest: &[Word]) -> Result<(), Unparsed> {
    let plain = |word: &Word| {
        word.literal().is_some_and(|text| {
            let letters = text.strip_prefix(['-', '+']);
            letters.is_some_and(|letters| !letters.is_empty() && letters.chars().all(|c| "euxvo".contains(c)))
                || matches!(text, "pipefail" | "errexit" | "nounset" | "xtrace" | "verbose")
        })
    };
    if rest.iter().all(plain) {
        return Ok(());
    }
    Err(Unparsed::new("`set` changes what later words of the shell mean"))
}

fn export(rest: &[Word]) -> Result<(), Unparsed> {
    for word in rest {
        let name = word.start().split_once('=').map_or_else(|| word.literal().unwrap_or_default(), |(name, _)| name);
        passable(name)?;
    }
    Ok(())
}

fn read(rest: &[Word]) -> Result<(), Unparsed> {
    const OPTIONS: Options = Options { flags: "rs", valued: "pntd", long: &[], operands: 0 };
    let (at, _) = after("read", &OPTIONS, rest)?;
    rest.get(at..).unwrap_or_default().iter().try_for_each(|word| settable(word.literal().unwrap_or_default()))
}

/// `test`: of a form whose operators stand in the text, so that no value can become one.
fn tested(rest: &[Word]) -> Result<(), Unparsed> {
    let end = if rest.last().and_then(Word::literal) == Some("]") { rest.len() - 1 } else { rest.len() };
    let words = rest.get(..end).unwrap_or_default();
    let words =
        if words.first().and_then(Word::literal) == Some("!") { words.get(1..).unwrap_or_default() } else { words };
    let evaluates = words.iter().any(|word| matches!(word.literal(), Some("-v" | "-R")));
    let operator = |at: usize| words.get(at).is_some_and(|word| word.literal().is_some());
    let sound = match words.len() {
        0 | 1 => true,
        2 => operator(0),
        3 => operator(1),
        _ => !words.iter().any(Word::is_open),
    };
    if evaluates || !sound || words.iter().any(Word::may_split) {
        return Err(Unparsed::new(
            "`test` has words that could turn out to be operators; quote them, one test at a time",
        ));
    }
    Ok(())
}
