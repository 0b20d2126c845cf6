"""How many attempts, where, when, and which outcome wins. Standard library only."""

from strategies.adaptive import AdaptiveOptions, AdaptiveStrategy
from strategies.all import AllOptions, AllStrategy
from strategies.base import Fetch, NoOptions, Strategy
from strategies.budget import Budget
from strategies.collect import CollectStrategy
from strategies.deadline import Deadline
from strategies.delay import LatencyModel
from strategies.fanout import FanOut
from strategies.first import FirstStrategy
from strategies.hedged import HedgedOptions, HedgedStrategy
from strategies.outcome import (
    Answered,
    Attempt,
    Bound,
    Cancelled,
    Failed,
    Outcome,
    Rejected,
    Request,
    Result,
    Target,
    TimedOut,
    Verdict,
)
from strategies.pending import Coming, Pending, coming, listen
from strategies.reaper import Reaper
from strategies.registry import build_options, change_options, find_named, find_strategy
from strategies.value import value

__all__ = [
    "AdaptiveOptions",
    "AdaptiveStrategy",
    "AllOptions",
    "AllStrategy",
    "Answered",
    "Attempt",
    "Bound",
    "Budget",
    "Cancelled",
    "CollectStrategy",
    "Coming",
    "Deadline",
    "Failed",
    "FanOut",
    "Fetch",
    "FirstStrategy",
    "HedgedOptions",
    "HedgedStrategy",
    "LatencyModel",
    "NoOptions",
    "Outcome",
    "Pending",
    "Reaper",
    "Rejected",
    "Request",
    "Result",
    "Strategy",
    "Target",
    "TimedOut",
    "Verdict",
    "build_options",
    "change_options",
    "coming",
    "find_named",
    "find_strategy",
    "listen",
    "value",
]
