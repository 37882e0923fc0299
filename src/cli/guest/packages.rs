//! `weir guest packages`: the wheels that policies pin, fetched, checked, compiled and imported once, so that a gate
//! starts with them and a session pays nothing for them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use crate::cli::compose;
use crate::model::Package;
use crate::sandbox::{Prepared, Wheels, prepare};

/// Fetch, check and prepare the packages that policies grant.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The policies.
    #[arg(required = true, value_name = "POLICY")]
    policies: Vec<PathBuf>,
    /// Take the wheels from this folder, without a network [default: `$WEIR_WHEELS`, or pip's own index].
    #[arg(long, value_name = "DIR")]
    wheels: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> Result<u8, String> {
    let given = std::env::var_os("WEIR_WHEELS").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let from = args.wheels.or(given).map_or(Wheels::Index, Wheels::Folder);
    let config = compose::bare()?;
    let (mut text, mut faults) = (String::new(), Vec::new());
    for path in &args.policies {
        let shown = path.display();
        let policy = match compose::policy(path) {
            Ok(policy) => policy,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        let sets = compose::packages(&policy);
        if sets.is_empty() {
            text.push_str(&format!("{shown}: no packages\n"));
        }
        for packages in sets {
            match prepare(&config, &packages, &from) {
                Ok(prepared) => text.push_str(&told(&shown.to_string(), &packages, &prepared)),
                Err(fault) => faults.push(format!("{shown}: {fault}")),
            }
        }
    }
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())?;
    if faults.is_empty() { Ok(0) } else { Err(faults.join("\n")) }
}

fn told(shown: &str, packages: &[Package], prepared: &Prepared) -> String {
    let mut text = format!("{shown}: ready, {:.1} MB in memory\n  set           {}\n", mega(prepared), prepared.set);
    let sorted: BTreeMap<_, _> = packages.iter().map(|package| (&package.name, package)).collect();
    for Package { name, version, digest, .. } in sorted.values() {
        text.push_str(&format!("  package       {name} {version} {digest}\n"));
    }
    text.push_str(&format!("  modules       {}\n", prepared.modules.join(", ")));
    for (module, why) in &prepared.failed {
        text.push_str(&format!("  fails         import {module}: {why}\n"));
    }
    for (who, what) in &prepared.wanting {
        text.push_str(&format!("  missing       {who} needs {what}, which the policy does not list\n"));
    }
    text
}

fn mega(prepared: &Prepared) -> f64 {
    prepared.bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Digest;

    #[test]
    fn an_operator_reads_what_is_ready_and_what_is_missing() {
        let package = |name: &str| Package {
            registry: "python".into(),
            name: name.into(),
            version: "1.0".into(),
            digest: Digest::ZERO,
        };
        let prepared = Prepared {
            set: Digest::ZERO,
            modules: vec!["jinja2".into()],
            failed: vec![("jinja2".into(), "ModuleNotFoundError: markupsafe".into())],
            wanting: vec![("jinja2".into(), "markupsafe".into())],
            bytes: 40_000_000,
        };
        let text = told("p.toml", &[package("jinja2")], &prepared);
        for part in
            ["p.toml: ready, 40.0 MB", "jinja2 1.0 sha256:00", "needs markupsafe", "fails         import jinja2"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
