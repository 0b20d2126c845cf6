"""Holds answers of the application against its own OpenAPI document."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator


def described(told: dict[str, Any], path: str, method: str, answer: tuple[int, str, Any]) -> None:
    """Fail unless *told*, an OpenAPI document, declares *answer*: a status, a content type and a body."""
    status, content_type, body = answer
    responses = told["paths"][path][method]["responses"]
    assert str(status) in responses, (path, method, status)
    schema = responses[str(status)]["content"][content_type]["schema"]
    Draft202012Validator({**schema, "components": told["components"]}).validate(body)
