"""What is said of a store when something is wrong with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis import exceptions as redis
from redis._parsers.base import BaseParser

from server.job_store.opening import JobStoreDown, JobStoreError, JobStoreFull, job_store_errors

FULL = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    "OOM command not allowed when used memory > 'maxmemory'. script: 2f, on @user_script:1.",
    "MISCONF Errors writing to the AOF file: No space left on device",
    "MISCONF Errors writing to the AOF file: Input/output error",
    "ERR Error running script: No space left on device",
]
REFUSING = [
    "READONLY You can't write against a read only replica.",
    "READONLY You can't write against a read only replica. script: 2f, on @user_script:1.",
    "LOADING Valkey is loading the dataset in memory",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "NOPERM User worker has no permissions to run the 'set' command",
    "MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "NOREPLICAS Not enough good replicas to write.",
    "CLUSTERDOWN The cluster is down",
    "BUSY Valkey is busy running a script.",
    "ERR max number of clients reached",
]
ABOUT_A_COMMAND = [
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "NOSCRIPT No matching script.",
    "ERR unknown command 'FROB'",
    "ERR BUSY is not a number",
]


def answered(text: str) -> Exception:
    """What the client raises for this answer of a server."""
    error: Exception = BaseParser.parse_error(text)
    return error


@pytest.mark.parametrize("text", FULL)
def test_a_server_without_room_is_full(text: str) -> None:
    with pytest.raises(JobStoreFull), job_store_errors():
        raise answered(text)


@pytest.mark.parametrize("text", REFUSING)
def test_a_server_that_refuses_is_down(text: str) -> None:
    with pytest.raises(JobStoreDown), job_store_errors():
        raise answered(text)


@pytest.mark.parametrize("text", ABOUT_A_COMMAND)
def test_an_answer_about_a_command_says_nothing_of_the_store(text: str) -> None:
    error = answered(text)
    with pytest.raises(redis.ResponseError) as caught, job_store_errors():
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("Error 111 connecting to db:6379. Connection refused."),
        redis.MaxConnectionsError("Too many connections"),
        redis.TimeoutError("Timeout reading from db:6379"),
        redis.InvalidResponse("Protocol Error: b'HTTP/1.1 400 Bad Request'"),
        TimeoutError(),
        ConnectionRefusedError(111, "Connection refused"),
        OSError(113, "No route to host"),
    ],
)
def test_a_lost_or_a_slow_connection_is_down_and_callers_are_told_no_address(error: Exception) -> None:
    with pytest.raises(JobStoreDown) as caught, job_store_errors():
        raise error
    assert caught.value.__cause__ is error
    assert caught.value.detail == str(caught.value)
    assert "db" not in caught.value.detail


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError(), redis.DataError("no")])
def test_all_else_passes(error: Any) -> None:
    with pytest.raises(type(error)) as caught, job_store_errors():
        raise error
    assert caught.value is error


def test_a_fault_that_is_told_already_is_told_once() -> None:
    fault = JobStoreFull("no room")
    with pytest.raises(JobStoreError) as caught, job_store_errors(), job_store_errors():
        raise fault
    assert caught.value is fault
