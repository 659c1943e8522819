"""Both sides of a token in one small program, for tests that run dozens of tokens at once: it starts within 50 ms.

    light.py verifier    like datastore.py with ACCEPTED: GET /data answers 200 with the version of an accepted token, or 401
    light.py presenter   like backend.py with TOKEN: asks a verifier RATE times a second, one line to REQUESTS for each answer

Of several tokens there are several variables, whose names begin so: all are accepted, and presented in turn.

Of the other applications' settings it knows START_SECONDS, DRAIN_SECONDS, PORT, ENDPOINTS, NAMESPACE and POD; and VERIFIER, the
label `app` of the pods that a presenter asks.
"""

import hashlib
import itertools
import json
import os
import random
import signal
import socket
import sys
import time

draining_at: float | None = None
# The addresses of the verifier's pods.
known: list[str] = []
read_again_at = 0.0


def main() -> None:
    signal.signal(signal.SIGTERM, drain)
    time.sleep(float(os.environ.get("START_SECONDS", "0")))
    {"verifier": verify, "presenter": present}[sys.argv[1]]()


def drain(*_) -> None:
    global draining_at
    draining_at = time.monotonic()


def is_over() -> bool:
    return draining_at is not None and time.monotonic() > draining_at + float(os.environ.get("DRAIN_SECONDS", "0"))


def variables(name: str) -> list[str]:
    return [value for variable, value in os.environ.items() if variable.startswith(name)]


def verify() -> None:
    entries = [entry for document in variables("ACCEPTED") for entry in json.loads(document)["accepted"]]
    with socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=128) as server:
        server.settimeout(0.1)
        while not is_over():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                try:
                    connection.settimeout(2)
                    answer(connection, connection.recv(4096).decode(), entries)
                except OSError:
                    continue


def answer(connection: socket.socket, request: str, entries: list[dict]) -> None:
    """One request of one packet, as presenters and probes on the same computer send it."""
    if request.startswith("GET /ready "):
        return respond(connection, 200 if draining_at is None else 503, {})
    _, _, authorization = request.partition("Authorization: Bearer ")
    version = version_of(authorization.partition("\r\n")[0], entries)
    if version is None:
        return respond(connection, 401, {"error": "this token is not accepted"})
    return respond(connection, 200, {"version": version, "pod": os.environ.get("POD")})


def version_of(token: str, entries: list[dict]) -> int | None:
    presented = hashlib.sha256(token.encode()).hexdigest()
    seconds, milliseconds = divmod(time.time_ns() // 1_000_000, 1000)
    # Times are compared as text: the document's have this very form.
    now = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03}Z"
    for entry in entries:
        if entry["sha256"] == presented and now < entry.get("not_after", "9999"):
            return entry["version"]
    return None


def respond(connection: socket.socket, status: int, body: dict) -> None:
    data = json.dumps(body)
    head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close"
    connection.sendall(f"{head}\r\n\r\n{data}".encode())


def present() -> None:
    interval = 1 / float(os.environ["RATE"])
    requests = os.open(os.environ["REQUESTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    # At a first deployment both sides start at once.
    while ready_verifier() is None and not is_over():
        time.sleep(0.1)
    tokens = itertools.cycle(variables("TOKEN"))
    while not is_over():
        line = {"at": round(time.time(), 3), "presenter": os.environ.get("POD"), "status": 0} | ask(next(tokens))
        os.write(requests, json.dumps(line).encode() + b"\n")
        time.sleep(interval * random.uniform(0.8, 1.2))


def ask(token: str) -> dict:
    """One request. A pod that is gone before it answered is passed over; every answer is final."""
    global read_again_at
    for attempt in range(1, 11):
        address = ready_verifier()
        if address is None:
            return {"error": "NoEndpoints", "attempts": attempt}
        host, port = address.split(":")
        try:
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(f"GET /data HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
                reply = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
        except OSError:
            read_again_at = 0.0
            continue
        if reply:
            body = json.loads(reply.partition("\r\n\r\n")[2])
            return {
                "status": int(reply.split(" ", 2)[1]),
                "version": body.get("version"),
                "verifier": body.get("pod"),
                "attempts": attempt,
            }
    return {"error": "PodsGone", "attempts": 10}


def ready_verifier() -> str | None:
    """A pod of the verifier that is ready, known with the delay that kube-proxy has too."""
    global known, read_again_at
    if time.monotonic() >= read_again_at:
        with open(os.environ["ENDPOINTS"]) as file:
            endpoints = json.load(file)
        here, application = os.environ["NAMESPACE"], os.environ["VERIFIER"]
        ours = [each for each in endpoints if each["namespace"] == here and each["labels"].get("app") == application]
        known = [each["address"] for each in ours if each["ready"]]
        read_again_at = time.monotonic() + random.uniform(0.2, 0.6)
    return random.choice(known) if known else None


if __name__ == "__main__":
    main()
