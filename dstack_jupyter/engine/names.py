"""Names and ids. Identities are deterministic: the same resource asks a cloud for the same name on every retry (D3)."""

from __future__ import annotations

import secrets

ADJECTIVES = (
    "able bold brave bright brisk calm clever cool crisp eager early fair fast fine fond free fresh gentle glad golden grand "
    "great green happy keen kind light lively lucky mellow merry mighty neat noble plain polite proud quick quiet rapid ready "
    "sharp shiny silver smart smooth solid steady sunny swift tidy warm wise witty"
).split()
ANIMALS = (
    "ant badger bat bear beaver bee bison boar cat cobra crab crane crow deer dingo dog dove duck eagle eel elk emu falcon "
    "finch fox frog gecko goat goose hare hawk heron horse ibis jay koala lark lemur lion llama lynx mole moose mouse newt "
    "orca otter owl panda puma quail rabbit raven robin seal shark skunk sloth snail stork swan tapir tiger toad trout wasp "
    "whale wolf wombat yak zebra"
).split()


def new_id() -> str:
    return secrets.token_hex(8)


def run_name() -> str:
    """An adjective-animal-number name, for a run whose YAML gives none."""
    return f"{secrets.choice(ADJECTIVES)}-{secrets.choice(ANIMALS)}-{secrets.randbelow(90) + 10}"


def identity(installation: str, resource_id: str) -> str:
    """What an instance is called at its vendor: ``dj-<installation>-<resource>``, at most 63 characters of [a-z0-9-]."""
    return f"dj-{installation[:8]}-{resource_id[:12]}"
