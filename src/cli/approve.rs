//! `weir approve`: what waits for a person, and the person's answer.

use super::budget;

/// List what waits for a person; with an id, say yes to it, or no.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    answer: budget::Approve,
    #[command(flatten)]
    at: budget::At,
}

pub(super) fn run(args: Args) -> Result<u8, String> {
    budget::approve(args.answer, args.at)
}
