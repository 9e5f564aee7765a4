"""YAML text as plain data that remembers where each key stood, read with limits that no input can get around.

At most 1 MiB, 64 levels, 20,000 nodes after aliases are expanded; no duplicate keys, no tags that make objects. No message
repeats a value: it may be a secret.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigurationError, LimitExceeded, NotFound, Problem

LARGEST = 1 << 20
DEEPEST = 64
MOST_NODES = 20_000

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
KeyPath = tuple[str | int, ...]

STANDARD = "tag:yaml.org,2002:"
SCALARS = frozenset({"bool", "float", "int", "null", "str"})
AS_TEXT = frozenset({"timestamp", "value"})
"""What YAML 1.1 takes for a date, or a lone ``=``: text to us."""
MERGE = f"{STANDARD}merge"
COLLECTIONS = frozenset({f"{STANDARD}map", f"{STANDARD}seq"})
FORBIDDEN = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that YAML does not allow."""


@dataclass(slots=True)
class Source:
    """Plain data, and the (line, column) of every key and item, counted from 1."""

    data: Any
    file: str
    places: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)

    def place(self, path: KeyPath) -> tuple[int, int]:
        """Where ``path`` stands, or the nearest thing around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (0, 0))

    def problem(self, path: KeyPath, message: str, hint: str = "") -> Problem:
        line, column = self.place(path)
        return Problem(message, hint, ".".join(str(part) for part in path), self.file, line, column)


def _unreadable(file: str, line: int, column: int, message: str, hint: str = "") -> ConfigurationError:
    return ConfigurationError("the YAML cannot be read", problems=[Problem(message, hint, "", file, line, column)])


class _Walk:
    """Turns composed nodes into data; counts what aliases expand to before it is made."""

    def __init__(self, source: Source, first_line: int) -> None:
        self.source = source
        self.first_line = first_line
        self.nodes = 0
        self.scalars = yaml.SafeLoader("")

    def at(self, mark: Any) -> tuple[int, int]:
        return mark.line + self.first_line, mark.column + 1

    def fail(self, mark: Any, message: str, hint: str = "") -> ConfigurationError:
        return _unreadable(self.source.file, *self.at(mark), message, hint)

    def examine(self, text: str) -> None:
        """Depth and size from events, before anything is composed: composing recurses, and a recursion has its own limit."""
        depth = nodes = 0
        for event in yaml.parse(text, Loader=Loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > DEEPEST:
                    raise self.fail(event.start_mark, f"nested deeper than {DEEPEST} levels")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            nodes += isinstance(event, yaml.NodeEvent)
            if nodes > MOST_NODES:
                raise self.fail(event.start_mark, f"more than {MOST_NODES} nodes", "data belongs into `files`")

    def data(self, node: yaml.Node, path: KeyPath) -> Any:
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise self.fail(node.start_mark, f"more than {MOST_NODES} nodes", "aliases multiply what they stand for")
        if len(path) > DEEPEST:
            raise self.fail(node.start_mark, f"nested deeper than {DEEPEST} levels", "does an alias stand in its own anchor?")
        if path == () or path not in self.source.places:
            self.source.places[path] = self.at(node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if node.tag not in COLLECTIONS:
            raise self.fail(node.start_mark, "this tag is not allowed", "only plain maps, lists and values are")
        if isinstance(node, yaml.SequenceNode):
            return [self.data(item, (*path, index)) for index, item in enumerate(node.value)]
        return self.mapping(node, path)

    def mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.fail(key_node.start_mark, "a key must be plain text")
            if key_node.tag == MERGE:
                for part in self.merge(value_node, path):
                    merged = {**part, **merged}
                continue
            key = key_node.value
            if key in mapping:
                raise self.fail(key_node.start_mark, f"the key {key!r} stands here twice")
            at = (*path, key)
            self.source.places[at] = self.at(key_node.start_mark)
            mapping[key] = self.data(value_node, at)
        return {**merged, **mapping}

    def merge(self, node: yaml.Node, path: KeyPath) -> Iterator[dict[str, Any]]:
        """What ``<<:`` names: one map, or a list of maps of which the first wins."""
        for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(part, yaml.MappingNode):
                raise self.fail(node.start_mark, "`<<` takes a map or a list of maps")
            yield self.data(part, (*path, "<<"))

    def scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix(STANDARD)
        plain = not node.style  # the two loaders say "" and None
        if kind == "str" or ((kind in AS_TEXT or node.tag == MERGE) and plain):
            return node.value  # what YAML itself makes of a text, without its detour: nearly all of a long file is text
        if plain and ":" in node.value and kind in ("int", "float"):
            return node.value  # YAML 1.1 takes 22:22 for a number to base 60; here it is a pair of ports
        if kind not in SCALARS:
            raise self.fail(node.start_mark, "this tag is not allowed", "quote a text that begins with !")
        try:
            value = self.scalars.construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError) as error:
            raise self.fail(node.start_mark, "this value cannot be read") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise self.fail(node.start_mark, "expected a finite number")
        return value


def _message(error: yaml.MarkedYAMLError, line: str) -> tuple[str, str]:
    """What is wrong, without what the text says there, and a hint where we know one. ``line`` is the line of the fault."""
    problem = error.problem or "not valid YAML"
    if "undefined alias" in problem:
        return "an alias (*) that no anchor (&) defines", "quote a text that begins with *"
    if "duplicate anchor" in problem:
        return "an anchor (&) that is defined twice", "quote a text that begins with &"
    if "undefined tag handle" in problem:
        return "an undefined tag", "quote a text that begins with !"
    if "another document" in problem:
        return "a second document begins here", "one configuration at a time: remove what follows `---`"
    if line[: len(line) - len(line.lstrip())].count("\t"):
        return "a tab where spaces are needed", "indent with spaces"
    if "mapping values are not allowed" in problem:
        return problem, "is this line indented deeper than what stands beside it? a text with `: ` in it needs quotes"
    if "cannot start any token" in problem:
        return "a character that cannot begin a value", "quote the text"
    return problem, ""


def read_yaml(text: str, file: str = "", first_line: int = 1) -> Source:
    """``text`` as data with places. ``first_line`` is the number of its first line in ``file`` (a cell's body starts at 2).

    Raises LimitExceeded, ConfigurationError with the place.
    """
    too_large(len(text.encode("utf-8", "surrogatepass")), file or "the YAML")
    text = text.removeprefix("\ufeff")
    if bad := FORBIDDEN.search(text):
        line = text.count("\n", 0, bad.start())
        column = bad.start() - (text.rfind("\n", 0, bad.start()) + 1)
        raise _unreadable(file, line + first_line, column + 1, f"the character U+{ord(bad[0]):04X} is not allowed in YAML")
    source = Source(None, file, {(): (first_line, 1)})
    walk = _Walk(source, first_line)
    try:
        walk.examine(text)
        node = yaml.compose(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = walk.at(mark) if mark else (first_line, 1)
        lines = text.splitlines()
        faulty = lines[mark.line] if mark and mark.line < len(lines) else ""
        raise _unreadable(file, *place, *_message(error, faulty)) from None
    except (yaml.YAMLError, ValueError) as error:
        raise _unreadable(file, first_line, 1, "not valid YAML") from error
    if node is not None:
        source.data = walk.data(node, ())
    return source


def flag_value(flag: str, text: str) -> Any:
    """The value of a flag: the object form ``{…}`` as in YAML, other text as it is. Raises ConfigurationError with the place."""
    return read_yaml(text, f"--{flag}").data if text.lstrip().startswith("{") else text


def too_large(size: int, name: str) -> None:
    """Raises LimitExceeded where ``size`` bytes are more than a configuration may have."""
    if size > LARGEST:
        raise LimitExceeded(
            f"{name} has {size / 2**20:.1f} MiB; a configuration has 1 MiB at most",
            hint="data belongs into `files`, not into the YAML",
        )


def read_file(path: Path) -> str:
    """The text of a configuration file. Raises NotFound with near names, LimitExceeded before reading what is too large."""
    try:
        if path.is_dir():
            raise ConfigurationError(f"{path} is a folder", hint=_near_files(path, path.name) or "name the file in it")
        with path.open("rb") as file:
            too_large(path.stat().st_size, str(path))
            data = file.read(LARGEST + 1)  # a pipe or a growing file has another size than stat said
            too_large(len(data), str(path))
    except FileNotFoundError:
        near = _near_files(path.parent, path.name)
        raise NotFound(f"there is no file {path}", hint=near or "check the path") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise _unreadable(str(path), line, column, "this byte is not UTF-8 text", "save the file as UTF-8") from None


def _near_files(folder: Path, name: str) -> str:
    """'did you mean …?' with files of ``folder`` that are called nearly so, else its YAML files; '' for none."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError:
        return ""
    near = difflib.get_close_matches(name, names, 3) or [each for each in names if each.endswith((".yml", ".yaml"))][:3]
    return f"did you mean {', '.join(near)}?" if near else ""
