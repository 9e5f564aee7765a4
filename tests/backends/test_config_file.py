"""config.yml: all faults at once with their places, one wrong backend takes no other with it, both eras' forms."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from dstack_jupyter.backends.config.configured import Configured
from dstack_jupyter.backends.config.file import ENV_NO_DEFAULT_CREDS, ServerConfig, load_config, model_of
from dstack_jupyter.backends.registry import CONFIGS

KEY = "{type: api_key, api_key: canary-key-3141}"


def load(*entries: str, more: str = "") -> ServerConfig:
    backends = "".join(f"\n  - {entry}" for entry in entries)
    return load_config(f"projects:\n- name: main\n  backends:{backends or ' []'}\n{more}", file="config.yml")


def faults(found: ServerConfig) -> list[str]:
    told = [str(problem) for problem in found.problems]
    assert all(problem.line for problem in found.problems), told
    assert "canary" not in repr(found) + "".join(told)
    return told


def test_a_wrong_backend_takes_no_other_with_it() -> None:
    found = load(f"{{type: lambda, creds: {KEY}}}", "{type: vultr, creds: {type: api_key}}", f"{{type: runpod, creds: {KEY}}}")
    assert set(found.backends["main"]) == {"lambda", "runpod"}
    assert set(found.faulty["main"]) == {"vultr"}
    assert faults(found) == ["config.yml:5:19: projects.0.backends.1.creds.api_key: is missing"]


def test_every_fault_is_told_in_one_pass() -> None:
    text = """\
projects:
- name: main
  backend: []
  backends:
  - type: aws
    creds: {type: acces_key, access_key: a, secret_key: canary-1}
    vpc_nmae: x
  - type: azre
  - creds: {}
  - 12
  - type: gcp
    project_id: p
    creds: {type: service_account}
encryption:
  keys: [{type: aes, name: "a b", secret: canary-short}]
plugin: []
"""
    assert faults(load_config(text, file="c.yml")) == [
        "c.yml:3:3: projects.0.backend: unknown key (did you mean 'backends'?)",
        "c.yml:6:13: projects.0.backends.0.creds.type: expected one of access_key, default (did you mean 'access_key'?)",
        "c.yml:7:5: projects.0.backends.0.vpc_nmae: unknown key (did you mean 'vpc_name'?)",
        "c.yml:8:5: projects.0.backends.1.type: unknown backend (did you mean 'azure'?)",
        f"c.yml:9:5: projects.0.backends.2.type: is missing (one of {', '.join(CONFIGS)})",
        f"c.yml:10:5: projects.0.backends.3: expected a backend with its type (one of {', '.join(CONFIGS)})",
        "c.yml:13:5: projects.0.backends.4.creds: either filename or data is needed",
        "c.yml:15:22: encryption.keys.0.name: String should match pattern '^[A-Za-z0-9]+$'",
        "c.yml:15:35: encryption.keys.0.secret: expected 32 bytes in base64",
        "c.yml:16:1: plugin: unknown key (did you mean 'plugins'?)",
    ]


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("{type: aws, creds: {type: default}, vpc_name: a, vpc_ids: {}}", "only one of vpc_name and vpc_ids"),
        ("{type: aws, creds: {type: default}, default_vpcs: false}", "default_vpcs: false needs"),
        ("{type: aws, creds: {type: default}, os_images: {cpu: {name: a, owner: 12, user: b}}}", "os_images.cpu.owner"),
        ("{type: aws, creds: {type: default}, tags: {'a b': c}}", "tags"),
        ("{type: azure, tenant_id: a, subscription_id: b, creds: {type: default}, vpc_ids: {x: name}}", "vpc_ids.x"),
        ("{type: gcp, project_id: a, creds: {type: default}, tags: {Upper: c}}", "tag 'Upper' is not allowed here"),
        ("{type: gcp, project_id: a, creds: {type: default}, roce_vpcs: [a, b]}", "roce_vpcs"),
        ("{type: gcp, project_id: a, creds: {type: default}, subnetworks: {a: b}}", "subnetworks needs vpc_name"),
        ("{type: gcp, project_id: a, creds: {type: service_account, data: 'canary'}}", "the key is not JSON"),
        (
            "{type: oci, creds: {type: client, user: a, tenancy: b, fingerprint: c, region: d}}",
            "exactly one of key_file and key_content",
        ),
        ("{type: nebius, creds: {type: service_account, service_account_id: a}}", "public_key_id is missing"),
        ("{type: lium, creds: {type: api_key, api_key: ''}}", "is empty"),
        (f"{{type: cudo, creds: {KEY}}}", "project_id: is missing"),
        (f"{{type: hotaisle, creds: {KEY}}}", "team_handle: is missing"),
        ("{type: kubernetes, kubeconfig: {filename: ''}}", "either filename or data is needed"),
        ("{type: slurm, clusters: []}", "clusters"),
    ],
)
def test_each_rule_of_each_backend(entry: str, fault: str) -> None:
    found = load(entry)
    assert any(fault in told for told in faults(found)), faults(found)
    assert not found.backends["main"]


def test_one_backend_of_a_type_a_project() -> None:
    entry = "{type: datacrunch, creds: {type: api_key, client_id: a, client_secret: canary-1}}"
    assert "a second verda backend" in faults(load(entry, entry.replace("datacrunch", "verda")))[0]


def test_an_entry_alone_is_a_configuration_too() -> None:
    assert set(load_config(f"type: vastai\ncreds: {KEY}\n").backends["main"]) == {"vastai"}


def test_default_credentials_can_be_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not load("{type: aws, creds: {type: default}}").problems
    monkeypatch.setenv(ENV_NO_DEFAULT_CREDS, "1")
    assert "default credentials are disabled here" in faults(load("{type: aws, creds: {type: default}}"))[0]


def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("canary-pem")
    path.chmod(0o644)
    entry = f"{{type: oci, creds: {{type: client, user: a, tenancy: b, fingerprint: c, region: d, key_file: {path}}}}}"
    assert "others can read this private key: chmod 600" in faults(load(entry))[0]
    path.chmod(0o600)
    found = load(entry)
    assert not found.problems
    assert found.backends["main"]["oci"].creds.key_content.reveal() == "canary-pem"  # type: ignore[attr-defined]


def test_a_file_may_be_empty_or_null_beside_its_content() -> None:
    for empty in ("''", "null"):
        data = json.dumps({"client_email": "a@b", "private_key": "canary"})
        assert not load(
            f"{{type: gcp, project_id: p, creds: {{type: service_account, filename: {empty}, data: '{data}'}}}}"
        ).problems


def test_the_nebius_cli_s_file_fills_all(tmp_path: Path) -> None:
    path = tmp_path / "sa.json"
    path.touch(0o600)
    path.write_text(json.dumps({"subject-credentials": {"private-key": "canary-neb", "kid": "pk", "sub": "sa"}}))
    entry = f"{{type: nebius, creds: {{type: service_account, filename: {path}}}}}"
    found = load(entry)
    creds = found.backends["main"]["nebius"].creds  # type: ignore[attr-defined]
    assert (creds.service_account_id, creds.public_key_id, creds.private_key_content.reveal()) == ("sa", "pk", "canary-neb")
    path.write_text("{}")
    assert "no credentials file of the nebius CLI" in faults(load(entry))[0]


def test_encryption_keys() -> None:
    secret = base64.b64encode(b"k" * 32).decode()
    assert not load(more=f"encryption:\n  keys: [{{type: aes, name: one, secret: {secret}}}, {{type: identity}}]\n").problems


def test_where_the_eras_differ_the_seed_s_default_is_noted() -> None:
    found = load(f"{{type: runpod, creds: {KEY}}}", "{type: gcp, project_id: p, creds: {type: default}}")
    assert "newer releases take false" in found.backends["main"]["runpod"].notes()[0]
    assert "TPUs are offered" in found.backends["main"]["gcp"].notes()[0]


@pytest.mark.parametrize("kind", CONFIGS)
def test_no_configuration_prints_its_secrets(kind: str) -> None:
    assert model_of(kind).model_config["hide_input_in_errors"]


def test_the_file_is_read_again_when_it_changes_and_a_broken_one_configures_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    found = Configured(path)
    assert (dict(found.backends()), found.warnings()) == ({}, [])
    path.write_text(f"projects:\n- name: lab\n  backends: [{{type: lambda, creds: {KEY}}}]\n")
    path.chmod(0o640)
    assert set(found.backends()) == {"lambda"}, "the only project is the one that is meant"
    assert "others can read" in found.warnings()[0]
    assert found.current() is found.current()
    path.write_text("projects: [")
    os.utime(path, ns=(1, 1))
    assert dict(found.backends()) == {}
    assert found.current().problems[0].line
    path.write_text(f"projects:\n- name: main\n  backends: [{{type: vultr, creds: {KEY}}}]\n- name: lab\n")
    assert set(found.backends()) == {"vultr"}
    assert dict(found.backends("lab")) == {}


def test_dstack_s_own_encryption_keys_are_said_to_be_its_own() -> None:
    from dstack_jupyter.backends.config.check import check

    text = "projects: [{name: main, backends: []}]\nencryption: {keys: [{type: identity}]}\n"
    assert "ours is always encrypted" in " ".join(check(text, file="config.yml").notes)
    assert not check("projects: [{name: main, backends: []}]\n", file="config.yml").notes
