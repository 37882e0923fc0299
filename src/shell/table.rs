//! What the words are that may stand where a program's name stands: one table each, so that what is looked
//! through, what is harmless and what is refused can be read in one place.

use crate::model::EffectClass;

/// What a name in command position is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Part of the shell and without effect outside it; needs no row.
    Harmless,
    /// Part of the shell; changes what other words mean, or runs text.
    Refused(&'static str),
    /// Runs the program that its arguments name: looked through.
    Wrapper,
    /// A shell.
    Shell,
    /// Runs whatever it is given: its class is `exec` unless its arguments are pinned.
    Interpreter,
    /// Any other program.
    Plain,
}

const HARMLESS: &[&str] = &[
    ":", "true", "false", "echo", "pwd", "exit", "return", "break", "continue", "shift", "wait", "type", "times",
    "jobs",
];

/// Read by rules of their own; harmless within them.
const CHECKED: &[&str] = &["cd", "printf", "set", "export", "read", "test", "["];

const SHELL_TEXT: &str = "runs text that is put together at run time";
const SHELL_STATE: &str = "changes what later words of the shell mean";
const PRIVILEGE: &str = "runs a program as somebody else or elsewhere";

const REFUSED: [(&str, &str); 3] = [
    ("eval source . trap mapfile readarray fc history coproc let", SHELL_TEXT),
    (
        "alias unalias autoload bind bindkey caller compgen complete compopt declare dirs disable disown \
         emulate enable float functions getopts hash integer local noglob nocorrect popd pushd readonly \
         rehash setopt shopt typeset ulimit umask unhash unset unsetopt vared zcompile zle zmodload zstyle",
        SHELL_STATE,
    ),
    ("sudo su doas pkexec runuser setpriv chroot unshare nsenter systemd-run machinectl at batch crontab", PRIVILEGE),
];

const WRAPPERS: &[&str] =
    &["env", "nohup", "timeout", "nice", "ionice", "stdbuf", "time", "command", "builtin", "exec", "xargs", "find"];

const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "rbash"];

/// Programs that run what they are given: code, other programs, build files, hooks of a folder.
const INTERPRETERS: &str = "python pypy pypy3 ipython node nodejs deno bun perl ruby irb php lua luajit tclsh wish osascript R \
    Rscript julia java jshell scala ghci awk gawk mawk nawk sed gsed ed ex vi vim nvim view emacs nano less \
    more man make gmake ninja cmake meson bazel gradle mvn ant cargo go rustc gcc g++ cc clang npm npx pnpm \
    pnpx yarn bunx corepack uv uvx pip pip3 pipx poetry pdm hatch tox nox conda mamba pixi pytest py.test \
    docker podman nerdctl kubectl helm terraform ansible ssh scp sftp rsync mosh rclone git hg svn gh glab \
    gdb lldb strace ltrace perf script expect watch parallel entr flock setsid screen tmux nc ncat netcat \
    socat telnet openssl busybox toybox fish tcsh csh pwsh nu elvish xonsh ld ldconfig torchrun accelerate \
    deepspeed jupyter hf huggingface-cli dpkg apt apt-get brew dnf yum apk snap systemctl service claude \
    codex gemini code cursor sqlite3 psql mysql redis-cli";

/// Options that make a mild program do more: program, long option or letter, the least class with it.
const RAISING: &[(&str, &str, EffectClass)] = &[
    ("rg", "--pre", EffectClass::Exec),
    ("rg", "--hostname-bin", EffectClass::Exec),
    ("git", "--output", EffectClass::Write),
    ("git", "--ext-diff", EffectClass::Exec),
    ("fd", "-x", EffectClass::Exec),
    ("fd", "-X", EffectClass::Exec),
    ("fd", "--exec", EffectClass::Exec),
    ("fd", "--exec-batch", EffectClass::Exec),
    ("fdfind", "-x", EffectClass::Exec),
    ("fdfind", "-X", EffectClass::Exec),
    ("fdfind", "--exec", EffectClass::Exec),
    ("fdfind", "--exec-batch", EffectClass::Exec),
    ("sort", "--compress-program", EffectClass::Exec),
    ("sort", "-o", EffectClass::Write),
    ("sort", "--output", EffectClass::Write),
    ("shuf", "-o", EffectClass::Write),
    ("shuf", "--output", EffectClass::Write),
    ("iconv", "-o", EffectClass::Write),
    ("iconv", "--output", EffectClass::Write),
    ("split", "--filter", EffectClass::Exec),
    ("tree", "-o", EffectClass::Write),
    ("date", "-s", EffectClass::Write),
    ("date", "--set", EffectClass::Write),
    ("curl", "-K", EffectClass::Exec),
    ("curl", "--config", EffectClass::Exec),
    ("wget", "-e", EffectClass::Exec),
    ("wget", "--execute", EffectClass::Exec),
    ("wget", "--use-askpass", EffectClass::Exec),
    ("wget", "--config", EffectClass::Exec),
    ("aria2c", "--on-", EffectClass::Exec),
    ("aria2c", "--conf-path", EffectClass::Exec),
    ("tar", "-I", EffectClass::Exec),
    ("tar", "-F", EffectClass::Exec),
    ("tar", "--use-compress-program", EffectClass::Exec),
    ("tar", "--to-command", EffectClass::Exec),
    ("tar", "--checkpoint-action", EffectClass::Exec),
    ("tar", "--info-script", EffectClass::Exec),
    ("tar", "--new-volume-script", EffectClass::Exec),
    ("tar", "--rsh-command", EffectClass::Exec),
    ("tar", "--rmt-command", EffectClass::Exec),
    ("zip", "-TT", EffectClass::Exec),
    ("zip", "--unzip-command", EffectClass::Exec),
    ("cpio", "--rsh-command", EffectClass::Exec),
    ("install", "--strip-program", EffectClass::Exec),
];

/// What `name`, without a path, is in command position.
#[must_use]
pub fn kind(name: &str) -> Kind {
    if HARMLESS.contains(&name) || CHECKED.contains(&name) {
        return Kind::Harmless;
    }
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| names(refused, name)) {
        return Kind::Refused(why);
    }
    if WRAPPERS.contains(&name) {
        return Kind::Wrapper;
    }
    if SHELLS.contains(&name) {
        return Kind::Shell;
    }
    if is_interpreter(name) { Kind::Interpreter } else { Kind::Plain }
}

fn is_interpreter(name: &str) -> bool {
    // `python3.12` is `python`, `gcc-13` is `gcc`.
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    names(INTERPRETERS, name) || names(INTERPRETERS, stem)
}

/// Whether `name` is one of the words of `list`.
fn names(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|word| word == name)
}

/// True for a builtin that is read by a rule of its own.
pub(super) fn is_checked(name: &str) -> bool {
    CHECKED.contains(&name)
}

/// True when options of `program` can raise its class, so that a word that may be an option matters.
pub(super) fn can_be_raised(program: &str) -> Option<EffectClass> {
    let rows = RAISING.iter().filter(|(of, ..)| *of == program);
    rows.map(|row| row.2).max_by_key(|class| class.strictness())
}

/// The least class that `program` has with an argument that begins with `start`; GNU programs take the beginnings of
/// long options for the whole, and letters stand together after one dash.
pub(super) fn raised(program: &str, start: &str) -> EffectClass {
    let hits = |option: &str| match option.strip_prefix("--") {
        Some(long) => start.strip_prefix("--").is_some_and(|given| {
            let given = given.split('=').next().unwrap_or_default();
            !given.is_empty() && (long.starts_with(given) || given.starts_with(long))
        }),
        None => option.strip_prefix('-').is_some_and(|letters| {
            start.strip_prefix('-').is_some_and(|given| !given.starts_with('-') && given.contains(letters))
        }),
    };
    let rows = RAISING.iter().filter(|(of, option, _)| *of == program && hits(option));
    rows.map(|row| row.2).max_by_key(|class| class.strictness()).unwrap_or(EffectClass::Read)
}

/// Variables that may be set before a command or exported: they change how output looks or what hardware is used, and
/// neither what is run nor where data goes.
const VARIABLES: &[&str] = &[
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LC_COLLATE",
    "LC_MESSAGES",
    "LC_NUMERIC",
    "LC_TIME",
    "TZ",
    "TERM",
    "COLUMNS",
    "LINES",
    "NO_COLOR",
    "FORCE_COLOR",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "CI",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "PYTHONUNBUFFERED",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONHASHSEED",
    "PYTHONIOENCODING",
    "PYTHONUTF8",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TOKENIZERS_PARALLELISM",
    "DEBIAN_FRONTEND",
    "SOURCE_DATE_EPOCH",
];

/// Names in lower case that a shell or a program takes from its surroundings all the same.
const LOWER: &[&str] = &[
    "path",
    "cdpath",
    "fpath",
    "manpath",
    "mailpath",
    "module_path",
    "fignore",
    "psvar",
    "prompt",
    "watch",
    "argv",
    "status",
    "commands",
    "functions",
    "aliases",
    "galiases",
    "saliases",
    "builtins",
    "options",
    "dirstack",
    "history",
    "signals",
];

/// True when `name` may be set for a program.
pub(super) fn may_pass_on(name: &str) -> bool {
    VARIABLES.contains(&name)
}

/// True when `name` may be set for the shell itself.
pub(super) fn may_set(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let own = name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(plain);
    let taken =
        LOWER.contains(&name) || name.ends_with("_proxy") || name.starts_with("npm_") || name.starts_with("zsh_");
    may_pass_on(name) || (own && !taken)
}
