//! `[code]`, `[code.limits]` and `[[code.file]]`.

use super::super::Code;
use super::super::reader::{Fields, shown};
use super::Unique;
use super::tool::is_normal_path;
use crate::model::{Access, Clock, CodeLimits, Limits, Millis, Preopen, Randomness};

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

/// Longest path, bytes.
const PATH_BYTES: usize = 1024;
/// Most modules in the list of imports.
const IMPORTS: usize = 1000;

pub(super) fn read(fields: &Fields<'_, '_>) -> Option<Code> {
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
    let files = read_files(fields);
    let answers = fields.threats("answers");
    fields.end();
    let imports = imports.into_iter().map(|module| module.value).collect();
    Some(Code { imports, files, clock, randomness, limits, answers })
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

fn read_files(code: &Fields<'_, '_>) -> Vec<Preopen> {
    let mut unique = Unique::new("the guest folder");
    let mut files = Vec::new();
    for fields in code.tables("file", "[[code.file]]") {
        for key in ["guest", "host"].into_iter().filter(|key| !fields.has(key)) {
            fields.missing(key);
        }
        let guest = fields.line_text("guest", PATH_BYTES);
        let host = fields.line_text("host", PATH_BYTES);
        let access = fields.need_word("access", &[("read", Access::Read), ("write", Access::Write)]);
        fields.end();
        if let Some(guest) = &guest {
            unique.check(&fields, &guest.value, guest.line);
            if !is_normal_path(&guest.value) {
                let text = format!("`guest` is an absolute path such as `/data`, not `{}`", shown(&guest.value));
                fields.fault(guest.line, text);
            }
        }
        if let (Some(guest), Some(host), Some(access)) = (guest, host, access) {
            files.push(Preopen { guest: guest.value, host: host.value, access });
        }
    }
    files
}

/// True for a dotted chain of Python identifiers in ASCII.
fn is_module(text: &str) -> bool {
    let identifier = |part: &str| {
        part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && part.bytes().next().is_some_and(|b| !b.is_ascii_digit())
    };
    text.len() <= Limits::NAME_BYTES && text.split('.').all(identifier)
}
