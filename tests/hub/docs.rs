//! The page for users shows files that are taken as they stand.

/// The indented blocks of TOML in the page.
fn blocks() -> Vec<String> {
    let page = include_str!("../../docs/hub.md");
    let block = |text: &str| text.lines().skip(1).map(|line| format!("{}\n", line.trim_start())).collect::<String>();
    page.split("```").filter(|text| text.starts_with("toml")).map(block).collect()
}

#[test]
fn the_policy_and_the_upstreams_in_the_docs_are_taken() {
    let [upstreams, policy] = blocks().try_into().unwrap();
    weir::policy::parse(policy.as_bytes(), "docs").unwrap_or_else(|faults| panic!("{faults}"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("keys")).unwrap();
    for key in ["keys/hub", "keys/jobs"] {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(folder.path().join(key), "hf_0123456789").unwrap();
        std::fs::set_permissions(folder.path().join(key), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let file = folder.path().join("upstreams.toml");
    std::fs::write(&file, upstreams).unwrap();
    let read = weir::egress::upstreams(&file).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(read[0].blob_hosts.len(), 2);
}
