#!/usr/bin/env bash
# Installs the agent in a Debian inside Termux, for phones on which install.sh fails: ordinary wheels, only the
# processor, and no Termux:API inside.
#
#   bash install-proot.sh fwdllm-0.1.0-py3-none-any.whl
#   proot-distro login debian -- /opt/fwdllm/bin/fwdllm-client join TOKEN
set -euo pipefail

if [ $# -ne 1 ] || [ ! -f "$1" ]; then
  echo "install-proot.sh: name the wheel of fwdllm: bash install-proot.sh fwdllm-VERSION-py3-none-any.whl" >&2
  exit 2
fi
wheel=$(realpath "$1")

pkg install -y proot-distro
proot-distro install debian || echo "going on with the Debian that is there"
# shellcheck disable=SC2016 # "$0" is the inner shell's
proot-distro login debian --bind "$wheel:/tmp/$(basename "$wheel")" -- bash -euc '
  apt-get update
  apt-get install -y python3-venv
  python3 -m venv /opt/fwdllm
  /opt/fwdllm/bin/pip install "$0[client]"
  /opt/fwdllm/bin/fwdllm-client --help >/dev/null
' "/tmp/$(basename "$wheel")"
echo "installed; next: proot-distro login debian -- /opt/fwdllm/bin/fwdllm-client join TOKEN"
