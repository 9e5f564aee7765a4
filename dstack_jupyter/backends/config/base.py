"""What the configurations of all backends have in common: regions, credentials, files that hold them.

Facts: reference ``configuration`` §2.2–§2.5. Both eras' fields parse. A named file is read with the configuration, so that
a missing file is an error with a place.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ...models.base import Model
from ...models.references import Tags
from ...models.secret import Secret

LARGEST_FILE = 1 << 20
Filename = Annotated[str | None, BeforeValidator(lambda value: value or None)]
"""A path; empty and null are the same, as the eras write it unevenly."""


class BackendConfig(Model):
    """``type`` names the backend; ``regions`` narrows its offers, None is its default."""

    type: str
    regions: list[str] | None = None

    def identity(self) -> str:
        """Who we are at the vendor as far as the configuration itself tells; never a secret."""
        return ""

    def notes(self) -> list[str]:
        """Lines that `check` adds to 'valid': defaults that differ between the eras (the seed's holds, D9)."""
        return []


class APIKeyCreds(Model):
    """``api_key``: one key that stands for the account."""

    type: Literal["api_key"]
    api_key: Secret


def _some(value: Secret) -> Secret:
    if not value:
        raise ValueError("is empty")
    return value


class NonEmptyAPIKeyCreds(APIKeyCreds):
    api_key: Annotated[Secret, AfterValidator(_some)]


class AccessKeyCreds(Model):
    """``access_key``: a pair."""

    type: Literal["access_key"]
    access_key: str
    secret_key: Secret


class DefaultCreds(Model):
    """``default``: what the vendor's own tools use on this machine. Refused where DSTACK_DEFAULT_CREDS_DISABLED is set."""

    type: Literal["default"]


def read_credentials(filename: str, *, private_key: bool = False) -> str:
    """The text of a file of credentials. Raises ValueError that names the fault and never the content.

    A private key that others can read is refused (D10).
    """
    path = Path(filename).expanduser()
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno())
            if private_key and stat.S_IMODE(mode.st_mode) & 0o077 and mode.st_uid == os.getuid():
                raise ValueError("others can read this private key: chmod 600 the file")
            data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except OSError as error:
        raise ValueError(f"the file cannot be read: {(error.strerror or 'unknown reason').lower()}") from None
    if len(data) > LARGEST_FILE:
        raise ValueError("the file is larger than 1 MiB: it holds no key")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("the file is not text") from None


def tags_like(key: str, value: str, words: str) -> Callable[[dict[str, str]], dict[str, str]]:
    """A check of tags by a vendor's own rule, beyond the common one."""

    def check(tags: dict[str, str]) -> dict[str, str]:
        for name, text in tags.items():
            if not re.fullmatch(key, name) or not re.fullmatch(value, text):
                raise ValueError(f"the tag {name!r} is not allowed here: {words}")
        return tags

    return check


LABEL_RULE = tags_like(
    r"[a-z][a-z0-9_-]{0,62}", r"[a-z0-9_-]{0,63}", "keys and values of at most 63 of a-z, 0-9, _ and -, keys begin with a letter"
)
Labels = Annotated[Tags, AfterValidator(LABEL_RULE)]
"""Tags as GCP's and Nebius's labels."""

GroupAndName = Annotated[str, Field(pattern=r"^[^/]+/[^/]+$")]
"""``group/name`` of Azure."""
GroupNetworkSubnet = Annotated[str, Field(pattern=r"^[^/]+/[^/]+/[^/]+$")]


def number_as_text(value: Any) -> Any:
    """An account number that YAML took for an integer."""
    return str(value) if type(value) is int else value
