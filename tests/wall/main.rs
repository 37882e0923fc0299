//! The second wall from the inside: a process that locks itself as a worker does, and then attacks.
//!
//! A program of its own instead of a collection of tests, because the lock wants a process with one thread: it runs
//! the tests below, each of which starts this program again as a worker.
#![deny(unsafe_code)]

use std::panic::catch_unwind;
use std::process::ExitCode;

/// The paths by which the wall names its neighbours in the library.
use weir::model;

#[path = "../../src/sandbox/worker/drill.rs"]
mod drill;
#[path = "../../src/sandbox/worker/filter.rs"]
#[allow(unused_imports, reason = "its own tests run with the library's")]
mod filter;
#[path = "../../src/sandbox/worker/jail.rs"]
#[allow(dead_code, unused_imports, reason = "its own tests run with the library's")]
mod jail;

mod escape;
mod life;
mod place;
mod worker;

type Test = (&'static str, fn());

macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => { &[$((stringify!($name), $module::$name as fn())),*] };
}

const TESTS: &[Test] = tests![
    escape::every_attempt_succeeds_in_the_open_and_is_contained_by_the_lock,
    escape::landlock_alone_keeps_files_connections_and_signals,
    escape::a_granted_folder_is_open_and_nothing_beside_it,
    escape::the_end_of_the_gate_is_the_end_of_the_worker,
    escape::a_worker_that_cannot_be_locked_is_told_why,
    escape::inherited_descriptors_are_gone,
    life::webassembly_runs_and_traps_under_the_lock,
    life::files_are_served_from_other_threads_under_the_lock,
    life::sockets_and_descriptors_pass_under_the_lock,
    life::the_lock_is_quick,
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    if let [_, mode, rest @ ..] = words.as_slice()
        && let Some(role) = mode.strip_prefix("role:")
    {
        return worker::play(role, rest);
    }
    // What whoever started this left open is not to reach the workers, but for the test that says so.
    close_fds::set_fds_cloexec(3, &[]);
    run(&words[1..])
}

/// Prints what the usual test program prints, so that the same eyes and scripts can read it.
fn run(words: &[String]) -> ExitCode {
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|part| name.contains(part.as_str()));
    let (run, skipped): (Vec<&Test>, Vec<&Test>) = TESTS.iter().partition(|(name, _)| chosen(name));
    if words.iter().any(|word| word == "--list") {
        run.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", run.len());
    let mut failed = 0;
    for (name, test) in &run {
        let passed = catch_unwind(test).is_ok();
        failed += usize::from(!passed);
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
    }
    let (verdict, passed) = (if failed == 0 { "ok" } else { "FAILED" }, run.len() - failed);
    let filtered = skipped.len();
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {filtered} filtered out"
    );
    ExitCode::from(u8::from(failed > 0))
}
