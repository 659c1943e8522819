"""What can go wrong with one call of AWS, as rules for the proxy (`faulty_aws.py`), and what changeover may then say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testbed.faulty_aws import Rule, verbatim

# Longer than the function lets a call take with all its attempts: each of them is given up, and applied after that.
SLOW_MILLISECONDS = 12_000
HUGE_BYTES = 6_000_000


@dataclass(frozen=True)
class Call:
    """The `occurrence`th call of an operation, counted from one."""

    operation: str
    occurrence: int

    def __str__(self) -> str:
        return f"{self.operation} {self.occurrence}"


@dataclass(frozen=True)
class Fault:
    """Something that befalls a call, so many `times` in a row or until somebody mends it (None).

    `told_as` are the error types, or the outcome, that may come of it. Where there are none, nobody is to notice.
    """

    name: str
    effects: list[Rule]
    told_as: frozenset[str] = frozenset()
    times: int | None = None
    # Attempts that the function gave up are applied later.
    lands_late: bool = False

    def rules(self, call: Call) -> tuple[list[Rule], list[Rule]]:
        """Rules that let earlier calls pass, and those of the fault itself, to be added in this order."""
        which = {"operation": call.operation}
        passing = [{**which, "times": call.occurrence - 1}] if call.occurrence > 1 else []
        limit = {} if self.times is None else {"times": self.times}
        return passing, [{**which, **limit, **effect} for effect in self.effects]


def faults_of(operation: str) -> list[Fault]:
    """Everything that can befall a call of this operation."""
    throttled = _error("ProvisionedThroughputExceededException" if operation in ITEMS else "ThrottlingException")
    reply_lost = {"response": {"abort_bytes": 0}}
    faults = [
        Fault("throttled twice", [throttled], times=2),
        Fault("throttled", [throttled], THROTTLED),
        Fault("answered 500", [_error("InternalServerError", 500)], UNREACHABLE),
        Fault("reset before it was sent", [{"reset": True}], UNREACHABLE),
        Fault("reply lost once", [reply_lost], times=1),
        Fault("reply lost", [reply_lost], UNREACHABLE),
        Fault("slow", [{"latency": SLOW_MILLISECONDS}], UNREACHABLE, lands_late=True),
        Fault("expired credentials", [_error("ExpiredTokenException")], REFUSED),
        Fault("access denied", [_error("AccessDeniedException")], REFUSED),
    ]
    faults += [Fault(code, [_error(code)], told_as) for code, told_as in OF_ONE_OPERATION.get(operation, {}).items()]
    faults += [Fault(f"cancelled: {code}", _cancelled(code), told_as) for code, told_as in CANCELLED.get(operation, {}).items()]
    faults += [Fault(f"answered with {name}", [reply], UNREACHABLE) for name, reply in _no_replies(operation).items()]
    return faults


def _error(code: str, status: int = 400, **fields: Any) -> Rule:
    return {"error": {"code": code, "status": status, "message": MESSAGE, "fields": fields}}


def _cancelled(code: str) -> list[Rule]:
    """A cancelled transaction says why of each of its items, so that there is a rule for each number of items."""
    rules = []
    for items in range(1, 6):
        reasons = [{"Code": code, "Message": WHY_CANCELLED[code]}] + [{"Code": "None"}] * (items - 1)
        rule = _error("TransactionCanceledException", CancellationReasons=reasons)
        rules.append({**rule, "body": f"length(TransactItems) == `{items}`"})
    return rules


def _no_replies(operation: str) -> dict[str, Rule]:
    """Replies of 200 that are none. A write whose reply is cut in half was carried out."""
    replies = {
        "half of it": {"response": {"truncate_frac": 0.5}},
        "a page": verbatim("<html><body>We will be back soon.</body></html>", content_type="text/html"),
    }
    if operation in READS:
        replies["other types"] = verbatim(f'{{"{READS[operation]}": 7}}')
        replies["megabytes"] = verbatim("[{]}", times=HUGE_BYTES // 4)
    # To a GetItem nothing is an answer: there is no such item. Of writes nothing is more than that either.
    if operation in READS and operation != "GetItem":
        replies["nothing"] = {"response": {"truncate_bytes": 0}}
    return replies


MESSAGE = "as the testbed wants it"
ITEMS = {"GetItem", "PutItem", "UpdateItem", "Query", "TransactGetItems", "TransactWriteItems"}
# What a reply of theirs has.
READS = {
    "Decrypt": "Plaintext",
    "GetItem": "Item",
    "GetParameter": "Parameter",
    "Query": "Items",
    "TransactGetItems": "Responses",
}
REFUSED = frozenset({"AccessDenied"})
THROTTLED = frozenset({"Throttled"})
TOO_LARGE = frozenset({"TooLarge"})
UNREACHABLE = frozenset({"Unreachable"})
INTERNAL = frozenset({"Internal"})
KEY_IS_DISABLED = {"DisabledException": REFUSED, "KMSInvalidStateException": REFUSED}
ITEM_IS_BUSY_OR_FULL = {"TransactionConflictException": THROTTLED, "ItemCollectionSizeLimitExceededException": TOO_LARGE}
OF_ONE_OPERATION = {
    "Decrypt": KEY_IS_DISABLED,
    "Encrypt": KEY_IS_DISABLED,
    "LabelParameterVersion": {"TooManyUpdates": THROTTLED},
    "PutItem": ITEM_IS_BUSY_OR_FULL,
    "PutParameter": {"TooManyUpdates": THROTTLED, "InvalidKeyId": REFUSED},
    "UpdateItem": ITEM_IS_BUSY_OR_FULL,
}
# Codes and messages are AWS's (API reference, `TransactWriteItems`).
WHY_CANCELLED = {
    "ConditionalCheckFailed": "The conditional request failed.",
    "ItemCollectionSizeLimitExceeded": "Collection size exceeded.",
    "ProvisionedThroughputExceeded": "The level of configured provisioned throughput for the table was exceeded.",
    "ThrottlingError": "Throughput exceeds the current capacity of your table or index.",
    "TransactionConflict": "Transaction is ongoing for the item.",
    "ValidationError": "One or more parameter values were invalid.",
}
FOR_NOW = ("TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded")
CANCELLED = {
    "TransactGetItems": {**{code: THROTTLED for code in FOR_NOW}, "ValidationError": INTERNAL},
    "TransactWriteItems": {
        **{code: THROTTLED for code in FOR_NOW},
        "ValidationError": INTERNAL,
        "ItemCollectionSizeLimitExceeded": TOO_LARGE,
        # Another invocation saved first, it seems: a rotation that was asked for cannot be saved, and a sweep is deferred.
        "ConditionalCheckFailed": THROTTLED | {"deferred"},
    },
}
