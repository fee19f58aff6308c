#!/usr/bin/env bash
# A Debian for aarch64 with the agent in it, whose programs qemu-aarch64-static runs without root, chroot or binfmt_misc.
#
#   aarch64_userland.sh FOLDER WHEEL CONSTRAINTS     then FOLDER/programs/fwdllm-client is the agent
set -euo pipefail

readonly folder=$1 wheel=$2 constraints=$3
readonly root="$folder/root"

# The first stage unpacks; the second one would run aarch64 programs as root, and nothing here needs it.
debootstrap --arch=arm64 --foreign --variant=minbase --include=python3,libpython3-stdlib bookworm "$root"
for package in "$root"/var/cache/apt/archives/*.deb; do
  dpkg-deb --extract "$package" "$root"
done

python3 -m pip install --quiet --no-deps --target "$root/opt/fwdllm" --constraint "$constraints" \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
  --platform manylinux2014_aarch64 --platform any --only-binary=:all: --python-version 3.11 --implementation cp \
  numpy onnxruntime grpcio protobuf tokenizers structlog ecdsa jinja2 markupsafe shamirs lagrange six flatbuffers packaging typing_extensions "$wheel"

# ONNX Runtime reads the processor's kind from here, and ends at the host's.
mkdir -p "$root/proc"
for processor in 0 1; do
  printf 'processor\t: %s\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid\n' "$processor"
  printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n'
done >"$root/proc/cpuinfo"

mkdir -p "$folder/programs"
cat >"$folder/programs/python" <<PROGRAM
#!/bin/sh
exec qemu-aarch64-static -cpu cortex-a72 -L "$root" -E PYTHONPATH="$root/opt/fwdllm" "$root/usr/bin/python3.11" "\$@"
PROGRAM
cat >"$folder/programs/fwdllm-client" <<PROGRAM
#!/bin/sh
exec "$folder/programs/python" -c 'from fwdllm_client.cli.main import main; main()' "\$@"
PROGRAM
chmod 755 "$folder/programs/python" "$folder/programs/fwdllm-client"
