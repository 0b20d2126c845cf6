# syntax=docker/dockerfile:1
# Two stages: wheels are built and installed in the first, the second has no compiler and no pip cache.

FROM python:3.13.9-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements.txt .
RUN python -m venv /opt/hedgerow \
    && /opt/hedgerow/bin/pip install --require-hashes -r requirements.txt

FROM python:3.13.9-slim-bookworm
LABEL org.opencontainers.image.title="Hedgerow" \
      org.opencontainers.image.description="Answers on time over backends that do not." \
      org.opencontainers.image.licenses="MIT"
ENV PATH=/opt/hedgerow/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    DATA_DIR=/data
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin hedgerow
COPY --from=build /opt/hedgerow /opt/hedgerow
WORKDIR /app
COPY strategies strategies
COPY upstream upstream
COPY server server
# Nothing else is written to at run time, so the root file system may be read-only.
RUN install -d -o 10001 -g 10001 /data
VOLUME /data
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=2)"]
ENTRYPOINT ["python", "-m", "server"]
