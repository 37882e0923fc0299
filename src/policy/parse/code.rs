//! `[code]` and `[code.limits]`.

use std::collections::BTreeMap;

use super::super::reader::{Fields, shown};
use super::super::{Code, Registry};
use super::{Unique, folder};
use crate::model::{Checkpoint, Clock, CodeLimits, Limits, Millis, Package, Randomness, Record};

/// Limits of an execution when the policy does not say; also what derivation writes.
pub(in crate::policy) const DEFAULT_LIMITS: CodeLimits = CodeLimits {
    memory_bytes: 256 << 20,
    wall_ms: Millis(10_000),
    fuel: 40_000_000_000,
    stack_bytes: 8 << 20,
    output_bytes: 256 << 10,
    result_bytes: 1 << 20,
    callbacks: 200,
    tool_ms: Millis(60_000),
};

/// Most modules in the list of imports.
const IMPORTS: usize = 1000;
/// Most packages.
const PACKAGES: usize = 200;

pub(super) fn read(fields: &Fields<'_, '_>, registries: &BTreeMap<String, Registry>) -> Option<Code> {
    let imports = fields.texts("imports");
    for module in imports.iter().filter(|module| !is_module(&module.value)) {
        let text =
            format!("`imports` holds module names such as `math` or `urllib.parse`, not `{}`", shown(&module.value));
        fields.fault(module.line, text);
    }
    let mut unique = Unique::new("the module");
    for module in &imports {
        unique.check(fields, &module.value, module.line);
    }
    if imports.len() > IMPORTS {
        fields.fault(fields.line, format!("{} imports are over the limit of {IMPORTS}", imports.len()));
    }
    let clock = fields.word("clock", &[("frozen", Clock::Frozen), ("real", Clock::Real)]).unwrap_or(Clock::Frozen);
    let words = [("seeded", Randomness::Seeded), ("real", Randomness::Real)];
    let randomness = fields.word("randomness", &words).unwrap_or(Randomness::Seeded);
    let limits = fields.table("limits", "[code.limits]").map_or(DEFAULT_LIMITS, |limits| read_limits(&limits));
    let packages = read_packages(fields, registries);
    let points = [("asked", Checkpoint::Asked), ("step", Checkpoint::Step)];
    let checkpoint = fields.word("checkpoint", &points).unwrap_or(Checkpoint::Asked);
    let records = [("nothing", Record::Nothing), ("tape", Record::Tape)];
    let record = fields.word("record", &records).unwrap_or(Record::Nothing);
    let (files, scratch) = folder::read(fields);
    let answers = fields.threats("answers");
    fields.end();
    let imports = imports.into_iter().map(|module| module.value).collect();
    Some(Code { imports, files, scratch, packages, clock, randomness, checkpoint, record, limits, answers })
}

fn read_limits(fields: &Fields<'_, '_>) -> CodeLimits {
    const DAY_MS: u64 = 86_400_000;
    let all = DEFAULT_LIMITS;
    let whole = |key: &str, low: u64, high: u64, absent: u64| fields.whole(key, low..=high).unwrap_or(absent);
    let limits = CodeLimits {
        memory_bytes: whole("memory_bytes", 1 << 20, 4 << 30, all.memory_bytes),
        wall_ms: Millis(whole("wall_ms", 1, DAY_MS, all.wall_ms.0)),
        fuel: whole("fuel", 1, i64::MAX as u64, all.fuel),
        stack_bytes: whole("stack_bytes", 64 << 10, 256 << 20, all.stack_bytes),
        output_bytes: whole("output_bytes", 0, 1 << 30, all.output_bytes),
        result_bytes: whole("result_bytes", 0, Limits::JSON_BYTES as u64, all.result_bytes),
        callbacks: whole("callbacks", 0, 1_000_000, all.callbacks),
        tool_ms: Millis(whole("tool_ms", 1, DAY_MS, all.tool_ms.0)),
    };
    fields.end();
    limits
}

/// Packages by name: each is what exactly one pin of the policy says, content and all.
fn read_packages(fields: &Fields<'_, '_>, registries: &BTreeMap<String, Registry>) -> Vec<Package> {
    let mut unique = Unique::new("the package");
    let mut packages = Vec::new();
    let named = fields.texts("packages");
    if named.len() > PACKAGES {
        fields.fault(fields.line, format!("{} packages are over the limit of {PACKAGES}", named.len()));
    }
    for package in named {
        let name = shown(&package.value);
        unique.check(fields, &package.value, package.line);
        let pins = registries.values().flat_map(|registry| registry.pins.iter().map(move |pin| (registry, pin)));
        let pins: Vec<_> = pins.filter(|(_, pin)| pin.name == package.value).collect();
        let text = match pins.as_slice() {
            [(registry, pin)] => match pin.digest {
                Some(digest) => {
                    let (name, version) = (pin.name.clone(), pin.revision.clone());
                    packages.push(Package { registry: registry.name.clone(), name, version, digest });
                    continue;
                }
                None => format!("the pin of `{name}` needs `digest`, the SHA-256 of its wheel, to be a package here"),
            },
            [] => format!("`packages` names `{name}`, and no [[registry.pin]] of this policy does"),
            _ => format!("`{name}` is pinned more than once; a package here needs exactly one pin"),
        };
        fields.fault(package.line, text);
    }
    packages
}

/// True for a dotted chain of Python identifiers in ASCII.
fn is_module(text: &str) -> bool {
    let identifier = |part: &str| {
        part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && part.bytes().next().is_some_and(|b| !b.is_ascii_digit())
    };
    text.len() <= Limits::NAME_BYTES && text.split('.').all(identifier)
}
