#!/bin/sh
# gRPC Python: a server answers a call with abort(INVALID_ARGUMENT, message) and the message is long, say a list of all
# that is wrong with a request.
#
# One would guess that the caller gets that status, with the message whole or cut.
#
# In grpcio 1.83.0 the caller may get RESOURCE_EXHAUSTED instead, which is the status that clients retry. Messages are
# metadata, which a caller takes without fail up to 8 KiB only. From there to 16 KiB it draws by lot whether it does, the
# longer the less likely; so the same call fails now with the one status, now with the other. Beyond 16 KiB it is always
# the wrong one.
#
# Why it matters: an agent that waits and tries again on RESOURCE_EXHAUSTED does so forever with a request that will never
# be taken. A server has to cut its messages, counted as they are sent: percent-encoded, a byte that is not printable ASCII
# takes three.
#
# Seen, of 100 calls each:
#   message of  8000 bytes: INVALID_ARGUMENT 100
#   message of 12000 bytes: INVALID_ARGUMENT 48, RESOURCE_EXHAUSTED 52 (about half)
#   message of 17000 bytes: RESOURCE_EXHAUSTED 100
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check grpcio==1.83.0
GRPC_VERBOSITY=NONE "$place/env/bin/python" - <<'EOF'
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc


def refuse(request, context):
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, "x" * int(request))


class Refusing(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(refuse)


def statuses(call, length):
    counts = Counter()
    for _ in range(100):
        try:
            call(str(length).encode(), timeout=30)
        except grpc.RpcError as error:
            counts[error.code().name] += 1
    return counts


server = grpc.server(ThreadPoolExecutor(1), handlers=[Refusing()])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print("grpcio", grpc.__version__)
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    call = channel.unary_unary("/refusing/Call")
    found = {length: statuses(call, length) for length in (8000, 12000, 17000)}
server.stop(None)
for length, counts in found.items():
    print(f"message of {length:5} bytes:", ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
assert found[8000] == {"INVALID_ARGUMENT": 100}, found
assert set(found[12000]) == {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}, found
assert found[17000] == {"RESOURCE_EXHAUSTED": 100}, found
EOF
