#!/usr/bin/env bash
# Lets Android start the agent every quarter of an hour while the phone charges on an unmetered network: the phone
# sleeps in between. Android checks this at the start only; the agent itself looks again between directions and stops.
#
#   bash schedule.sh --data reviews.csv [more options of 'fwdllm-client run']
set -euo pipefail

readonly job=7351
# Android gives a job ten minutes.
readonly seconds=585
readonly folder="$HOME/.fwdllm"

if [ $# -eq 0 ]; then
  echo "schedule.sh: name the data: bash schedule.sh --data FILE" >&2
  exit 2
fi
command -v termux-job-scheduler >/dev/null || {
  echo "schedule.sh: termux-job-scheduler is missing; install the app Termux:API and run install.sh" >&2
  exit 2
}

mkdir -p "$folder"
{
  echo "#!$PREFIX/bin/bash"
  echo "termux-wake-lock"
  echo "trap termux-wake-unlock EXIT"
  printf 'timeout %s fwdllm-client run' "$seconds"
  printf ' %q' "$@"
  # One session of logs, and the one before.
  printf ' 2>%q\n' "$folder/agent.log.new"
  printf 'mv %q %q\n' "$folder/agent.log.new" "$folder/agent.log"
} >"$folder/session.sh"
chmod 700 "$folder/session.sh"

termux-job-scheduler --script "$folder/session.sh" --job-id "$job" --period-ms 900000 \
  --network unmetered --charging true --battery-not-low true --persisted true
echo "scheduled; the last session's log is $folder/agent.log; undo with: termux-job-scheduler --cancel --job-id $job"
