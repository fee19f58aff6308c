#!/bin/sh
# gRPC Python: which channel option bounds the wait for the answer to a keepalive ping?
#
# One would guess grpc.keepalive_timeout_ms, whose documentation says just that: a client with a call open and
#   grpc.keepalive_time_ms = 1000, grpc.keepalive_timeout_ms = 1000
# should notice within some two seconds that nothing passes on its connection any more.
#
# In grpcio 1.83.0 it notices after a minute: what counts is grpc.http2.ping_timeout_ms, 60 seconds unless set. With that
# option at 1000 the same call ends in about two seconds.
#
# Seen, seconds until the call ended:
#   keepalive_timeout_ms only: 60
#   and ping_timeout_ms:       1
#
# Exits 0 if this is still so, after a bit more than a minute.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check grpcio==1.83.0
GRPC_VERBOSITY=NONE "$folder/venv/bin/python" - <<'PYTHON'
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.stream_stream_rpc_method_handler(lambda requests, context: requests)


def relay(target, silent):
    """A port whose connections are passed on until ``silent`` is set; then they stay open and nothing passes."""
    listening = socket.create_server(("127.0.0.1", 0))

    def pump(source, sink):
        while data := source.recv(65536):
            if not silent.is_set():
                sink.sendall(data)

    def accept():
        here, there = listening.accept()[0], socket.create_connection(("127.0.0.1", target))
        for ends in ((here, there), (there, here)):
            threading.Thread(target=pump, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listening.getsockname()[1]


def seconds_until_noticed(port, *options):
    silent, over = threading.Event(), threading.Event()

    def requests():
        yield b"hello"
        over.wait()

    options = (("grpc.keepalive_time_ms", 1000), ("grpc.keepalive_timeout_ms", 1000), *options)
    with grpc.insecure_channel(f"127.0.0.1:{relay(port, silent)}", options) as channel:
        call = channel.stream_stream("/echo/Echo")(requests(), timeout=120)
        assert next(call) == b"hello"
        silent.set()
        begin = time.monotonic()
        try:
            next(call)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error
        over.set()
        return time.monotonic() - begin


server = grpc.server(ThreadPoolExecutor(4), handlers=[Echo()])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
without = seconds_until_noticed(port)
print(f"grpcio {grpc.__version__}")
print(f"keepalive_timeout_ms only: {without:.0f}")
with_option = seconds_until_noticed(port, ("grpc.http2.ping_timeout_ms", 1000))
print(f"and ping_timeout_ms:       {with_option:.0f}")
server.stop(None)
sys.exit(0 if without > 30 and with_option < 15 else 1)
PYTHON
