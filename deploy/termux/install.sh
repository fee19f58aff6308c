#!/usr/bin/env bash
# Installs the device agent in Termux. Compiled packages come from Termux's own repositories, since Android is not the
# Linux that wheels are built for; the rest is Python alone.
#
#   bash install.sh fwdllm-0.1.0-py3-none-any.whl
set -euo pipefail

fail() {
  printf 'install.sh: %s\n' "$1" >&2
  exit 2
}

[ $# -eq 1 ] || fail "name the wheel of fwdllm: bash install.sh fwdllm-VERSION-py3-none-any.whl"
[ -f "$1" ] || fail "no file $1"
command -v pkg >/dev/null || fail "this is not Termux; elsewhere: pip install 'fwdllm[client]'"

pkg update -y
# tur-repo adds the user repository, which has tokenizers.
pkg install -y python python-numpy python-onnxruntime python-grpcio python-cryptography python-psutil termux-api termux-services tur-repo
pkg update -y
pkg install -y python-tokenizers

# With its dependencies pip would try to compile numpy, ONNX Runtime and gRPC.
pip install 'protobuf>=4.25,<8' 'structlog>=22.1' 'ecdsa>=0.18' 'jinja2>=3.1' 'shamirs>=4' 'shtab>=1.7'
pip install --no-deps --force-reinstall "$1"

python - <<'PYTHON'
import grpc, numpy, onnxruntime, tokenizers
print("ONNX Runtime", onnxruntime.__version__, "with", ", ".join(onnxruntime.get_available_providers()))
PYTHON
fwdllm-client --help >/dev/null
echo "installed; next: fwdllm-client join TOKEN, then schedule.sh or service.sh"
