"""The OpenAPI document, from the same marshmallow schemas that validate. The only room that knows
aiohttp-apispec.

Of that package we use the decorators, which leave what they are told on the handler. Its own document is
Swagger 2.0, its bundled page is from 2021, and its set-up changes the handlers' metadata, so that a second
application in one process loses its schemas; the document is therefore built here, by apispec.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_apispec import docs, request_schema
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import INCLUDE, Schema
from marshmallow import fields as f

from server import __version__
from server.errors import MEDIA_TYPE
from strategies import value

JSON = "application/json"


class ProblemSchema(Schema):
    """An error: RFC 9457, with the members that older clients read. Some errors have more members."""

    class Meta:
        unknown = INCLUDE

    type = f.String(required=True)
    title = f.String(required=True)
    status = f.Integer(required=True)
    detail = f.String(required=True)
    instance = f.String(required=True)
    code = f.String(
        required=True,
        metadata={"description": "One word for programs.", "example": "timeout"},
    )
    error = f.String(required=True)
    message = f.String(required=True)
    requestId = f.String(required=True)
    errors = f.Dict(metadata={"description": "Validation errors by field."})
    attempts = f.List(f.Dict(), metadata={"description": "What each attempt did, and when."})


@value
class Reply:
    """One documented response: what it means, the body's schema (marshmallow or JSON schema), an example."""

    description: str
    schema: Any = None
    example: object = None
    content_type: str = JSON


def problem(description: str) -> Reply:
    """A documented error."""
    return Reply(description, ProblemSchema, None, MEDIA_TYPE)


def document(
    handler: Handler,
    *,
    tag: str,
    summary: str,
    replies: Mapping[int, Reply],
    description: str = "",
    query: type[Schema] | None = None,
    path: type[Schema] | None = None,
    body: type[Schema] | None = None,
) -> Handler:
    """Say on *handler* what it takes and gives; returns it."""
    for schema, location in ((query, "querystring"), (path, "match_info"), (body, "json")):
        if schema is not None:
            request_schema(schema, location=location)(handler)
    docs(tags=[tag], summary=summary, description=description, replies=replies)(handler)
    return handler


def build_document(app: web.Application) -> dict[str, Any]:
    """The OpenAPI 3.1 document of every documented route of *app*."""
    plugin = MarshmallowPlugin()
    spec = APISpec(
        title="Hedgerow",
        version=__version__,
        openapi_version="3.1.0",
        plugins=[plugin],
        info={"description": "Answers on time over backends that do not."},
        servers=[{"url": "/"}],
    )
    spec.components.header("RequestId", {"schema": {"type": "string"}, "description": "The request's id."})
    for route in app.router.routes():
        told = getattr(route.handler, "__apispec__", None)
        if told is not None and route.method != "HEAD" and route.resource is not None:
            path = route.resource.canonical
            spec.path(path=path, operations={route.method.lower(): _operation(told, plugin)})
    return spec.to_dict()


_LOCATIONS = {"querystring": "query", "match_info": "path"}


def _operation(told: Mapping[str, Any], plugin: MarshmallowPlugin) -> dict[str, Any]:
    operation: dict[str, Any] = {
        key: told[key] for key in ("tags", "summary", "description") if told.get(key)
    }
    converter = plugin.converter
    assert converter is not None  # noqa: S101 - set by APISpec
    for entry in told["schemas"]:
        if entry["location"] == "json":
            content = {JSON: {"schema": entry["schema"]}}
            operation["requestBody"] = {"required": True, "content": content}
        else:
            where = _LOCATIONS[entry["location"]]
            found = converter.schema2parameters(entry["schema"], location=where)
            operation.setdefault("parameters", []).extend(found)
    operation["responses"] = {str(status): _response(reply) for status, reply in told["replies"].items()}
    return operation


def _response(reply: Reply) -> dict[str, Any]:
    response: dict[str, Any] = {"description": reply.description, "headers": {"X-Request-Id": "RequestId"}}
    if reply.schema is not None:
        media: dict[str, Any] = {"schema": reply.schema}
        if reply.example is not None:
            media["example"] = reply.example
        response["content"] = {reply.content_type: media}
    return response
