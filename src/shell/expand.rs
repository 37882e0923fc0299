//! Words of the grammar as [`Word`]s: quotes taken off, patterns and expansions marked, substitutions walked.

use brush_parser::word::{
    Parameter, ParameterExpr, SpecialParameter, TildeExpr, WordPiece, WordPieceWithSource, parse, parse_heredoc,
};
use brush_parser::{ParserOptions, ast};

use super::Unparsed;
use super::walk::Walk;
use super::word::{Part, Word};

/// Folders that the environment names and the agent cannot.
const FOLDERS: &[&str] = &["HOME", "PWD", "TMPDIR"];
/// Variables whose values are numbers.
const PLAIN: &[&str] = &["RANDOM", "LINENO", "SECONDS", "UID", "EUID", "PPID", "BASHPID"];

/// A word on its way.
#[derive(Default)]
struct Draft {
    word: Word,
    /// What stands outside of quotes, for brace lists, which may span pieces.
    bare: String,
}

impl Walk {
    /// The word behind `raw`, walking what it substitutes.
    pub(super) fn word(&mut self, raw: &ast::Word) -> Result<Word, Unparsed> {
        self.expanded(&raw.value)
    }

    fn expanded(&mut self, raw: &str) -> Result<Word, Unparsed> {
        if raw == "[" || raw == "{}" {
            return Ok(Word::text(raw));
        }
        let pieces =
            parse(raw, &grammar()).map_err(|_| Unparsed::new(format!("a word is not readable: {}", cut(raw))))?;
        let mut draft = Draft::default();
        self.pieces(raw, &pieces, false, &mut draft)?;
        if is_brace_list(&draft.bare) {
            return Ok(Word::unknown());
        }
        Ok(draft.word)
    }

    /// Walks what a here-document substitutes.
    pub(super) fn document(&mut self, text: &str) -> Result<(), Unparsed> {
        let pieces = parse_heredoc(text, &grammar()).map_err(|_| Unparsed::new("a here-document is not readable"))?;
        self.pieces(text, &pieces, true, &mut Draft::default())
    }

    fn pieces(
        &mut self,
        raw: &str,
        pieces: &[WordPieceWithSource],
        quoted: bool,
        draft: &mut Draft,
    ) -> Result<(), Unparsed> {
        for piece in pieces {
            if let WordPiece::Text(text) = &piece.piece
                && text == "$"
                && raw.get(piece.end_index..).is_some_and(|rest| rest.starts_with(is_expansion))
            {
                return Err(Unparsed::new(format!("an expansion is not readable: {}", cut(raw))));
            }
            self.piece(raw, &piece.piece, quoted, draft)?;
        }
        Ok(())
    }

    fn piece(&mut self, raw: &str, piece: &WordPiece, quoted: bool, draft: &mut Draft) -> Result<(), Unparsed> {
        let open = || if quoted { Part::Unknown } else { Part::Words };
        match piece {
            WordPiece::Text(text) if quoted => draft.word.push(Part::Text(text.replace("\\\n", ""))),
            WordPiece::Text(text) => bare(text, draft)?,
            WordPiece::SingleQuotedText(text) => draft.word.push(Part::Text(text.clone())),
            WordPiece::AnsiCQuotedText(text) if !text.contains('\\') => draft.word.push(Part::Text(text.clone())),
            WordPiece::AnsiCQuotedText(_) => draft.word.push(Part::Unknown),
            WordPiece::EscapeSequence(text) => {
                let kept = text.strip_prefix('\\').unwrap_or(text);
                draft.word.push(Part::Text(if kept == "\n" { String::new() } else { kept.to_owned() }));
            }
            WordPiece::DoubleQuotedSequence(inner) => {
                draft.word.push(Part::Text(String::new()));
                self.pieces(raw, inner, true, draft)?;
            }
            WordPiece::GettextDoubleQuotedSequence(_) => {
                return Err(Unparsed::new("a text is translated at run time: `$\"…\"`"));
            }
            WordPiece::TildeExpansion(TildeExpr::Home | TildeExpr::UserHome(_) | TildeExpr::WorkingDir) => {
                draft.word.push(Part::Folder);
            }
            WordPiece::TildeExpansion(_) => draft.word.push(Part::Unknown),
            WordPiece::ParameterExpansion(expr) => {
                let part = parameter(expr)?.unwrap_or_else(open);
                draft.word.push(part);
            }
            WordPiece::CommandSubstitution(text) => {
                let text = self.substituted(text)?;
                draft.word.push(text.filter(|_| quoted).map_or_else(open, Part::Text));
            }
            WordPiece::BackquotedCommandSubstitution(text) => {
                if text.contains('\\') {
                    return Err(Unparsed::new(
                        "backquotes hold a backslash, which shells read differently; use `$(…)`",
                    ));
                }
                self.text(text)?;
                draft.word.push(open());
            }
            WordPiece::ArithmeticExpression(expr) => {
                arithmetic(&expr.value)?;
                draft.word.push(Part::Number);
            }
        }
        Ok(())
    }

    /// Walks the commands of `$(…)`; their output, where it is text that stands in the line itself.
    fn substituted(&mut self, text: &str) -> Result<Option<String>, Unparsed> {
        let program = self.text(text)?;
        Ok(quoted_document(&program).map(|text| text.trim_end_matches('\n').to_owned()))
    }
}

/// The body of `cat <<'EOF'`, when that is all that `program` is.
fn quoted_document(program: &ast::Program) -> Option<&str> {
    let [list] = program.complete_commands.as_slice() else { return None };
    let [item] = list.0.as_slice() else { return None };
    let (first, []) = (&item.0.first, item.0.additional.as_slice()) else { return None };
    let [ast::Command::Simple(simple)] = first.seq.as_slice() else { return None };
    let is_cat = simple.prefix.is_none() && simple.word_or_name.as_ref().is_some_and(|word| word.value == "cat");
    let suffix = simple.suffix.as_ref().filter(|_| is_cat)?;
    match suffix.0.as_slice() {
        [ast::CommandPrefixOrSuffixItem::IoRedirect(ast::IoRedirect::HereDocument(None, document))]
            if !document.requires_expansion =>
        {
            Some(&document.doc.value)
        }
        _ => None,
    }
}

fn is_expansion(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '{' | '(' | '[' | '_' | '\'')
}

/// Text outside of quotes: patterns are marked, and what should not be in a word is refused.
fn bare(text: &str, draft: &mut Draft) -> Result<(), Unparsed> {
    let first = draft.word.parts().is_empty();
    draft.bare.push_str(text);
    if text.contains(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | '|' | '&' | ';' | '<' | '>')) {
        return Err(Unparsed::new(format!("a word holds characters that shells read differently: {}", cut(text))));
    }
    if first && text.starts_with('=') && text.len() > 1 && !text.starts_with("==") {
        // zsh puts the path of a program in its place.
        draft.word.push(Part::Words);
        return Ok(());
    }
    let mut rest = text;
    while let Some(at) = rest.find(['*', '?', '[']) {
        let (before, after) = rest.split_at(at);
        if !before.is_empty() {
            draft.word.push(Part::Text(before.to_owned()));
        }
        let (part, used) = pattern(after);
        draft.word.push(part);
        rest = after.get(used..).unwrap_or_default();
    }
    if !rest.is_empty() {
        draft.word.push(Part::Text(rest.to_owned()));
    }
    Ok(())
}

/// The pattern that `text` begins with, and its bytes.
fn pattern(text: &str) -> (Part, usize) {
    if text.starts_with("**") {
        return (Part::Words, text.bytes().take_while(|b| *b == b'*').count());
    }
    match text.chars().next() {
        Some('*') => (Part::Any, 1),
        Some('?') => (Part::One, 1),
        // A bracket that closes in another piece, or nowhere: anything.
        _ => match text.get(2..).and_then(|rest| rest.find(']')) {
            Some(end) => (Part::One, end + 3),
            None => (Part::Words, text.len()),
        },
    }
}

fn is_brace_list(bare: &str) -> bool {
    let Some(open) = bare.find('{') else { return false };
    let rest = bare.get(open..).unwrap_or_default();
    rest.contains('}') && (rest.contains(',') || rest.contains(".."))
}

/// What is known of a parameter; `None` for nothing.
fn parameter(expr: &ParameterExpr) -> Result<Option<Part>, Unparsed> {
    use ParameterExpr as E;
    let refused =
        |what: &str| Err(Unparsed::new(format!("a variable is expanded in a way that can run commands: {what}")));
    let (of, nested): (&Parameter, Vec<&Option<String>>) = match expr {
        E::Parameter { indirect: true, .. }
        | E::UseDefaultValues { indirect: true, .. }
        | E::UseAlternativeValue { indirect: true, .. }
        | E::ParameterLength { indirect: true, .. } => return refused("`${!…}`"),
        E::Transform { .. } => return refused("`${…@…}`"),
        E::AssignDefaultValues { .. } => return refused("`${…:=…}`"),
        E::Substring { parameter, offset, length, .. } => {
            arithmetic(&offset.value)?;
            length.iter().try_for_each(|length| arithmetic(&length.value))?;
            (parameter, Vec::new())
        }
        E::Parameter { parameter, .. } | E::ParameterLength { parameter, .. } => (parameter, Vec::new()),
        E::UseDefaultValues { parameter, default_value: text, .. }
        | E::UseAlternativeValue { parameter, alternative_value: text, .. }
        | E::IndicateErrorIfNullOrUnset { parameter, error_message: text, .. }
        | E::RemoveSmallestSuffixPattern { parameter, pattern: text, .. }
        | E::RemoveLargestSuffixPattern { parameter, pattern: text, .. }
        | E::RemoveSmallestPrefixPattern { parameter, pattern: text, .. }
        | E::RemoveLargestPrefixPattern { parameter, pattern: text, .. }
        | E::UppercaseFirstChar { parameter, pattern: text, .. }
        | E::UppercasePattern { parameter, pattern: text, .. }
        | E::LowercaseFirstChar { parameter, pattern: text, .. }
        | E::LowercasePattern { parameter, pattern: text, .. } => (parameter, vec![text]),
        E::ReplaceSubstring { parameter, pattern, replacement, .. } => {
            plain(pattern)?;
            (parameter, vec![replacement])
        }
        E::VariableNames { .. } | E::MemberKeys { .. } => return Ok(None),
    };
    nested.into_iter().flatten().try_for_each(|text| plain(text))?;
    if let Parameter::NamedWithIndex { index, .. } = of {
        arithmetic(index)?;
    }
    Ok(match (expr, of) {
        (E::ParameterLength { .. }, _) => Some(Part::Number),
        (E::Parameter { .. }, Parameter::Named(name)) if FOLDERS.contains(&name.as_str()) => Some(Part::Folder),
        (E::Parameter { .. }, Parameter::Named(name)) if PLAIN.contains(&name.as_str()) => Some(Part::Number),
        (
            E::Parameter { .. },
            Parameter::Special(
                SpecialParameter::LastExitStatus
                | SpecialParameter::ProcessId
                | SpecialParameter::LastBackgroundProcessId
                | SpecialParameter::PositionalParameterCount,
            ),
        ) => Some(Part::Number),
        _ => None,
    })
}

/// Refuses a text inside `${…}` that runs anything: how it is quoted there differs from a word's own quoting.
fn plain(text: &str) -> Result<(), Unparsed> {
    let runs = ["`", "$(", "${", "$[", "<(", ">(", "\\"];
    if runs.iter().any(|mark| text.contains(mark)) {
        return Err(Unparsed::new("a substitution stands inside `${…}`; give it a line of its own"));
    }
    Ok(())
}

/// Refuses arithmetic that reads variables: a shell evaluates their values again, and runs what they substitute.
pub(super) fn arithmetic(text: &str) -> Result<(), Unparsed> {
    let known = |c: char| c.is_ascii_digit() || c.is_ascii_whitespace() || "+-*/%()<>=!&|^~,?:".contains(c);
    if text.chars().all(known) {
        return Ok(());
    }
    Err(Unparsed::new(format!("arithmetic reads variables, whose values a shell evaluates again: {}", cut(text))))
}

/// The start of `text`, for a message.
pub(super) fn cut(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("`{short}`")
}

/// The grammar as it is read here: bash without extended patterns, which are off where no person set them.
pub(super) fn grammar() -> ParserOptions {
    ParserOptions { enable_extended_globbing: false, ..ParserOptions::default() }
}
