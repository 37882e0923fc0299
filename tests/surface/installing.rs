//! Settings of clients in folders of the tests' own: what is there is kept, what was installed is taken back to the byte.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weir::surface::hook::{Client, InstallFault, Layout, Wish, plan, telemetry_headers, undo};

struct Home {
    folder: tempfile::TempDir,
    layout: Layout,
}

fn home() -> Home {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout { root: folder.path().join("root"), home: folder.path().join("home") };
    Home { folder, layout }
}

fn wish(client: Client, managed: bool) -> Wish {
    Wish {
        client,
        managed,
        program: PathBuf::from("/usr/local/bin/weir"),
        socket: PathBuf::from("/run/weir/gate.sock"),
        token_file: PathBuf::from("/etc/weir/agent token"),
        wait_s: 100,
        defer: false,
        telemetry: None,
    }
}

fn write(path: &Path, text: &str) {
    let folder = path.parent().unwrap();
    fs::create_dir_all(folder).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

const FILES: [(Client, bool, &str); 4] = [
    (Client::ClaudeCode, true, "root/etc/claude-code/managed-settings.json"),
    (Client::ClaudeCode, false, "home/.claude/settings.json"),
    (Client::Codex, true, "root/etc/codex/requirements.toml"),
    (Client::Codex, false, "home/.codex/hooks.json"),
];

/// The settings as JSON, whichever form they have.
fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap();
    if path.extension().is_some_and(|end| end == "toml") {
        serde_json::to_value(toml::from_str::<toml::Table>(&text).unwrap()).unwrap()
    } else {
        serde_json::from_str(&text).unwrap()
    }
}

fn left(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[test]
fn hooks_are_installed_where_nothing_was_and_taken_back() {
    for (client, managed, file) in FILES {
        let home = home();
        let path = home.folder.path().join(file);
        let planned = plan(&wish(client, managed), &home.layout).unwrap();
        assert!(!path.exists() && !planned.is_done(), "a plan changes nothing");
        assert!(planned.diff().contains("+") && !planned.diff().contains("\n-"), "{}", planned.diff());
        planned.apply().unwrap();
        let settings = read(&path);
        let handler = &settings["hooks"]["PreToolUse"][0]["hooks"][0];
        let command = handler["command"].as_str().unwrap();
        assert!(command.starts_with("'/usr/local/bin/weir' hook --client "), "{command}");
        assert!(command.contains("--token-file '/etc/weir/agent token' --wait 100"), "{command}");
        assert!(handler["timeout"].as_u64().unwrap() > 100 + 8, "the client outlasts the shim");
        assert_eq!(settings["hooks"]["PreToolUse"][0]["matcher"], "*");
        match (client, managed) {
            (Client::ClaudeCode, true) => {
                assert_eq!(handler["onFailure"], "block");
                assert_eq!(settings["allowManagedHooksOnly"], true);
                assert_eq!(settings["permissions"]["disableBypassPermissionsMode"], "disable");
            }
            (Client::ClaudeCode, false) => assert_eq!(handler["onFailure"], "block"),
            (Client::Codex, true) => {
                assert_eq!(
                    (&settings["allow_managed_hooks_only"], &settings["features"]["hooks"]),
                    (&json!(true), &json!(true))
                );
            }
            (Client::Codex, false) => assert!(handler.get("onFailure").is_none(), "Codex does not know it"),
        }
        assert!(plan(&wish(client, managed), &home.layout).unwrap().is_done(), "once is enough");
        undo(client, managed, &home.layout).unwrap().apply().unwrap();
        assert_eq!(left(path.parent().unwrap()), Vec::<String>::new(), "{file}");
        assert!(matches!(undo(client, managed, &home.layout), Err(InstallFault::NotOurs(_))));
    }
}

#[test]
fn what_was_there_is_kept_and_comes_back_to_the_byte() {
    for (client, managed, file) in FILES {
        let home = home();
        let path = home.folder.path().join(file);
        let before = if file.ends_with("toml") {
            "# mine\nallowed_sandbox_modes = [\"read-only\"]\n\n[features]\nfast = true\n\n[[hooks.PreToolUse]]\nmatcher = \"x\"\n\n[[hooks.PreToolUse.hooks]]\ntype = \"command\"\ncommand = \"mine\"\n"
        } else {
            "{\n   \"model\": \"m\", \"permissions\": {\"deny\": [\"Read(./.env)\"]},\n \"hooks\": {\"PreToolUse\": [{\"matcher\": \"x\", \"hooks\": [{\"type\": \"command\", \"command\": \"mine\"}]}]}}"
        };
        write(&path, before);
        plan(&wish(client, managed), &home.layout).unwrap().apply().unwrap();
        let settings = read(&path);
        let commands: Vec<&Value> = settings["hooks"]["PreToolUse"]
            .as_array()
            .unwrap()
            .iter()
            .map(|group| &group["hooks"][0]["command"])
            .collect();
        assert_eq!((commands.len(), commands[0]), (2, &json!("mine")), "{file}");
        let kept =
            if file.ends_with("toml") { &settings["features"]["fast"] } else { &settings["permissions"]["deny"][0] };
        assert!(!kept.is_null(), "{settings}");
        // Installed anew with another wish: one hook of ours, and the first file still comes back.
        let again = Wish { wait_s: 30, ..wish(client, managed) };
        plan(&again, &home.layout).unwrap().apply().unwrap();
        let settings = read(&path);
        assert_eq!(settings["hooks"]["PreToolUse"].as_array().unwrap().len(), 2, "{settings}");
        assert!(settings.to_string().contains("--wait 30") && !settings.to_string().contains("--wait 100"));
        undo(client, managed, &home.layout).unwrap().apply().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
        assert_eq!(left(path.parent().unwrap()).len(), 1);
    }
}

#[test]
fn what_is_not_understood_is_not_touched() {
    for (client, managed, file) in FILES {
        for text in [
            "{",
            "[",
            "{\"hooks\": [}",
            "{\"a\":1,\"a\":2}x",
            "hooks = 3 = 4",
            "{\"hooks\": {\"PreToolUse\": 3}}\u{0}",
            "\u{fffd}{",
        ] {
            let home = home();
            let path = home.folder.path().join(file);
            write(&path, text);
            let fault = plan(&wish(client, managed), &home.layout).unwrap_err();
            assert!(matches!(fault, InstallFault::Unclear(..)), "{file} {text}: {fault}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
    let home = home();
    let path = home.folder.path().join("root/etc/claude-code/managed-settings.json");
    for wrong in ["{\"hooks\": 3}", "{\"hooks\": {\"PostToolUse\": {}}}", "{\"permissions\": []}", "[]"] {
        write(&path, wrong);
        assert!(
            matches!(plan(&wish(Client::ClaudeCode, true), &home.layout), Err(InstallFault::Unclear(..))),
            "{wrong}"
        );
    }
}

#[test]
fn a_file_that_the_agent_could_change_is_no_place_for_managed_settings() {
    let home = home();
    let path = home.folder.path().join("root/etc/claude-code/managed-settings.json");
    write(&path, "{}");
    for mode in [0o666, 0o664, 0o646] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(plan(&wish(Client::ClaudeCode, true), &home.layout), Err(InstallFault::Open(_))), "{mode:o}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(plan(&wish(Client::ClaudeCode, true), &home.layout), Err(InstallFault::Open(_))));
    fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
    assert!(matches!(plan(&wish(Client::ClaudeCode, true), &home.layout), Err(InstallFault::Unclear(..))), "a link");
}

#[test]
fn what_changed_meanwhile_is_left_alone() {
    let home = home();
    let path = home.folder.path().join("root/etc/claude-code/managed-settings.json");
    let planned = plan(&wish(Client::ClaudeCode, true), &home.layout).unwrap();
    write(&path, "{\"new\": true}");
    assert!(matches!(planned.apply(), Err(InstallFault::Changed(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"new\": true}");
    drop(fs::remove_file(path.with_extension("json.weir-undo")));
    plan(&wish(Client::ClaudeCode, true), &home.layout).unwrap().apply().unwrap();
    fs::write(&path, "{}").unwrap();
    assert!(matches!(undo(Client::ClaudeCode, true, &home.layout), Err(InstallFault::Changed(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "{}");
}

#[test]
fn paths_that_a_shell_would_take_apart_are_refused() {
    let home = home();
    for path in ["weir", "/opt/we'ir", "/opt/we\nir"] {
        let wish = Wish { program: PathBuf::from(path), ..wish(Client::ClaudeCode, true) };
        assert!(matches!(plan(&wish, &home.layout), Err(InstallFault::Path(_))), "{path}");
    }
}

fn telling(managed: bool) -> Wish {
    Wish { telemetry: Some("127.0.0.1:8400".parse().unwrap()), ..wish(Client::ClaudeCode, managed) }
}

#[test]
fn telemetry_is_installed_without_the_token_and_taken_back() {
    for (_, managed, file) in &FILES[..2] {
        let home = home();
        let path = home.folder.path().join(file);
        let mine = "{\"env\": {\"OTEL_LOG_USER_PROMPTS\": \"1\", \"MINE\": \"x\"}}";
        write(&path, mine);
        let planned = plan(&telling(*managed), &home.layout).unwrap();
        assert!(planned.diff().contains("+    \"CLAUDE_CODE_ENABLE_TELEMETRY\": \"1\""), "{}", planned.diff());
        planned.apply().unwrap();
        let settings = read(&path);
        let env = &settings["env"];
        assert_eq!(env["OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"], "http://127.0.0.1:8400/otlp/claude-code/v1/logs");
        assert_eq!(env["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"], "http://127.0.0.1:8400/otlp/claude-code/v1/metrics");
        for (name, value) in
            [("MINE", "x"), ("OTEL_LOG_USER_PROMPTS", "0"), ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/json")]
        {
            assert_eq!(env[name], value, "{name}");
        }
        let helper = settings["otelHeadersHelper"].as_str().unwrap();
        let command = "'/usr/local/bin/weir' hook --headers --client claude-code --socket '/run/weir/gate.sock' --token-file '/etc/weir/agent token'";
        assert_eq!(helper, command, "the token's file is named, the token is not there");
        assert!(plan(&telling(*managed), &home.layout).unwrap().is_done(), "once is enough");
        // Installed anew without it: it goes, and what was there first still comes back.
        plan(&wish(Client::ClaudeCode, *managed), &home.layout).unwrap().apply().unwrap();
        let settings = read(&path);
        assert_eq!((&settings["env"], settings.get("otelHeadersHelper")), (&json!({"MINE": "x"}), None));
        undo(Client::ClaudeCode, *managed, &home.layout).unwrap().apply().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), mine);
    }
}

#[test]
fn telemetry_goes_to_this_machine_only_and_codex_is_told_by_hand() {
    let home = home();
    for address in ["10.0.0.1:80", "127.0.0.1:0", "0.0.0.0:80", "[::]:80"] {
        let wish = Wish { telemetry: Some(address.parse().unwrap()), ..wish(Client::ClaudeCode, true) };
        assert!(matches!(plan(&wish, &home.layout), Err(InstallFault::Telemetry(_))), "{address}");
    }
    for managed in [true, false] {
        let wish = Wish { telemetry: Some("127.0.0.1:8400".parse().unwrap()), ..wish(Client::Codex, managed) };
        assert!(matches!(plan(&wish, &home.layout), Err(InstallFault::Telemetry(_))));
    }
    let path = home.folder.path().join("root/etc/claude-code/managed-settings.json");
    write(&path, "{\"env\": []}");
    assert!(matches!(plan(&telling(true), &home.layout), Err(InstallFault::Unclear(..))));
}

#[test]
fn the_headers_of_telemetry_are_the_token_of_the_file() {
    let home = home();
    let file = home.folder.path().join("token");
    fs::write(&file, "agent-token-0123456789\n").unwrap();
    let headers: Value = serde_json::from_str(&telemetry_headers(&file).unwrap()).unwrap();
    assert_eq!(headers, json!({"Authorization": "Bearer agent-token-0123456789"}));
    fs::write(&file, "short").unwrap();
    assert!(!telemetry_headers(&file).unwrap_err().contains("short"));
    assert!(telemetry_headers(&home.folder.path().join("none")).is_err());
}
