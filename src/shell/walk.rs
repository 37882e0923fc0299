//! The walk over the grammar's tree: every command, wherever it stands, whether or not it would be reached.

use brush_parser::{Parser, ast};

use super::expand::{arithmetic, cut, grammar};
use super::table::{may_pass_on, may_set};
use super::word::Word;
use super::{DEPTH, PROGRAMS, Script, Simple, Unparsed};

/// A walk and what it has found so far.
#[derive(Default)]
pub(super) struct Walk {
    pub script: Script,
    depth: usize,
}

impl Walk {
    /// Walks a text that a shell reads; the tree that it is.
    pub fn text(&mut self, text: &str) -> Result<ast::Program, Unparsed> {
        self.enter()?;
        let mut parser = Parser::new(text.as_bytes(), &grammar());
        let program = parser.parse_program();
        let program = program.map_err(|_| Unparsed::new(format!("the shell's grammar does not know {}", cut(text))))?;
        program.complete_commands.iter().try_for_each(|list| self.list(list))?;
        self.depth -= 1;
        Ok(program)
    }

    /// One level deeper.
    pub fn enter(&mut self) -> Result<(), Unparsed> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(Unparsed::new("the command line nests too much; write a script file instead"));
        }
        Ok(())
    }

    /// One level up.
    pub const fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    /// Notes a program.
    pub fn found(&mut self, simple: Simple) -> Result<(), Unparsed> {
        if self.script.commands.len() >= PROGRAMS {
            return Err(Unparsed::new(format!("the command line runs more than {PROGRAMS} programs")));
        }
        self.script.commands.push(simple);
        Ok(())
    }

    fn list(&mut self, list: &ast::CompoundList) -> Result<(), Unparsed> {
        for item in &list.0 {
            for (_, pipeline) in item.0.iter() {
                pipeline.seq.iter().try_for_each(|command| self.command(command))?;
            }
        }
        Ok(())
    }

    fn command(&mut self, command: &ast::Command) -> Result<(), Unparsed> {
        match command {
            ast::Command::Simple(simple) => self.simple(simple),
            ast::Command::Compound(compound, redirects) => {
                self.compound(compound)?;
                self.redirects(redirects.as_ref())
            }
            // What a function holds is walked where it is defined; a call of it is a program without a row.
            ast::Command::Function(function) => {
                self.compound(&function.body.0)?;
                self.redirects(function.body.1.as_ref())
            }
            ast::Command::ExtendedTest(test, redirects) => {
                self.test(&test.expr)?;
                self.redirects(redirects.as_ref())
            }
        }
    }

    fn compound(&mut self, compound: &ast::CompoundCommand) -> Result<(), Unparsed> {
        use ast::CompoundCommand as C;
        self.enter()?;
        match compound {
            C::Arithmetic(command) => arithmetic(&command.expr.value)?,
            C::ArithmeticForClause(_) => {
                return Err(Unparsed::new("a loop counts with variables, whose values a shell evaluates again"));
            }
            C::BraceGroup(group) => self.list(&group.list)?,
            C::Subshell(group) => self.list(&group.list)?,
            C::ForClause(clause) => {
                settable(&clause.variable_name)?;
                for value in clause.values.iter().flatten() {
                    let value = self.word(value)?;
                    self.script.words.push(value);
                }
                self.list(&clause.body.list)?;
            }
            C::CaseClause(clause) => {
                self.word(&clause.value)?;
                for case in &clause.cases {
                    for pattern in &case.patterns {
                        self.word(pattern)?;
                    }
                    case.cmd.iter().try_for_each(|list| self.list(list))?;
                }
            }
            C::IfClause(clause) => {
                self.list(&clause.condition)?;
                self.list(&clause.then)?;
                for other in clause.elses.iter().flatten() {
                    other.condition.iter().try_for_each(|list| self.list(list))?;
                    self.list(&other.body)?;
                }
            }
            C::WhileClause(clause) | C::UntilClause(clause) => {
                self.list(&clause.0)?;
                self.list(&clause.1.list)?;
            }
            C::Coprocess(_) => return Err(Unparsed::new("`coproc` runs a program beside the shell")),
        }
        self.leave();
        Ok(())
    }

    fn test(&mut self, expr: &ast::ExtendedTestExpr) -> Result<(), Unparsed> {
        use ast::{BinaryPredicate as B, ExtendedTestExpr as E, UnaryPredicate as U};
        match expr {
            E::And(left, right) | E::Or(left, right) => {
                self.test(left)?;
                self.test(right)
            }
            E::Not(inner) | E::Parenthesized(inner) => self.test(inner),
            E::UnaryTest(U::ShellVariableIsSetAndAssigned | U::ShellVariableIsSetAndNameRef, _) => {
                Err(Unparsed::new("`[[ -v … ]]` evaluates a name, and runs what it substitutes"))
            }
            E::UnaryTest(_, word) => self.operand(word, false),
            E::BinaryTest(predicate, left, right) => {
                let numbers = matches!(
                    predicate,
                    B::ArithmeticEqualTo
                        | B::ArithmeticNotEqualTo
                        | B::ArithmeticLessThan
                        | B::ArithmeticLessThanOrEqualTo
                        | B::ArithmeticGreaterThan
                        | B::ArithmeticGreaterThanOrEqualTo
                );
                self.operand(left, numbers)?;
                self.operand(right, numbers)
            }
        }
    }

    fn operand(&mut self, raw: &ast::Word, number: bool) -> Result<(), Unparsed> {
        let word = self.word(raw)?;
        if number {
            arithmetic(word.literal().unwrap_or("x"))?;
        }
        self.script.words.push(word);
        Ok(())
    }

    fn simple(&mut self, simple: &ast::SimpleCommand) -> Result<(), Unparsed> {
        let (mut argv, mut set) = (Vec::new(), Vec::new());
        for item in simple.prefix.iter().flat_map(|prefix| &prefix.0) {
            match item {
                ast::CommandPrefixOrSuffixItem::AssignmentWord(assignment, _) => {
                    set.push(self.assignment(assignment)?);
                }
                other => self.item(other, &mut argv)?,
            }
        }
        if let Some(name) = &simple.word_or_name {
            argv.push(self.word(name)?);
        }
        for item in simple.suffix.iter().flat_map(|suffix| &suffix.0) {
            self.item(item, &mut argv)?;
        }
        if argv.is_empty() {
            return set.iter().try_for_each(|name| settable(name));
        }
        set.iter().try_for_each(|name| passable(name))?;
        self.run(argv)
    }

    fn item(&mut self, item: &ast::CommandPrefixOrSuffixItem, argv: &mut Vec<Word>) -> Result<(), Unparsed> {
        match item {
            ast::CommandPrefixOrSuffixItem::IoRedirect(redirect) => self.redirect(redirect),
            ast::CommandPrefixOrSuffixItem::Word(word) | ast::CommandPrefixOrSuffixItem::AssignmentWord(_, word) => {
                let word = self.word(word)?;
                argv.push(word);
                Ok(())
            }
            ast::CommandPrefixOrSuffixItem::ProcessSubstitution(_, group) => {
                argv.push(Word::pipe());
                self.group(group)
            }
        }
    }

    fn group(&mut self, group: &ast::SubshellCommand) -> Result<(), Unparsed> {
        self.enter()?;
        self.list(&group.list)?;
        self.leave();
        Ok(())
    }

    /// Walks the value of an assignment; the name that is set.
    fn assignment(&mut self, assignment: &ast::Assignment) -> Result<String, Unparsed> {
        let ast::AssignmentName::VariableName(name) = &assignment.name else {
            return Err(Unparsed::new("an element of an array is set, whose index a shell evaluates"));
        };
        let ast::AssignmentValue::Scalar(value) = &assignment.value else {
            return Err(Unparsed::new("an array is set, which shells read differently"));
        };
        let value = self.word(value)?;
        self.script.words.push(value);
        Ok(name.clone())
    }

    fn redirects(&mut self, list: Option<&ast::RedirectList>) -> Result<(), Unparsed> {
        list.iter().flat_map(|list| &list.0).try_for_each(|redirect| self.redirect(redirect))
    }

    fn redirect(&mut self, redirect: &ast::IoRedirect) -> Result<(), Unparsed> {
        use ast::{IoFileRedirectKind as K, IoFileRedirectTarget as T, IoRedirect as R};
        match redirect {
            R::File(_, _, T::Fd(_)) => Ok(()),
            R::File(_, _, T::ProcessSubstitution(_, group)) => self.group(group),
            R::File(_, K::DuplicateInput | K::DuplicateOutput, T::Duplicate(word) | T::Filename(word)) => {
                let word = self.word(word)?;
                match word.literal() {
                    Some("-") => Ok(()),
                    Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
                    _ => Err(Unparsed::new("shells read `>&` before a word differently; write `> file 2>&1`")),
                }
            }
            R::File(_, kind, T::Filename(word) | T::Duplicate(word)) => {
                let word = self.word(word)?;
                self.file(word, !matches!(kind, K::Read))
            }
            R::OutputAndError(word, _) => {
                let word = self.word(word)?;
                self.file(word, true)
            }
            R::HereString(_, word) => self.word(word).map(drop),
            R::HereDocument(_, document) if document.requires_expansion => self.document(&document.doc.value),
            R::HereDocument(..) => Ok(()),
        }
    }

    fn file(&mut self, word: Word, writes: bool) -> Result<(), Unparsed> {
        let start = word.start();
        if start.starts_with("/dev/tcp") || start.starts_with("/dev/udp") {
            return Err(Unparsed::new("a redirection opens a network connection"));
        }
        if writes && !matches!(word.literal(), Some("/dev/null" | "/dev/stdout" | "/dev/stderr")) {
            self.script.writes.push(word);
        } else if !writes {
            self.script.reads.push(word);
        }
        Ok(())
    }
}

/// Refuses a variable of the shell that shells or programs take for more than a value.
pub(super) fn settable(name: &str) -> Result<(), Unparsed> {
    if may_set(name) {
        return Ok(());
    }
    Err(Unparsed::new(format!("{} is set, which can change what later words run; use a name in lower case", cut(name))))
}

/// Refuses a variable of a program that can change what runs or where data goes.
pub(super) fn passable(name: &str) -> Result<(), Unparsed> {
    if may_pass_on(name) {
        return Ok(());
    }
    Err(Unparsed::new(format!(
        "{} is set for a program, which can change what it runs or where its data goes",
        cut(name)
    )))
}
