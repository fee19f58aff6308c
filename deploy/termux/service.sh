#!/usr/bin/env bash
# Keeps the agent running, also after a restart of the phone (with the app Termux:Boot), with rotated logs. It holds a
# wake lock, which costs battery: for phones that are always plugged in. Otherwise use schedule.sh.
#
#   bash service.sh --data reviews.csv [more options of 'fwdllm-client run']
set -euo pipefail

readonly service="$PREFIX/var/service/fwdllm"

if [ $# -eq 0 ]; then
  echo "service.sh: name the data: bash service.sh --data FILE" >&2
  exit 2
fi
[ -x "$PREFIX/share/termux-services/svlogger" ] || {
  echo "service.sh: termux-services is missing; run install.sh, then start Termux again" >&2
  exit 2
}

mkdir -p "$service/log"
{
  echo "#!$PREFIX/bin/sh"
  echo "termux-wake-lock"
  printf 'exec fwdllm-client run'
  printf ' %q' "$@"
  echo " 2>&1"
} >"$service/run"
ln -sf "$PREFIX/share/termux-services/svlogger" "$service/log/run"
chmod 700 "$service/run"

mkdir -p "$HOME/.termux/boot"
{
  echo "#!$PREFIX/bin/sh"
  echo "termux-wake-lock"
  echo ". $PREFIX/etc/profile" # which starts the services
} >"$HOME/.termux/boot/fwdllm"
chmod 700 "$HOME/.termux/boot/fwdllm"

sv-enable fwdllm
echo "enabled; logs are in $PREFIX/var/log/sv/fwdllm; undo with: sv-disable fwdllm && rm ~/.termux/boot/fwdllm"
