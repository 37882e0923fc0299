//! Programs of this machine under a budget, from the outside: what they start, try and leave behind.
//!
//! A program of its own instead of a collection of tests: it is started again as the processes that put up the walls,
//! and as a launcher that is killed.
#![deny(unsafe_code)]

use std::panic::catch_unwind;
use std::process::ExitCode;

mod callers;
mod end;
mod gate;
mod meters;
mod rig;
mod service;
mod walls;

type Test = (&'static str, fn());

macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => { &[$((stringify!($name), $module::$name as fn())),*] };
}

const TESTS: &[Test] = tests![
    end::a_program_runs_and_its_code_is_told,
    end::an_ordinary_training_program_works,
    end::a_tree_that_will_not_go_is_gone_at_its_budget,
    end::a_fork_bomb_is_gone_at_its_budget,
    end::what_a_program_leaves_behind_ends_with_it,
    end::a_launcher_that_is_killed_leaves_nothing,
    end::a_launcher_that_is_stopped_keeps_nothing_alive,
    end::a_program_is_told_before_it_is_ended,
    end::a_signal_is_handed_on_once_and_a_second_ends_everything,
    end::a_program_hears_its_signals_whatever_the_gate_ignores,
    end::a_revocation_ends_everything,
    walls::the_network_of_the_machine_is_out_of_reach,
    walls::a_door_leads_to_the_gate_and_nowhere_else,
    walls::files_outside_the_grant_do_not_exist_and_cannot_be_made,
    walls::nothing_is_inherited,
    walls::no_call_leads_out,
    walls::no_gpu_is_seen_unless_granted,
    walls::a_missing_wall_is_refused_and_said,
    walls::a_program_that_cannot_be_run_is_said_as_a_shell_does,
    walls::without_namespaces_nothing_is_started,
    walls::without_privileges_the_walls_are_the_same,
    meters::processor_time_of_every_child_counts,
    meters::memory_is_kept_within_its_limit,
    meters::processes_are_kept_within_their_limit,
    meters::what_is_written_is_kept_within_its_limit,
    meters::without_control_groups_the_limits_still_hold,
    gate::the_whole_line_runs_a_program_and_settles_it,
    gate::what_is_used_is_posted_while_it_runs,
    gate::a_lost_launcher_is_settled_as_spent,
    service::a_running_gate_runs_a_program_for_a_caller,
    service::forty_callers_against_places_for_three_are_three,
    service::what_other_calls_of_the_gate_hold_and_used_a_program_does_not_get,
    service::a_frozen_account_gets_nothing_new_and_a_revoked_one_loses_what_runs,
    service::a_caller_hands_on_one_signal_and_its_second_ends_everything,
    service::a_gate_that_stops_ends_its_programs_and_settles_them,
    service::a_door_of_a_running_gate_leads_where_the_gate_says,
    service::a_socket_in_place_of_a_stream_is_carried_and_not_handed_on,
    service::a_caller_that_is_killed_takes_its_program_with_it,
    service::a_gate_that_is_killed_leaves_nothing_of_its_callers_programs,
    service::a_gate_that_stands_still_keeps_no_program_and_no_caller,
    callers::whoever_has_no_token_gets_nothing_and_nothing_is_on_record,
    callers::a_request_that_is_not_one_is_refused_and_closed,
    callers::only_streams_that_carry_bytes_are_handed_on,
    callers::a_caller_who_says_nothing_holds_nothing_up,
    callers::a_word_that_is_not_understood_ends_the_program,
    callers::callers_beyond_the_places_are_refused,
    callers::another_user_is_turned_away,
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    match words.get(1).map(String::as_str) {
        Some(rig::AGAIN) => return weir::native::exec_main(),
        Some("role:launch") => return end::play(&words[2..]),
        Some("role:plain") => return walls::play(&words[2..]),
        Some("role:gate") => return gate::play(&words[2..]),
        Some("role:caller") => return service::play_caller(&words[2..]),
        Some("role:service") => return service::play_gate(&words[2..]),
        Some("role:stranger") => return callers::play(&words[2..]),
        _ => {}
    }
    // What whoever started this left open is not to reach the programs.
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
    if !rig::able() {
        println!("skipped: this machine gives no namespaces; that nothing is started then was tested");
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
