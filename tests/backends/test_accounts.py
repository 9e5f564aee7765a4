"""The account's side: no way to log in without its guide, policies that load and hold what the page holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from dstack_jupyter.backends import overview, registry
from dstack_jupyter.backends.config.account import account, wanted
from dstack_jupyter.backends.config.file import load_config, model_of
from dstack_jupyter.backends.config.saving import Form
from dstack_jupyter.backends.registry import CONFIGS
from dstack_jupyter.models.errors import NotFound
from tests.backends.test_page import PAGE

NAMES = [name for name in CONFIGS if name != "verda"]


@pytest.fixture(autouse=True)
def _nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_no_way_to_log_in_is_without_a_guide(name: str) -> None:
    variants = Form.of(name).variants
    assert set(variants) <= set(account(name).guides)
    for guide in account(name).guides.values():
        assert guide.steps
        assert all(len(step) < 200 and step.endswith((".", "`.")) for step in guide.steps)
        assert bool(guide.commands) == bool(guide.tool)
    assert "\n".join(overview.help_lines(name))


def test_every_name_of_the_registry_has_an_account() -> None:
    for name in registry.entries:
        assert account(name).guides
        assert overview.policy(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vultr", "Access Control"),
        ("nebius", "editors"),
        ("cudo", "project"),
        ("cloudrift", "project"),
        ("hotaisle", "Owner for the user"),
        ("hotaisle", "Operator for the team"),
        ("digitalocean", "ssh_key: create, read, update, delete"),
        ("amddevcloud", "droplet: create, read, update, delete, admin"),
        ("azure", "az role definition create"),
        ("gcp", "gcloud services enable"),
    ],
)
def test_help_says_what_is_easily_forgotten(name: str, said: str) -> None:
    assert said in "\n".join(overview.help_lines(name))


def test_aws_s_policy_loads_and_the_page_s_actions_are_in_it() -> None:
    policy = json.loads(overview.policy("aws"))
    actions = {action for statement in policy["Statement"] for action in statement["Action"]}
    sids = [statement["Sid"] for statement in policy["Statement"]]
    assert len(set(sids)) == len(sids)
    assert all(re.fullmatch(r"[A-Za-z0-9]+", sid) for sid in sids)
    marked = {action for s in policy["Statement"] if s["Sid"].startswith("NotOnThePage") for action in s["Action"]}
    assert {"ec2:AllocateAddress", "pricing:GetProducts"} <= marked
    if PAGE.exists():
        on_page = set(re.findall(r'"((?:ec2|servicequotas|elasticloadbalancing|acm|iam):\w+)"', PAGE.read_text()))
        assert on_page == actions - marked
        assert len(on_page) == 40


def test_azure_s_role_loads_and_narrows_with_the_configuration() -> None:
    role = json.loads(overview.policy("azure"))
    assert role["AssignableScopes"] == ["/subscriptions/<SUBSCRIPTION_ID>"]
    if PAGE.exists():
        assert set(re.findall(r'"(Microsoft\.[\w./*]+)"', PAGE.read_text())) <= set(role["Actions"])
    text = "type: azure\ntenant_id: t\nsubscription_id: s-1\nresource_group: mine\ncreds: {type: default}\n"
    config = load_config(text).backends["main"]["azure"]
    narrow = json.loads(overview.policy_of(account("azure"), config))
    assert narrow["AssignableScopes"] == ["/subscriptions/s-1"]
    assert "Microsoft.Resources/subscriptions/resourceGroups/write" not in narrow["Actions"]
    assert "Microsoft.ManagedIdentity/userAssignedIdentities/read" not in narrow["Actions"]


def test_gcp_s_role_loads_and_marks_what_the_page_lacks() -> None:
    text = overview.policy("gcp")
    granted = set(yaml.safe_load(text)["includedPermissions"])
    marked = set(re.findall(r"- (\S+)  # not on the backends page", text))
    assert {"compute.reservations.list", "compute.projects.get"} <= marked
    if PAGE.exists():
        assert set(re.findall(r"^((?:compute|tpu)\.\w+\.\w+)$", PAGE.read_text(), re.MULTILINE)) == granted - marked


def test_the_others_policies_load() -> None:
    documents = list(yaml.safe_load_all(overview.policy("kubernetes")))
    assert [document["kind"] for document in documents] == ["ServiceAccount", "ClusterRole", "ClusterRoleBinding"]
    statements = overview.policy("oci").splitlines()
    assert all(line.startswith("Allow group <GROUP> to ") for line in statements)
    if PAGE.exists():
        assert len(re.findall(r"^Allow group", PAGE.read_text(), re.MULTILINE)) == len(statements) - 1
    assert "droplet:admin" in overview.policy("digitalocean").splitlines()


def test_rights_are_unknown_or_not_needed_and_never_pretended(tmp_path: Path) -> None:
    path = tmp_path / ".dstack/server/config.yml"
    path.parent.mkdir(parents=True)
    path.write_text("projects:\n- name: main\n  backends:\n  - {type: aws, creds: {type: default}}\n")
    status = {right.permission: right.status for right in overview.rights("aws")}
    assert status["iam:PassRole"] == "not needed"
    assert status["ec2:RunInstances"] == "unknown"
    assert set(status.values()) == {"not needed", "unknown"}
    assert [right.status for right in overview.rights("local")] == ["granted", "granted"]
    assert overview.rights("ssh") == []
    with pytest.raises(NotFound, match="no backend"):
        overview.rights("awss")


def test_the_frame_has_a_row_for_each_backend(tmp_path: Path) -> None:
    path = tmp_path / ".dstack/server/config.yml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "projects:\n- name: main\n  backends:\n  - {type: aws, creds: {type: default}, regions: [us-east-1]}\n"
        "  - {type: crusoe, project_id: p, creds: {type: access_key, access_key: who, secret_key: canary-1}}\n  - {type: gcp}\n"
    )
    views = {view.backend: view for view in overview.views()}
    assert (views["aws"].configured, views["aws"].regions, views["aws"].status) == (True, ["us-east-1"], "not supported yet")
    assert views["crusoe"].identity == "access key who, project p"
    assert "project_id: is missing" in views["gcp"].last_error
    assert views["dstack"].status == "not available"
    assert (views["local"].status, views["local"].credentials, views["local"].permissions) == ("ready", "none needed", "complete")
    assert "canary" not in "".join(view.model_dump_json() for view in views.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_permission_has_a_purpose_and_is_there_once(name: str) -> None:
    names = [each.name for each in account(name).permissions]
    assert len(set(names)) == len(names)
    assert wanted(account(name), None) == account(name).permissions
    assert model_of(name)
