"""What can go wrong with one call of AWS, as rules for the proxy (`faulty_aws.py`), and what changeover may then say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testbed.faulty_aws import Rule, verbatim

READS = {"GetParameter", "GetItem", "TransactGetItems", "Query", "Decrypt"}
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

    `told_as` are the error types that may come of it. Where there are none, nobody is to notice.
    """

    name: str
    effects: list[Rule]
    told_as: frozenset[str] = frozenset()
    times: int | None = None
    # Attempts that the function gave up may still be applied.
    lands_late: bool = False

    def rules(self, call: Call) -> tuple[list[Rule], list[Rule]]:
        """Rules that let earlier calls pass, and those of the fault itself, to be added in this order."""
        which = {"operation": call.operation}
        passing = [{**which, "times": call.occurrence - 1}] if call.occurrence > 1 else []
        limit = {} if self.times is None else {"times": self.times}
        return passing, [{**which, **limit, **effect} for effect in self.effects]


def faults_of(operation: str) -> list[Fault]:
    """Everything that can befall a call of this operation."""
    faults = [
        Fault("throttled twice", [_error(_throttling(operation))], times=2),
        Fault("throttled", [_error(_throttling(operation))], told_as=frozenset({"Throttled"})),
        Fault("answered 500", [_error("InternalServerError", 500)], told_as=UNREACHABLE),
        Fault("reset before it was sent", [{"reset": True}], told_as=UNREACHABLE),
        Fault("reply lost once", [LOST], times=1),
        Fault("reply lost", [LOST], told_as=UNREACHABLE),
        Fault("slow", [{"latency": SLOW_MILLISECONDS}], told_as=UNREACHABLE, lands_late=True),
        Fault("expired credentials", [_error("ExpiredTokenException")], told_as=REFUSED),
        Fault("access denied", [_error("AccessDeniedException")], told_as=REFUSED),
    ]
    for code, told_as in OF_ONE_OPERATION.get(operation, {}).items():
        faults.append(Fault(code, [_error(code)], told_as=told_as))
    for code, told_as in CANCELLED.get(operation, {}).items():
        faults.append(Fault(f"cancelled: {code}", _cancelled(code), told_as=told_as))
    if operation in READS:
        faults += [Fault(f"answered {name}", [effect], told_as=UNREADABLE) for name, effect in _hostile(operation).items()]
    return faults


def _error(code: str, status: int = 400, **fields: Any) -> Rule:
    return {"error": {"code": code, "status": status, "message": "as the testbed wants it", "fields": fields}}


def _throttling(operation: str) -> str:
    return "ProvisionedThroughputExceededException" if operation in ITEMS else "ThrottlingException"


def _cancelled(code: str) -> list[Rule]:
    """A cancelled transaction says why of each of its items, so that there is a rule for each number of items."""
    rules = []
    for items in range(1, 6):
        reasons = [{"Code": code, "Message": "as the testbed wants it"}] + [{"Code": "None"}] * (items - 1)
        rule = _error("TransactionCanceledException", CancellationReasons=reasons)
        rules.append({**rule, "body": f"length(TransactItems) == `{items}`"})
    return rules


def _hostile(operation: str) -> dict[str, Rule]:
    """Replies of 200 that are none. With nothing in it GetItem's is one: there is no such item."""
    field = {"GetItem": "Item", "TransactGetItems": "Responses", "Query": "Items", "Decrypt": "Plaintext"}.get(operation, "Parameter")
    return {
        **({} if operation == "GetItem" else {"with nothing": {"response": {"truncate_bytes": 0}}}),
        "with half of it": {"response": {"truncate_frac": 0.5}},
        "with a page": verbatim("<html><body>We will be back soon.</body></html>", content_type="text/html"),
        "with other types": verbatim(f'{{"{field}": 7}}'),
        "with megabytes": verbatim("[{]}", times=HUGE_BYTES // 4),
    }


LOST: Rule = {"response": {"abort_bytes": 0}}
REFUSED = frozenset({"AccessDenied"})
THROTTLED = frozenset({"Throttled"})
UNREACHABLE = frozenset({"Unreachable"})
INTERNAL = frozenset({"Internal"})
TOO_LARGE = frozenset({"TooLarge"})
UNREADABLE = frozenset({"Unreachable", "UnknownToken", "BadRecord", "Internal"})
ITEMS = {"GetItem", "PutItem", "UpdateItem", "Query", "TransactGetItems", "TransactWriteItems"}
OF_ONE_OPERATION = {
    "PutParameter": {"TooManyUpdates": THROTTLED, "InvalidKeyId": REFUSED},
    "LabelParameterVersion": {"TooManyUpdates": THROTTLED},
    "Encrypt": {"DisabledException": REFUSED, "KMSInvalidStateException": REFUSED},
    "Decrypt": {"DisabledException": REFUSED, "KMSInvalidStateException": REFUSED},
    "PutItem": {"TransactionConflictException": THROTTLED, "ItemCollectionSizeLimitExceededException": TOO_LARGE},
    "UpdateItem": {"TransactionConflictException": THROTTLED, "ItemCollectionSizeLimitExceededException": TOO_LARGE},
}
PASSING = {"TransactionConflict": THROTTLED, "ThrottlingError": THROTTLED, "ProvisionedThroughputExceeded": THROTTLED}
CANCELLED = {
    "TransactGetItems": {**{code: THROTTLED | INTERNAL for code in PASSING}, "ValidationError": INTERNAL},
    "TransactWriteItems": {
        **PASSING,
        "ValidationError": INTERNAL,
        "ItemCollectionSizeLimitExceeded": TOO_LARGE | INTERNAL,
        # Somebody else was first, it seems: whoever believes it looks again.
        "ConditionalCheckFailed": INTERNAL,
    },
}
