#!/bin/sh
# Submit the job unless it is there, see it through, and write the adapter.
set -eu
fwdllm-server job show bbc-news > /dev/null 2>&1 || fwdllm-server job submit /srv/shared/job.toml
# A coordinator that is started again goes on with the job.
until fwdllm-server job watch bbc-news; do
    code=$?
    [ "$code" = 3 ] || exit "$code" # 3: no coordinator answers
    sleep 1
done
test -e /srv/shared/adapter || fwdllm-server export bbc-news --out /srv/shared/adapter
echo "done; copy the adapter with: docker compose cp coordinator:/srv/shared/adapter ."
