#!/bin/sh
# The coordinator's directory, once.
set -eu
test -e "$FWDLLM_SERVER_DIR/server.toml" || fwdllm-server init --host coordinator
