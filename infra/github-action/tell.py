"""Reports the result of a rotation to a job: its outputs, a line in its log, and its summary. `tell.py ANSWER CODE`

The answer is the function's; it holds names, numbers and times, and never a token.
"""

import html
import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

# The command's exit codes.
MEANINGS = {
    0: "done",
    1: "it failed",
    2: "the inputs are wrong",
    3: "it is held, and waits for help; no service is cut off, and the same version resumes once the cause is fixed",
    4: "it is still in progress at the time limit, and continues by itself; run this job again to wait for it",
}


def main() -> None:
    answer = read(Path(sys.argv[1]))
    code = int(sys.argv[2])
    outputs = {
        "outcome": answer.get("outcome"),
        "version": answer.get("version"),
        "selectors": " ".join(answer.get("selectors") or []),
    }
    with open(os.environ["GITHUB_OUTPUT"], "a") as file:
        for name, value in outputs.items():
            file.write(output(name, "" if value is None else str(value)))
    with open(os.environ["GITHUB_STEP_SUMMARY"], "a") as file:
        file.write(summary(answer, code))
    said = ": ".join(filter(None, [MEANINGS.get(code, "it failed"), reason(answer)]))
    print(f"::{'error' if code else 'notice'} title=changeover {escaped(os.environ['TOKEN'], in_property=True)}::{escaped(said)}")


def read(path: Path) -> dict[str, Any]:
    """The function's answer; empty where there is none."""
    try:
        answer = json.loads(path.read_text())
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def reason(answer: dict[str, Any]) -> str:
    """Why it did not go well, and what to do."""
    if held := answer.get("held"):
        return f"{held['object']}: {held['reason']}; {held['fix']}"
    if "errorMessage" in answer:
        return f"{answer.get('errorType', 'error')}: {answer['errorMessage']}"
    return answer.get("outcome", "")


def output(name: str, value: str) -> str:
    """An output as the runner reads it, whatever is in the value."""
    end = uuid.uuid4()
    return f"{name}<<{end}\n{value}\n{end}\n"


def summary(answer: dict[str, Any], code: int) -> str:
    """What a person wants to see of it."""
    facts = {
        "outcome": answer.get("outcome") or MEANINGS.get(code, "it failed"),
        "version": answer.get("version"),
        "presented": ", ".join(answer.get("selectors") or []),
        "the one before is accepted until": answer.get("previous_valid_until"),
        "reason": reason(answer) if code else None,
    }
    rows = [(name, str(fact)) for name, fact in facts.items() if fact]
    rows += [(f"{done['leg']} {done['step']}", f"{done['took_ms'] / 1000:.1f} s") for done in answer.get("timeline") or []]
    lines = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(fact)}</td></tr>\n" for name, fact in rows)
    return f"<h3>changeover: {html.escape(os.environ['TOKEN'])}</h3>\n<table>\n{lines}</table>\n\n"


def escaped(text: str, in_property: bool = False) -> str:
    """As the runner's commands want it."""
    marks = {"%": "%25", "\r": "%0D", "\n": "%0A"} | ({":": "%3A", ",": "%2C"} if in_property else {})
    return "".join(marks.get(character, character) for character in text)


if __name__ == "__main__":
    main()
