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
from server.rate_limits import covers
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
    """
    One documented response: what it means, the body's schema (marshmallow or JSON schema), an example.

    Attributes:
        headers: those of `HEADERS` that it may carry.
    """

    description: str
    schema: Any = None
    example: object = None
    content_type: str = JSON
    headers: tuple[str, ...] = ()


HEADERS: Mapping[str, tuple[str, str]] = {
    "X-Request-Id": ("string", "The request's id."),
    "Location": ("string", "Where to go from here."),
    "Retry-After": ("integer", "Seconds until it makes sense to ask again."),
    "Preference-Applied": ("string", "What was followed of `Prefer`."),
    "RateLimit-Policy": ("string", "Requests, and in how many seconds: `100;w=60`."),
    "RateLimit-Limit": ("integer", "Requests that a client may make in that time."),
    "RateLimit-Remaining": ("integer", "How many more it may make now."),
    "RateLimit-Reset": ("integer", "Seconds until it may make more."),
    "ETag": ("string", "Stands for this very content."),
    "Last-Modified": ("string", "Since when the content is as it is."),
    "Content-Range": ("string", "Which bytes these are, and of how many."),
}
"""Headers of answers: their types, and what they mean."""
RATE_LIMIT = tuple(name for name in HEADERS if name.startswith("RateLimit-"))


def header(name: str, description: str, **kwargs: Any) -> f.String:
    """A field that tells of a request header, which whoever reads it checks."""
    return f.String(data_key=name, metadata={"description": description}, **kwargs)


def problem(description: str, *headers: str) -> Reply:
    """A documented error, with those of `HEADERS` that it may carry."""
    return Reply(description, ProblemSchema, None, MEDIA_TYPE, headers)


def document(
    handler: Handler,
    *,
    tag: str,
    summary: str,
    replies: Mapping[int, Reply],
    description: str = "",
    query: type[Schema] | None = None,
    path: type[Schema] | None = None,
    headers: type[Schema] | None = None,
    body: type[Schema] | None = None,
) -> Handler:
    """Say on *handler* what it takes and gives; returns it. To check what comes is left to it."""
    told = ((query, "querystring"), (path, "match_info"), (headers, "headers"), (body, "json"))
    for schema, location in told:
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
    for name, (kind, meaning) in HEADERS.items():
        spec.components.header(name, {"schema": {"type": kind}, "description": meaning})
    for route in app.router.routes():
        told = getattr(route.handler, "__apispec__", None)
        if told is not None and route.method != "HEAD" and route.resource is not None:
            path = route.resource.canonical
            always = ("X-Request-Id", *(RATE_LIMIT if covers(path) else ()))
            spec.path(path=path, operations={route.method.lower(): _operation(told, plugin, always)})
    return spec.to_dict()


_LOCATIONS = {"querystring": "query", "match_info": "path", "headers": "header"}


def _operation(told: Mapping[str, Any], plugin: MarshmallowPlugin, always: tuple[str, ...]) -> dict[str, Any]:
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
    replies: Mapping[int, Reply] = told["replies"]
    operation["responses"] = {str(status): _response(reply, always) for status, reply in replies.items()}
    return operation


def _response(reply: Reply, always: tuple[str, ...]) -> dict[str, Any]:
    headers = {name: name for name in (*always, *reply.headers)}  # components of the same names
    response: dict[str, Any] = {"description": reply.description, "headers": headers}
    if reply.schema is not None:
        media: dict[str, Any] = {"schema": reply.schema}
        if reply.example is not None:
            media["example"] = reply.example
        response["content"] = {reply.content_type: media}
    return response
