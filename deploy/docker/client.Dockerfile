# The device agent. From the repository: docker build --file deploy/docker/client.Dockerfile --tag fwdllm-client .
#   docker run --rm --volume fwdllm-client:/var/lib/fwdllm-client --interactive fwdllm-client join - <token
#   docker run --detach --volume fwdllm-client:/var/lib/fwdllm-client --volume /srv/reviews.csv:/data/reviews.csv:ro \
#     fwdllm-client run --data /data/reviews.csv
# Your own pip.conf and authorities: as in server.Dockerfile.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
# "client,parquet" also reads Parquet files, for 180 MB.
ARG EXTRAS=client
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv --without-pip /opt/fwdllm
WORKDIR /source
COPY . .
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    python -m pip --python /opt/fwdllm install --constraint constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim-bookworm AS client
RUN useradd --uid 10001 --home-dir /var/lib/fwdllm-client --create-home --shell /usr/sbin/nologin fwdllm
COPY --from=build /opt/fwdllm /opt/fwdllm
ENV PATH=/opt/fwdllm/bin:$PATH \
    FWDLLM_HOME=/var/lib/fwdllm-client \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/fwdllm-client
VOLUME /var/lib/fwdllm-client
# An agent serves nobody: it is well while it runs and holds its folder.
HEALTHCHECK --interval=60s --timeout=10s --start-period=30s --retries=3 \
    CMD ["sh", "-c", "fwdllm-client status --json | grep --quiet '\"running\": true'"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["fwdllm-client"]
CMD ["run", "--data", "/data"]
