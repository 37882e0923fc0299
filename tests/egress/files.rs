//! The file of upstreams: every fault at once with its line, and nothing of a key in any of them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use weir::egress::{Kind, upstreams};

const SECRET: &str = "sk-provider-secret-000111222";

fn write(folder: &Path, name: &str, text: &str, mode: u32) {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn read(text: &str) -> Result<Vec<weir::egress::Upstream>, Vec<(usize, String)>> {
    let home = tempfile::tempdir().unwrap();
    write(home.path(), "key", &format!("{SECRET}\n"), 0o600);
    write(home.path(), "open", SECRET, 0o644);
    write(home.path(), "lines", &format!("{SECRET}\n{SECRET}\n"), 0o600);
    write(home.path(), "short", "abc", 0o600);
    write(home.path(), "u.toml", text, 0o644);
    upstreams(&home.path().join("u.toml")).map_err(|faults| {
        assert!(!faults.to_string().contains(SECRET), "{faults}");
        faults.lines.into_iter().map(|fault| (fault.line, fault.text)).collect()
    })
}

#[test]
fn an_upstream_is_read_with_its_key_and_its_defaults() {
    let text = "[[upstream]]\nname = \"a\"\nkind = \"anthropic\"\nurl = \"https://api.example/base/\"\nkey_file = \"key\"\n\
                [[upstream]]\nname = \"b\"\nkind = \"openai\"\nurl = \"http://127.0.0.1:9/v\"\nkey_file = \"key\"\n\
                listen = \"[::1]:0\"\nbytes_per_token = 3\nextra_fields = [\"x\"]\n";
    let found = read(text).unwrap();
    let (first, second) = (&found[0], &found[1]);
    assert_eq!((first.kind, first.bytes_per_token, first.listen.port()), (Kind::Anthropic, 1, 0));
    assert!(first.listen.ip().is_loopback() && first.extra_fields.is_empty());
    assert_eq!((second.kind, second.bytes_per_token, second.extra_fields.len()), (Kind::OpenAi, 3, 1));
    assert!(!format!("{found:?}").contains(SECRET));
}

#[test]
fn every_fault_comes_at_once_with_its_line() {
    let text = "[[upstream]]\nname = \"a b\"\nkind = \"antropic\"\nurl = \"http://api.example\"\nkey_file = \"open\"\n\
                listen = \"0.0.0.0:80\"\nextra = 1\n[[upstream]]\nname = 7\nurl = \"https://user@api.example\"\n\
                key_file = \"missing\"\nbytes_per_token = 0\nca_file = \"key\"\n[other]\n";
    let faults = read(text).unwrap_err();
    let wanted = [
        (2, "letters"),
        (3, "`kind` is one of `anthropic`, `openai`"),
        (4, "plain http is for this machine only"),
        (5, "chmod 600"),
        (6, "not a loopback address"),
        (7, "unknown field `extra`"),
        (8, "lacks `kind`"),
        (9, "`name` in [[upstream]] is a string"),
        (10, "no user, no query"),
        (11, "cannot be read"),
        (12, "from 1 to 8"),
        (13, "no certificates"),
        (14, "unknown field `other`"),
    ];
    for (line, text) in wanted {
        assert!(faults.iter().any(|(at, fault)| *at == line && fault.contains(text)), "{line} {text}: {faults:#?}");
    }
    assert_eq!(faults.len(), wanted.len(), "{faults:#?}");
}

#[test]
fn what_is_no_file_of_upstreams_is_told() {
    let one = |key: &str| {
        format!("[[upstream]]\nname = \"a\"\nkind = \"openai\"\nurl = \"https://api.example\"\nkey_file = \"{key}\"\n")
    };
    assert!(read(&one("key")).is_ok());
    for key in ["lines", "short", ".", "key/x"] {
        assert_eq!(read(&one(key)).unwrap_err()[0].0, 5, "{key}");
    }
    for name in ["http", "hook"] {
        // A generation of such a name would count as a host's word and not as metered.
        let taken = read(&one("key").replace("\"a\"", &format!("\"{name}\""))).unwrap_err();
        assert!(taken[0].0 == 2 && taken[0].1.contains("surface of the gate"), "{taken:?}");
    }
    assert!(read("").unwrap_err()[0].1.contains("no upstream"));
    assert!(read("upstream = 1").unwrap_err()[0].1.contains("[[upstream]]"));
    assert!(read("[[upstream]\nname").unwrap_err()[0].1.contains("not TOML"));
    assert!(read(&format!("{}{}", one("key"), one("key"))).unwrap_err()[0].1.contains("taken"));
    let fixed = one("key").replace("kind", "listen = \"127.0.0.1:9999\"\nkind");
    let other = fixed.replace("\"a\"", "\"b\"");
    assert!(read(&format!("{fixed}{other}")).unwrap_err()[0].1.contains("127.0.0.1:9999"));
    assert!(upstreams(Path::new("/nonexistent/u.toml")).unwrap_err().to_string().contains("cannot be read"));
}
