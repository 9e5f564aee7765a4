"""An explicit save into config.yml: comments and order stay, 0600 from the first byte, nothing is written that is not valid."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dstack_jupyter.backends.config import saving
from dstack_jupyter.backends.config.file import load_config
from dstack_jupyter.models.errors import ConfigurationError, NotFound

MINE = """\
# my clouds
projects:
- name: main  # the only one
  backends:
  # cheap GPUs
  - type: lambda
    creds: {type: api_key, api_key: 'canary-old'}   # of 2024
    regions: [us-east-1]

  - type: vultr
    creds:
      type: api_key
      api_key: "canary-vultr"
encryption:
  keys:
  - type: identity
"""


def entry(kind: str, key: str) -> dict[str, object]:
    return {"type": kind, "creds": {"type": "api_key", "api_key": key}}


def test_a_new_file_is_private_from_its_first_byte(tmp_path: Path) -> None:
    path = tmp_path / ".dstack/server/config.yml"
    before = os.umask(0)
    try:
        saving.save(path, "main", entry("lambda", "canary-1"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert set(load_config(path).backends["main"]) == {"lambda"}


def test_comments_order_and_other_keys_stay(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(MINE)
    saving.save(path, "main", entry("lambda", "canary-new"))
    saving.save(path, "main", entry("runpod", "canary-runpod"))
    text = path.read_text()
    kept_lines = ("# my clouds", "# the only one", "# cheap GPUs", "regions: [us-east-1]", 'api_key: "canary-vultr"')
    for kept in (*kept_lines, "type: identity"):
        assert kept in text, text
    assert "canary-old" not in text
    assert text.index("lambda") < text.index("vultr") < text.index("runpod") < text.index("encryption")
    assert list(load_config(path).backends["main"]) == ["lambda", "vultr", "runpod"]
    assert not load_config(path).problems
    changed = [line for line in text.splitlines() if line not in MINE.splitlines()]
    assert len(changed) < 9, changed


def test_the_newer_name_replaces_the_older(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    creds = {"type": "api_key", "client_id": "me", "client_secret": "canary-1"}
    saving.save(path, "main", {"type": "datacrunch", "creds": creds})
    saving.save(path, "main", {"type": "verda", "creds": {**creds, "client_id": "you"}})
    assert load_config(path).backends["main"]["datacrunch"].identity() == "client you"
    assert not load_config(path).problems


def test_other_projects_and_links(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yml", tmp_path / "config.yml"
    real.write_text("projects:\n  - name: lab\n")
    link.symlink_to(real)
    saving.save(link, "main", entry("lambda", "canary-1"))
    assert set(load_config(real).backends["lab"]) == {"lambda"}, "the only project is the one that is meant"
    saving.save(link, "other", entry("vultr", "canary-2"))
    assert set(load_config(real).backends["other"]) == {"vultr"}
    assert link.is_symlink()


@pytest.mark.parametrize("text", ["projects: [", "projects: {}\n", "nothing: 1\n"])
def test_a_file_that_is_wrong_is_not_touched(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as told:
        saving.save(path, "main", entry("lambda", "canary-1"))
    assert path.read_text() == text
    assert "canary" not in str(told.value)


def test_an_entry_that_is_wrong_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(MINE)
    with pytest.raises(ConfigurationError, match="nothing was written") as told:
        saving.save(path, "main", {**entry("cudo", "canary-1")})
    assert "project_id" in str(told.value)
    assert path.read_text() == MINE


def test_what_is_asked_comes_from_the_models() -> None:
    aws = saving.Form.of("aws")
    assert aws.variants == ["access_key", "default"]
    asked = {field.path: (field.secret, field.required) for field in aws.fields("access_key")}
    assert asked == {("creds", "access_key"): (False, True), ("creds", "secret_key"): (True, True)}
    assert aws.fields("default") == []
    oci = {field.path[-1]: field for field in saving.Form.of("oci").fields("client")}
    assert oci["pass_phrase"].secret
    assert not oci["key_file"].required
    assert [field.path for field in saving.Form.of("kubernetes").fields("kubeconfig")] == [("kubeconfig", "filename")]
    assert saving.Form.of("verda").name == "datacrunch"
    with pytest.raises(ConfigurationError, match="no entry"):
        saving.Form.of("ssh")
    with pytest.raises(NotFound):
        saving.Form.of("awss")
