#!/bin/sh
# Join once, then serve.
set -eu
test -e "$FWDLLM_HOME/identity.json" || fwdllm-client join --token-file "$FWDLLM_HOME/token"
exec fwdllm-client run --data "$FWDLLM_HOME/shard.csv" --threads 1
