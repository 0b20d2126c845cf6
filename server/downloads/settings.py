"""The settings of downloads, rate limits and webhooks. `server.settings` reads them with all others."""

from __future__ import annotations

from marshmallow import Schema
from marshmallow import fields as f
from marshmallow.validate import Length, Range

from server.setting_kinds import Milliseconds, Networks, Switch, Truth, Words, redis_url, secret, url


class DownloadSettingsSchema(Schema):
    """Names, kinds, ranges, defaults and meanings."""

    downloads = Switch(
        data_key="DOWNLOADS",
        load_default=True,
        metadata={"description": "The routes below ``/v1/download``, with their job store and storage."},
    )
    data_dir = f.String(
        data_key="DATA_DIR",
        load_default=".data",
        metadata={"description": "Folder of all that is embedded: job store, objects, secrets."},
    )
    redis_url = f.String(
        data_key="REDIS_URL",
        load_default=None,
        validate=redis_url,
        metadata={
            "description": "The job store: a Redis or Valkey that keeps its append-only file. Unset: an "
            "embedded Valkey in ``DATA_DIR``."
        },
    )
    s3_endpoint = f.String(
        data_key="S3_ENDPOINT",
        load_default=None,
        validate=url,
        metadata={
            "description": "URL of the S3 server; unset, with a bucket: Amazon's. Without both: objects "
            "are kept in ``DATA_DIR``."
        },
    )
    s3_public_endpoint = f.String(
        data_key="S3_PUBLIC_ENDPOINT",
        load_default=None,
        validate=url,
        metadata={"description": "Its URL as clients reach it; links are signed for this one."},
    )
    s3_region = f.String(
        data_key="S3_REGION", load_default="us-east-1", metadata={"description": "Region of the bucket."}
    )
    s3_bucket_name = f.String(
        data_key="S3_BUCKET_NAME",
        load_default=None,
        validate=Length(3, 63),
        metadata={"description": "The bucket, made at the start if missing; ``downloads`` if unset."},
    )
    s3_access_key_id = f.String(
        data_key="S3_ACCESS_KEY_ID",
        load_default=None,
        metadata={"description": "Key for S3; unset: what the machine's role gives."},
    )
    s3_secret_access_key = f.String(
        data_key="S3_SECRET_ACCESS_KEY", load_default=None, metadata={"description": "And its secret."}
    )
    s3_force_path_style = Truth(
        data_key="S3_FORCE_PATH_STYLE",
        load_default=True,
        metadata={"description": "The bucket is in the path (own servers), not in the host name (Amazon)."},
    )
    public_url = f.String(
        data_key="PUBLIC_URL",
        load_default="",
        validate=url,
        metadata={
            "description": "Our own URL as clients reach it, for links to objects in ``DATA_DIR``; unset: "
            "the address that the caller used, which is not https where a proxy ends TLS."
        },
    )
    download_delay_enabled = Truth(
        data_key="DOWNLOAD_DELAY_ENABLED",
        load_default=True,
        metadata={"description": "Whether the built-in source of files is slow."},
    )
    download_delay_min = Milliseconds(
        data_key="DOWNLOAD_DELAY_MIN_MS",
        load_default=10.0,
        validate=Range(0, 600_000),
        metadata={"description": "The least that it takes for a file."},
    )
    download_delay_max = Milliseconds(
        data_key="DOWNLOAD_DELAY_MAX_MS",
        load_default=120.0,
        validate=Range(0, 600_000),
        metadata={"description": "The most that it takes for a file."},
    )
    download_step_timeout = Milliseconds(
        data_key="DOWNLOAD_STEP_TIMEOUT_MS",
        load_default=120.0,
        validate=Range(1, 3_600_000),
        metadata={"description": "How long the source may take for one step of a file, about a tenth of it."},
    )
    download_jobs = f.Integer(
        data_key="DOWNLOAD_JOBS",
        load_default=100,
        validate=Range(1, 10_000),
        metadata={"description": "Jobs that one process works on at a time."},
    )
    download_jobs_per_client = f.Integer(
        data_key="DOWNLOAD_JOBS_PER_CLIENT",
        load_default=20,
        validate=Range(1, 10_000),
        metadata={"description": "Jobs of one client that are worked on at a time, over all processes."},
    )
    download_open_jobs_per_client = f.Integer(
        data_key="DOWNLOAD_OPEN_JOBS_PER_CLIENT",
        load_default=1000,
        validate=Range(1, 1_000_000),
        metadata={"description": "Jobs that a client may have that have not ended; beyond it: 429."},
    )
    download_files = f.Integer(
        data_key="DOWNLOAD_FILES",
        load_default=8,
        validate=Range(1, 1000),
        metadata={"description": "Files of one job that are processed side by side."},
    )
    download_reuse = Milliseconds(
        data_key="DOWNLOAD_REUSE_MS",
        load_default=0.0,
        validate=Range(0, 2_592_000_000),
        metadata={
            "description": "An object this young is handed out without processing its file again; 0: only "
            "one that was stored since the job began."
        },
    )
    download_link = Milliseconds(
        data_key="DOWNLOAD_LINK_MS",
        load_default=900.0,
        validate=Range(1000, 604_800_000),
        metadata={"description": "How long a link to an object can be used."},
    )
    download_keep = Milliseconds(
        data_key="DOWNLOAD_KEEP_MS",
        load_default=86_400.0,
        validate=Range(1000, 2_592_000_000),
        metadata={
            "description": "How long the links of a completed job can be had; then it is expired, and "
            "forgotten after seven days more."
        },
    )
    download_workers = Switch(
        data_key="DOWNLOAD_WORKERS",
        load_default=True,
        metadata={"description": "Work on jobs in the server; off: only ``python -m server worker`` does."},
    )
    sse_streams = f.Integer(
        data_key="SSE_STREAMS",
        load_default=5000,
        validate=Range(1, 1_000_000),
        metadata={"description": "Event streams that one process serves at a time; beyond it: 503."},
    )
    sse_streams_per_client = f.Integer(
        data_key="SSE_STREAMS_PER_CLIENT",
        load_default=100,
        validate=Range(1, 1_000_000),
        metadata={"description": "Event streams of one client in one process; beyond it: 429."},
    )
    webhook_secrets = Words(
        data_key="WEBHOOK_SECRETS",
        load_default=(),
        validate=secret,
        metadata={
            "description": "What webhooks are signed with: one, or two while the new one (first) takes over. "
            "Unset: one is made and kept in ``DATA_DIR``."
        },
    )
    webhook_http = Switch(
        data_key="WEBHOOK_HTTP",
        load_default=False,
        metadata={
            "description": "Let a ``callbackUrl`` be http:// too, at ports 80 and 8080; never a private one."
        },
    )
    trusted_proxies = Networks(
        data_key="TRUSTED_PROXIES",
        load_default=(),
        metadata={
            "description": "Addresses and networks of proxies whose ``X-Forwarded-For`` is believed, "
            "separated by commas."
        },
    )
    rate_limit = Switch(
        data_key="RATE_LIMIT",
        load_default=True,
        metadata={"description": "Limit how often a client may ask for ``/`` and ``/v1/*``."},
    )
    rate_limit_requests = f.Integer(
        data_key="RATE_LIMIT_MAX_REQUESTS",
        load_default=100,
        validate=Range(1, 1_000_000),
        metadata={"description": "Requests of one client within the window."},
    )
    rate_limit_window = Milliseconds(
        data_key="RATE_LIMIT_WINDOW_MS",
        load_default=60.0,
        validate=Range(1000, 86_400_000),
        metadata={"description": "The window, in whole seconds."},
    )
