"""``type: kubernetes``. Facts: reference ``configuration`` §1.1, §2.2."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ...models.base import Model
from ...models.secret import Secret
from ..config.base import BackendConfig, Filename, read_credentials


class Kubeconfig(Model):
    """A kubeconfig by ``filename`` or in ``data``."""

    filename: Filename = None
    data: Secret | None = None

    @model_validator(mode="after")
    def _content(self) -> Self:
        if not self.data:
            if self.filename is None:
                raise ValueError("either filename or data is needed")
            self.__dict__["data"] = Secret(read_credentials(self.filename))
        return self


class ProxyJump(Model):
    """The node and port that SSH goes through; found out where they are left out."""

    hostname: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)


class Context(Model):
    """A context of the kubeconfig: one region."""

    name: str
    proxy_jump: ProxyJump | None = None


ContextOrName = Annotated[Context, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)]


class KubernetesConfig(BackendConfig):
    """``type: kubernetes``. ``namespace`` is deprecated in the newer era: a context has its own."""

    type: Literal["kubernetes"]
    kubeconfig: Kubeconfig
    proxy_jump: ProxyJump | None = None
    namespace: str | None = None
    contexts: list[ContextOrName] | None = None

    def identity(self) -> str:
        named = ", ".join(context.name for context in self.contexts or ())
        return f"contexts {named}" if named else "current context"

    def notes(self) -> list[str]:
        return ["namespace is deprecated in newer releases: a context has its own"] if self.namespace else []
