//! What a session's tools may be called: their names and those of their parameters become names in generated code.

use std::collections::HashSet;

use super::error::Refusal;
use crate::model::{Limits, Name};
use crate::pep::port::ToolSpec;

/// Tool and parameter names become names in generated code: identifiers, each once.
pub(super) fn check_tools(tools: &[ToolSpec]) -> Result<(), Refusal> {
    if tools.len() > Limits::TOOLS {
        return Err(Refusal::malformed(format!("a session has at most {} tools", Limits::TOOLS)));
    }
    check_names(tools.iter().map(|tool| &tool.name), "tool")?;
    tools.iter().try_for_each(|tool| check_names(tool.params.iter().map(|param| &param.name), "parameter"))
}

fn check_names<'n>(names: impl Iterator<Item = &'n Name>, what: &str) -> Result<(), Refusal> {
    let mut seen = HashSet::new();
    for name in names {
        if !is_identifier(name.as_str()) {
            return Err(Refusal::malformed(format!("the {what} name `{name}` is not a Python identifier in ASCII")));
        }
        if !seen.insert(name) {
            return Err(Refusal::malformed(format!("the {what} name `{name}` is there twice")));
        }
    }
    Ok(())
}

fn is_identifier(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pep::port::Param;

    fn tool(name: &str, params: &[&str]) -> ToolSpec {
        let param = |name: &&str| Param { name: Name::new(*name).unwrap(), required: true };
        ToolSpec {
            name: Name::new(name).unwrap(),
            description: String::new(),
            params: params.iter().map(param).collect(),
            is_final: false,
            is_agent: false,
        }
    }

    #[test]
    fn tools_have_distinct_identifiers() {
        assert!(check_tools(&[tool("search", &["query", "n"]), tool("_x1", &[])]).is_ok());
        for bad in [
            vec![tool("a.b", &[])],
            vec![tool("1a", &[])],
            vec![tool("a", &[]), tool("a", &[])],
            vec![tool("a", &["x", "x"])],
            vec![tool("a", &["x:y"])],
            vec![tool("a", &[]); Limits::TOOLS + 1],
        ] {
            assert!(check_tools(&bad).is_err());
        }
    }
}
