"""What callers of the event API send and get: one marshmallow schema each, to validate and to document."""

from __future__ import annotations

from marshmallow import INCLUDE, Schema
from marshmallow import fields as f
from marshmallow.validate import Length, Regexp

from server.openapi import ProblemSchema

# The document shows the pattern to JavaScript too, which has no \Z; and Python's $ lets a line feed through.
USER_ID = Regexp(r"^[A-Za-z0-9_-]{1,64}(?![\s\S])", error="Must be 1 to 64 letters, digits, '-' and '_'.")


class AddEventSchema(Schema):
    """A new event. Its id is ours to give."""

    name = f.String(required=True, validate=Length(1, 1000), metadata={"example": "Event 5"})
    userId = f.String(required=True, validate=Length(1, 256), metadata={"example": "3"})


class UserPathSchema(Schema):
    """A user, in the path."""

    id = f.String(required=True, validate=USER_ID, metadata={"example": "1"})


class HandedOn(Schema):
    """What the event service says, as it came: it may say more."""

    class Meta:
        unknown = INCLUDE


class EventSchema(HandedOn):
    """An event, as the event service has it."""

    id = f.Raw(metadata={"example": 1})
    name = f.String(metadata={"example": "Event 1"})
    userId = f.Raw(metadata={"example": 1})
    details = f.String(metadata={"example": "This is the first event"})


class UserSchema(HandedOn):
    """A user, as the event service has it."""

    id = f.Raw(metadata={"example": 1})
    userName = f.String(metadata={"example": "user1"})
    email = f.String(metadata={"example": "hello@gmail.com"})
    events = f.List(f.String(), metadata={"example": ["event-1", "event-3"]})


class AddedSchema(HandedOn):
    """What the event service says to a new event."""

    success = f.Boolean(metadata={"example": True})


class UnavailableSchema(ProblemSchema):
    """A 503: a problem document with what existing clients of the event API read."""

    success = f.Boolean(metadata={"description": "Not there when the server sheds load.", "example": False})
    retryAfter = f.Integer(metadata={"description": "Seconds until it makes sense to ask again."})
    circuitBreakerState = f.String(metadata={"example": "OPEN"})
