"""The Valkey or Redis that holds jobs, their events and rate limits: an embedded one, or one with a URL."""
