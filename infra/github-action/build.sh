#!/usr/bin/env bash
# Builds the command from the checkout that this action is of, and says where it is.
set -euo pipefail

root="$RUNNER_TEMP/changeover"
# Not optimised: it waits for networks, and is built three times as fast.
cargo install --locked --debug --path "$GITHUB_ACTION_PATH/../../crates/cli" --bin changeover --root "$root"
echo "command=$root/bin/changeover" >> "$GITHUB_OUTPUT"
