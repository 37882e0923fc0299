//! The example of a training loop, from end to end: the real program, a played provider and model, an agent that does not stop
//! by itself.
#![cfg(feature = "cli")]

use std::process::Command;

#[test]
fn a_training_loop_spends_what_it_may_and_is_stopped_by_a_person() {
    let here = env!("CARGO_MANIFEST_DIR");
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("spend.svg");
    let mut run = Command::new("bash");
    run.arg(format!("{here}/examples/training/run")).arg(&plot).env("WEIR_BIN", env!("CARGO_BIN_EXE_weir"));
    let output = run.output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{said}");
    let count = |words: &str| said.lines().filter(|line| line.contains(words)).count();
    assert_eq!(count("trick ("), 4, "{said}");
    assert_eq!(count(": 403: [weir] denied job on"), 4, "each trick is refused with a reason: {said}");
    // Two GPU-hours with the one that the person adds: nine launches for half an hour at most, or eight where the last job of
    // twelve minutes is not settled yet when the next one is asked for.
    let done = count("completed after 12 min");
    assert!((7..=8).contains(&done), "{said}");
    assert_eq!((count("== a person is asked"), count("adds gpu_ms 3600000")), (2, 2), "{said}");
    let refused = format!("experiment {}: refused with 403: [weir] denied job on t4-small", done + 1);
    assert!(said.contains(&refused), "{said}");
    let left = format!("gpu-time-per-session    {} GPU-ms", 7_200_000 - done * 720_000);
    assert!(said.contains(&left), "so many times twelve minutes of two hours: {said}");
    assert!(said.contains("sound: ") && said.contains("still without an outcome: 0"), "{said}");
    let drawn = std::fs::read_to_string(plot).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.matches("<polyline").count() == 2);
}
