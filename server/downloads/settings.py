"""The settings of downloads, rate limits and webhooks. `server.settings` reads them with all others."""

from __future__ import annotations

from marshmallow import Schema
from marshmallow.validate import Regexp

from server.setting_kinds import (
    Networks,
    bucket,
    milliseconds,
    redis_url,
    s3_url,
    secret,
    switch,
    text,
    truth,
    url,
    whole,
    words,
)


class DownloadSettingsSchema(Schema):
    """Names, kinds, ranges, defaults and meanings."""

    downloads = switch(
        "DOWNLOADS", True, "The routes below ``/v1/download``, with their job store and storage."
    )
    data_dir = text("DATA_DIR", ".data", "Folder of all that is embedded: job store, objects, secrets.")
    redis_url = text(
        "REDIS_URL",
        None,
        "The job store: a Redis or Valkey that keeps its append-only file. Unset: an "
        "embedded Valkey in ``DATA_DIR``.",
        validate=redis_url,
    )
    s3_endpoint = text(
        "S3_ENDPOINT",
        None,
        "URL of the S3 server; unset, with a bucket: Amazon's. Without both: objects "
        "are kept in ``DATA_DIR``.",
        validate=s3_url,
    )
    s3_public_endpoint = text(
        "S3_PUBLIC_ENDPOINT",
        None,
        "Its URL as clients reach it; links are signed for this one.",
        validate=s3_url,
    )
    s3_region = text(
        "S3_REGION",
        "us-east-1",
        "Region of the bucket.",
        validate=Regexp(r"\A[a-z0-9][a-z0-9-]{0,62}\Z", error="Must be letters, digits and '-'."),
    )
    s3_bucket_name = text(
        "S3_BUCKET_NAME",
        None,
        "The bucket, made at the start if missing; ``downloads`` if unset.",
        validate=bucket,
    )
    s3_access_key_id = text("S3_ACCESS_KEY_ID", None, "Key for S3; unset: what the machine's role gives.")
    s3_secret_access_key = text("S3_SECRET_ACCESS_KEY", None, "And its secret.")
    s3_force_path_style = truth(
        "S3_FORCE_PATH_STYLE", True, "The bucket is in the path (own servers), not in the host name (Amazon)."
    )
    public_url = text(
        "PUBLIC_URL",
        "",
        "Our own URL as clients reach it, for links to objects in ``DATA_DIR``; unset: "
        "the address that the caller used, which is not https where a proxy ends TLS.",
        validate=url,
    )
    download_delay_enabled = truth(
        "DOWNLOAD_DELAY_ENABLED", True, "Whether the built-in source of files is slow."
    )
    download_delay_min = milliseconds(
        "DOWNLOAD_DELAY_MIN_MS", 10.0, (0, 600_000), "The least that it takes for a file."
    )
    download_delay_max = milliseconds(
        "DOWNLOAD_DELAY_MAX_MS", 120.0, (0, 600_000), "The most that it takes for a file."
    )
    download_step_timeout = milliseconds(
        "DOWNLOAD_STEP_TIMEOUT_MS",
        120.0,
        (1, 3_600_000),
        "How long the source may take for one step of a file, about a tenth of it.",
    )
    download_jobs = whole("DOWNLOAD_JOBS", 100, (1, 10_000), "Jobs that one process works on at a time.")
    download_jobs_per_client = whole(
        "DOWNLOAD_JOBS_PER_CLIENT",
        20,
        (1, 10_000),
        "Jobs of one client that are worked on at a time, over all processes.",
    )
    download_open_jobs_per_client = whole(
        "DOWNLOAD_OPEN_JOBS_PER_CLIENT",
        1000,
        (1, 1_000_000),
        "Jobs that a client may have that have not ended; beyond it: 429.",
    )
    download_files = whole(
        "DOWNLOAD_FILES", 8, (1, 1000), "Files of one job that are processed side by side."
    )
    download_reuse = milliseconds(
        "DOWNLOAD_REUSE_MS",
        0.0,
        (0, 2_592_000_000),
        "An object this young is handed out without processing its file again; 0: only "
        "one that was stored since the job began.",
    )
    download_link = milliseconds(
        "DOWNLOAD_LINK_MS", 900.0, (1000, 604_800_000), "How long a link to an object can be used."
    )
    download_keep = milliseconds(
        "DOWNLOAD_KEEP_MS",
        86_400.0,
        (1000, 2_592_000_000),
        "How long the links of a completed job can be had; then it is expired, and "
        "forgotten after seven days more.",
    )
    download_workers = switch(
        "DOWNLOAD_WORKERS", True, "Work on jobs in the server; off: only ``python -m server worker`` does."
    )
    sse_streams = whole(
        "SSE_STREAMS",
        5000,
        (1, 1_000_000),
        "Event streams that one process serves at a time; beyond it: 503.",
    )
    sse_streams_per_client = whole(
        "SSE_STREAMS_PER_CLIENT",
        100,
        (1, 1_000_000),
        "Event streams of one client in one process; beyond it: 429.",
    )
    webhook_secrets = words(
        "WEBHOOK_SECRETS",
        (),
        "What webhooks are signed with: one, or two while the new one (first) takes over. "
        "Unset: one is made and kept in ``DATA_DIR``.",
        validate=secret,
    )
    webhook_http = switch(
        "WEBHOOK_HTTP",
        False,
        "Let a ``callbackUrl`` be http:// too, at ports 80 and 8080; never a private one.",
    )
    trusted_proxies = Networks(
        data_key="TRUSTED_PROXIES",
        load_default=(),
        metadata={
            "description": "Addresses and networks of proxies whose ``X-Forwarded-For`` is believed, "
            "separated by commas."
        },
    )
    rate_limit = switch("RATE_LIMIT", True, "Limit how often a client may ask for ``/`` and ``/v1/*``.")
    rate_limit_requests = whole(
        "RATE_LIMIT_MAX_REQUESTS", 100, (1, 1_000_000), "Requests of one client within the window."
    )
    rate_limit_window = milliseconds(
        "RATE_LIMIT_WINDOW_MS", 60.0, (1000, 86_400_000), "The window, rounded up to whole seconds."
    )
