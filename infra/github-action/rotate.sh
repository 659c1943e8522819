#!/usr/bin/env bash
# Rotates $TOKEN, reports the result to the job, and exits with the command's code.
set -euo pipefail

# The same in each attempt of a run, and in no other run.
key="${KEY:-github-$GITHUB_REPOSITORY-$GITHUB_RUN_ID-$GITHUB_JOB}"
arguments=(rotate --json --key="$key" --timeout="$TIMEOUT")
case "$FOLLOW" in
  true) arguments+=(--follow) ;;
  false) ;;
  *)
    echo '::error title=changeover::the input follow is neither true nor false'
    exit 2
    ;;
esac

# What the function quotes of others is shown, and is no command to the runner.
answer="$(mktemp "$RUNNER_TEMP/changeover.XXXXXXXXXX")"
pause="$(basename "$answer")"
echo "::stop-commands::$pause"
code=0
{ "$COMMAND" "${arguments[@]}" -- "$TOKEN" > "$answer"; } 2>&1 || code=$?
echo "::$pause::"

python3 "$GITHUB_ACTION_PATH/tell.py" "$answer" "$code"
rm -f "$answer"
exit "$code"
