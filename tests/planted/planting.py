"""Finds the place of a planted mistake by its item and its expression, so that an edit elsewhere does not move it.

A place is a file, an item in it (a function, a type, a block of a template) and an expression in that item. White space is
ignored in the expression, and so are comments on lines of their own and the comma that a formatter adds before a closing bracket.

An item is found without a parser, by its indentation: it begins at its header and ends before the next line that is indented no
deeper, unless that line begins with a closing bracket or continues a signature. `cargo fmt`, `terraform fmt`, yamllint and
Python hold the indentation.
"""

import functools
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

CLOSING = (")", "]", "}")
NAME = re.compile(r"[A-Za-z_]\w*(?:(?:::|\.)[A-Za-z_]\w*)*")


class Moved(Exception):
    """The place of a mistake is not there, or is there more than once. The message says which."""


@dataclass(frozen=True)
class Language:
    """What a file's suffix decides. In `declaration` and `container`, NAME stands for the name of an item."""

    comment: str
    attribute: str | None = None
    # The header of an item that has this name.
    declaration: str | None = None
    # The header of what may stand before `::` or `.`, besides a declaration.
    container: str | None = None
    # Beginnings of lines that continue a signature at the indentation of its header.
    continues: tuple[str, ...] = ()


RUST = Language(
    comment="//",
    attribute="#[",
    declaration=r"(?:pub(?:\([^)]*\))?\s+)?(?:(?:const|async|unsafe|extern\s+\"[^\"]*\")\s+)*"
    r"(?:fn|struct|enum|union|trait|mod|type|const|static|macro_rules!)\s+(?:mut\s+)?NAME\b",
    container=r"(?:unsafe\s+)?impl\b[^{;]*?\bNAME\b",
    continues=("where", "{"),
)
PYTHON = Language(
    comment="#",
    attribute="@",
    declaration=r"(?:(?:async\s+)?def\s+|class\s+)NAME\b|NAME\s*(?::[^=\n]*)?=(?!=)",
)
LANGUAGES = {".rs": RUST, ".py": PYTHON}
OTHER = Language(comment="#")


@dataclass(frozen=True)
class Change:
    """Replaces one expression by another. Without an item, the expression is searched in the whole file."""

    # The end of a path, in whole components.
    file: str
    # Names or headers, outermost first, separated by ` > `.
    item: str | None
    # None for the whole item.
    replace: str | None
    becomes: str


def planted(
    changes: Iterable[Change], paths: Sequence[PurePosixPath], read: Callable[[PurePosixPath], str]
) -> dict[PurePosixPath, str]:
    """The changed files with these changes made. All places are found before any of them is changed."""
    results = {}
    edits = edits_of(changes, paths, read)
    for path, of_file in edits.items():
        text = read(path)
        of_file.sort()
        for (_, end, _), (start, _, _) in zip(of_file, of_file[1:]):
            if start < end:
                raise Moved(f"two of its changes overlap in {path}")
        for start, end, becomes in reversed(of_file):
            text = text[:start] + becomes + text[end:]
        results[path] = text
    return results


def edits_of(
    changes: Iterable[Change], paths: Sequence[PurePosixPath], read: Callable[[PurePosixPath], str]
) -> dict[PurePosixPath, list[tuple[int, int, str]]]:
    """What these changes replace in each file: start, end and the new text."""
    edits: dict[PurePosixPath, list[tuple[int, int, str]]] = {}
    for change in changes:
        path = file_named(change.file, paths)
        text = read(path)
        start, end = place(text, path, change.item, change.replace)
        edits.setdefault(path, []).append((start, end, indented(change.becomes, text, start)))
    return edits


def file_named(suffix: str, paths: Sequence[PurePosixPath]) -> PurePosixPath:
    """The one path that ends with these components."""
    components = PurePosixPath(suffix).parts
    found = sorted(path for path in paths if path.parts[-len(components) :] == components)
    match found:
        case [path]:
            return path
        case []:
            raise Moved(f"no file {suffix}")
    raise Moved(f"{suffix} is the end of {len(found)} files: {', '.join(map(str, found))}")


def place(text: str, path: PurePosixPath, item: str | None, expression: str | None) -> tuple[int, int]:
    """Start and end of the one place where this item of the file holds the expression."""
    language = LANGUAGES.get(path.suffix, OTHER)
    code = without_comments(text, language)
    within = [(0, len(code))] if item is None else items(code, item, language)
    if not within:
        raise Moved(f"no item `{item}` in {path}")
    if expression is None:
        if len(within) > 1:
            raise Moved(f"{path} has {len(within)} items `{item}`")
        return within[0]
    pattern = pattern_of(expression)
    # Items of one name may be nested: a place in both is one place.
    found = {match.span() for start, end in within for match in pattern.finditer(code, start, end)}
    if len(found) != 1:
        holder = path if item is None else f"{path}'s `{item}`"
        raise Moved(f"{holder} holds `{' '.join(expression.split())}` {len(found)} times")
    return found.pop()


def items(code: str, item: str, language: Language) -> list[tuple[int, int]]:
    """Start and end of each item with this name, or with a header that begins so."""
    found = [(0, len(code))]
    for step in item.split(" > "):
        if language.declaration is None or not NAME.fullmatch(step):
            headers = [pattern_of(step).pattern]
        else:
            *containers, name = re.split(r"::|\.", step)
            contains = "|".join(filter(None, [language.declaration, language.container]))
            headers = [contains.replace("NAME", container) for container in containers]
            headers.append(language.declaration.replace("NAME", name))
        for header in headers:
            found = [extent for within in found for extent in extents(code, header, language, within)]
    return found


def extents(code: str, header: str, language: Language, within: tuple[int, int]) -> list[tuple[int, int]]:
    """Start and end of each item with a header that matches, from its attributes to its last line."""
    pattern = re.compile(rf"^([ \t]*)(?:{header})", re.MULTILINE)
    found = []
    for match in pattern.finditer(code, *within):
        start, indentation = match.start(), len(match[1])
        if language.attribute is not None:
            start = above(code, start, match[1] + language.attribute)
        end = match.end() + len(code[match.end() :].partition("\n")[0])
        for line in code[end + 1 :].split("\n"):
            depth = len(line) - len(line.lstrip())
            belongs = depth == indentation and line.lstrip().startswith((*CLOSING, *language.continues))
            if line.strip() and depth <= indentation and not belongs:
                break
            end += 1 + len(line)
        end = min(end, within[1])
        found.append((start, len(code[:end].rstrip())))
    return found


def above(code: str, start: int, attribute: str) -> int:
    """Start of the uninterrupted lines above `start` that begin with the attribute's mark."""
    while start > 0:
        before = code.rfind("\n", 0, start - 1) + 1
        if not code.startswith(attribute, before):
            break
        start = before
    return start


def pattern_of(expression: str) -> re.Pattern[str]:
    """Matches the expression however it is wrapped. Of two words, some white space has to stay between them."""
    tokens = re.findall(r"\w+|[^\w\s]", expression)
    if not tokens:
        raise ValueError("an expression needs at least one token")
    parts: list[str] = []
    for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None]):
        if before is not None:
            parts.append(r"\s+" if is_word(before) and is_word(token) else r"\s*")
        if token == "," and after in CLOSING:
            parts.append(",?")
            continue
        if token in CLOSING and before not in (None, ",", "(", "[", "{"):
            parts.append(r"(?:,\s*)?")
        parts.append(re.escape(token))
    start = r"\b" if is_word(tokens[0]) else ""
    end = r"\b" if is_word(tokens[-1]) else ""
    return re.compile(start + "".join(parts) + end)


def is_word(token: str) -> bool:
    return re.match(r"\w", token) is not None


@functools.cache
def without_comments(text: str, language: Language) -> str:
    """The same text, of the same length, with spaces in place of each comment that has its line to itself."""
    comment = re.compile(rf"^([ \t]*)({re.escape(language.comment)}[^\n]*)", re.MULTILINE)
    return comment.sub(lambda match: match[1] + " " * len(match[2]), text)


def indented(becomes: str, text: str, start: int) -> str:
    """What is planted, its further lines indented as the line where it is planted."""
    line = text[text.rfind("\n", 0, start) + 1 : start]
    indentation = line[: len(line) - len(line.lstrip())]
    first, *others = textwrap.dedent(becomes).strip("\n").split("\n")
    return "\n".join([first.lstrip(), *((indentation + other if other else other) for other in others)])
