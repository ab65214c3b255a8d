# The service of `python -m llm_twin.serving` with one promoted twin inside.
#
# The build context holds, besides this repository's files, what the build stages there:
#   bundle/    models/image/, the promoted version: bundle.json, index.db, model/
#   embedder/  manifest.json, model-int8.onnx, tokenizer.json; nothing when the twin searches by words
# Optional build secrets: pip and uv, their configuration files (a private index, its credentials).

ARG BASE=python:3.11-slim-bookworm

# uv's own pin and hashes. A stage, so that no other change of that lock rebuilds what follows.
FROM ${BASE} AS pin
COPY requirements/ct.txt /ct.txt
RUN sed -n '/^uv==/,/[^\\]$/p' /ct.txt > /uv.txt && \
    sed -n 's/^\(transformers==[^ ]*\) .*/\1/p' /ct.txt > /transformers.txt

FROM ${BASE} AS deps
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1 \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt
COPY --from=pin /uv.txt /uv.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/uv && \
    /opt/uv/bin/pip install --quiet --require-hashes --requirement /uv.txt
COPY requirements/serve.txt /serve.txt
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    python3 -m venv --without-pip /opt/venv && \
    /opt/uv/bin/uv pip install --quiet --python /opt/venv --no-deps --require-hashes \
    --requirement /serve.txt && \
    /opt/uv/bin/uv pip uninstall --quiet --python /opt/venv hf-xet invoke pygments && \
    find /opt/venv -type d -name tests -prune -exec rm -r {} +

# torch as ./bootstrap has it: by backend and not by hash, from the configured index if that has it.
FROM deps AS local-llm-deps
ARG TORCH=2.13.0
ARG TORCH_BACKEND=cpu
COPY --from=pin /transformers.txt /transformers.txt
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    set -- --quiet --python /opt/venv --constraint /serve.txt --requirement /transformers.txt && \
    { /opt/uv/bin/uv pip install "$@" "torch==${TORCH}+${TORCH_BACKEND}" || \
    /opt/uv/bin/uv pip install "$@" --torch-backend "${TORCH_BACKEND}" "torch==${TORCH}"; }

# What a training job elsewhere runs in (docs/how-to/remote-training.md), torch for its GPU included.
FROM deps AS train-deps
ARG TORCH=2.13.0
ARG TORCH_BACKEND=cu130
COPY requirements/train.txt /train.txt
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    rm -r /opt/venv && python3 -m venv --without-pip /opt/venv && \
    /opt/uv/bin/uv pip install --quiet --python /opt/venv --no-deps --require-hashes \
    --requirement /train.txt && \
    set -- --quiet --python /opt/venv --constraint /train.txt && \
    { /opt/uv/bin/uv pip install "$@" "torch==${TORCH}+${TORCH_BACKEND}" || \
    /opt/uv/bin/uv pip install "$@" --torch-backend "${TORCH_BACKEND}" "torch==${TORCH}"; }

# Code is not in it: ZenML brings that of the run. Root, because SageMaker's folders are root's.
FROM ${BASE} AS train
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends git && \
    rm -rf /var/lib/apt/lists/* && mkdir -p /twin /app /etc/xdg/sagemaker && \
    printf 'SchemaVersion: "1.0"\nSageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}\n' \
    > /etc/xdg/sagemaker/config.yaml
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 TWIN_HOME=/twin HF_HOME=/twin/huggingface \
    ORT_DISABLE_TELEMETRY=1 SAGEMAKER_SUPPRESS_V2_WARNING=1 \
    ZENML_ANALYTICS_OPT_IN=false ZENML_ENABLE_RICH_TRACEBACK=false ZENML_LOGGING_VERBOSITY=WARN \
    ZENML_LOGGING_COLORS_DISABLED=true
WORKDIR /app
LABEL org.opencontainers.image.title="llm-twin training" \
      org.opencontainers.image.licenses="MIT"
COPY --from=train-deps /opt/venv /opt/venv

FROM ${BASE} AS base
# The link is what `invoke ct` makes of a promotion; the version behind it is the last layer.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin twin && \
    mkdir -p /twin/models && ln -s image /twin/models/production
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app/src PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 TWIN_HOME=/twin TWIN_HOST=0.0.0.0
WORKDIR /app
USER 10001:10001
EXPOSE 8000 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
# SageMaker puts `serve` in the place of CMD.
ENTRYPOINT ["python", "-m", "llm_twin.serving"]
CMD ["serve"]
LABEL org.opencontainers.image.title="llm-twin" \
      org.opencontainers.image.licenses="MIT"

# What changes most comes last: another promoted version is one layer, and so is a change of code,
# because a folder that is copied brings its time along, and one that COPY makes has the build's.
FROM base AS local-llm
# torch wants a folder for temporary files; this one is in memory, under --read-only too.
ENV TMPDIR=/dev/shm
COPY --from=local-llm-deps /opt/venv /opt/venv
COPY --chmod=755 embedder* /twin/embedder/
COPY --chmod=755 src /app/src
COPY --chmod=755 bundle /twin

FROM base AS serve
COPY --from=deps /opt/venv /opt/venv
COPY --chmod=755 embedder* /twin/embedder/
COPY --chmod=755 src /app/src
COPY --chmod=755 bundle /twin
