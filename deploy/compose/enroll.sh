#!/bin/sh
# A join token for each device that has none yet, in the folder that it will find as its own.
set -eu
for number in 1 2 3 4; do
    folder=/srv/devices/$number
    test -e "$folder/token" || test -e "$folder/identity.json" || {
        fwdllm-server enroll --name "device-$number" > "$folder/token.new"
        mv "$folder/token.new" "$folder/token"
    }
done
