#!/bin/sh
# Runs one target for some seconds without cargo-fuzz: fuzz/run.sh TARGET [SECONDS]
# Seeds come from the data of the tests (seeds.py), and what was found before stays in corpus/.
# The flags are what cargo-fuzz would pass: coverage for libFuzzer, and no sanitizer that needs a runtime of its own.
set -eu
cd "$(dirname "$0")"
target=${1:?a target: see fuzz_targets/}
seconds=${2:-60}
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
triple=$(rustc +nightly -vV | sed -n 's/^host: //p')
RUSTFLAGS="$coverage" cargo +nightly build --release --target "$triple" --bin "$target"
mkdir -p "corpus/$target" artifacts
python3 seeds.py "$target" "corpus/$target"
exec "target/$triple/release/$target" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -max_len=65536 \
    -artifact_prefix="artifacts/$target-" "corpus/$target"
