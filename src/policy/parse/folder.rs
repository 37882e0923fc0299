//! `[[code.file]]` and `[code.scratch]`: what generated code sees of files.

use super::super::reader::{At, Fields, shown};
use super::Unique;
use super::tool::is_normal_path;
use crate::model::{Access, Preopen, Quota, Scratch};

/// Longest path, bytes.
const PATH_BYTES: usize = 1024;
/// Most bytes of one quota.
const MOST_BYTES: u64 = 1 << 40;
/// Most files of one quota.
const MOST_FILES: u64 = 1_000_000;

/// The folders of the host, and the session's own.
pub(super) fn read(code: &Fields<'_, '_>) -> (Vec<Preopen>, Option<Scratch>) {
    let mut unique = Unique::new("the guest folder");
    let mut files = Vec::new();
    for fields in code.tables("file", "[[code.file]]") {
        if !fields.has("host") {
            fields.missing("host");
        }
        let guest = read_guest(&fields, &mut unique);
        let host = fields.line_text("host", PATH_BYTES);
        let access = fields.need_word("access", &[("read", Access::Read), ("write", Access::Write)]);
        let quota = read_quota(&fields, access == Some(Access::Write));
        fields.end();
        if let (Some(guest), Some(host), Some(access)) = (guest, host, access) {
            files.push(Preopen { guest: guest.value, host: host.value, access, quota });
        }
    }
    let scratch = code.table("scratch", "[code.scratch]").and_then(|fields| {
        let guest = read_guest(&fields, &mut unique);
        let quota = read_quota(&fields, true);
        fields.end();
        Some(Scratch { guest: guest?.value, quota: quota? })
    });
    (files, scratch)
}

fn read_guest(fields: &Fields<'_, '_>, unique: &mut Unique) -> Option<At<String>> {
    if !fields.has("guest") {
        fields.missing("guest");
    }
    let guest = fields.line_text("guest", PATH_BYTES)?;
    unique.check(fields, &guest.value, guest.line);
    if !is_normal_path(&guest.value) {
        let text = format!("`guest` is an absolute path such as `/data`, not `{}`", shown(&guest.value));
        fields.fault(guest.line, text);
    }
    Some(guest)
}

/// The quota of a folder to write; one to read has none.
fn read_quota(fields: &Fields<'_, '_>, writes: bool) -> Option<Quota> {
    for key in ["bytes", "files"].into_iter().filter(|key| fields.has(key) != writes) {
        if writes {
            fields.missing(key);
        } else {
            fields.fault(fields.line, format!("`{key}` in {} is for folders with access = \"write\"", fields.what));
        }
    }
    let bytes = fields.whole("bytes", 0..=MOST_BYTES);
    let files = fields.whole("files", 0..=MOST_FILES);
    writes.then_some(Quota { bytes: bytes?, files: files? })
}
