//! What clients report beside what the gate metered, as text: one line for each session, and nothing that the JSON does not say.

use serde_json::Value;

use crate::cli::table::{aligned, word};

/// The reconciliation as a table.
pub(super) fn text(table: &Value) -> String {
    let sessions = table["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut rows = vec![
        ["SESSION", "CLIENT", "STATE", "REQUESTS", "METERED", "MICRO-USD", "METERED", "BYPASSES"].map(str::to_owned),
    ];
    rows.extend(sessions.iter().map(|line| {
        let (reported, metered) = (&line["reported"], &line["metered"]);
        let state = match line["closed"].as_str() {
            Some(_) => format!("{}, {}", word(&line["state"]), word(&line["closed"])),
            None => word(&line["state"]),
        };
        [
            word(&line["session"]),
            word(&line["client"]),
            state,
            word(&reported["requests"]),
            word(&metered["requests"]),
            word(&reported["micro_usd"]),
            word(&metered["micro_usd"]),
            word(&line["tools"]["bypasses"]),
        ]
    }));
    let mut text = if sessions.is_empty() {
        "no client has told of itself since the gate began\n".to_owned()
    } else {
        aligned(&rows)
    };
    let untold = &table["untold"];
    if untold["sessions"].as_u64().is_some_and(|sessions| sessions > 0) {
        let (sessions, requests, micro) =
            (word(&untold["sessions"]), word(&untold["requests"]), word(&untold["micro_usd"]));
        text.push_str(&format!(
            "metered, and told of by no client: {sessions} sessions, {requests} requests, {micro} micro-USD\n"
        ));
    }
    text
}
