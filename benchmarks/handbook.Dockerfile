# An image in the style of the LLM Engineer's Handbook: one stage, root, a browser and compilers in
# it, poetry, torch and ZenML, code copied last. Debian's chromium stands for Chrome.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
ENV DEBIAN_FRONTEND=noninteractive PIP_BREAK_SYSTEM_PACKAGES=1 \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt
RUN apt-get update -y && apt-get install -y wget curl gnupg chromium build-essential gcc \
    python3-dev python3-pip libglib2.0-dev libnss3-dev
RUN pip install --no-cache-dir poetry uv
# uv, because pip is still looking for versions that fit together after a quarter of an hour.
RUN --mount=type=bind,source=wheels,target=/wheels \
    uv pip install --system --break-system-packages --no-cache --find-links /wheels \
    torch==2.13.0 "zenml[server]==0.98.0" transformers sentence-transformers \
    langchain langchain-openai opik qdrant-client selenium fastapi uvicorn boto3
COPY src /app
