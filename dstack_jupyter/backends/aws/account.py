"""AWS: two ways to log in, and the policy with the page's gaps closed."""

from __future__ import annotations

import json
from typing import Any

from ..config.account import Account, Guide, Permission, permissions
from ..config.base import BackendConfig


def _profile(config: BackendConfig) -> bool:
    return bool(getattr(config, "iam_instance_profile", None))


EC2 = """
ec2:AttachVolume ec2:AuthorizeSecurityGroupEgress ec2:AuthorizeSecurityGroupIngress ec2:CreatePlacementGroup
ec2:CancelSpotInstanceRequests ec2:CreateSecurityGroup ec2:CreateTags ec2:CreateVolume ec2:DeletePlacementGroup
ec2:DeleteVolume ec2:DescribeAvailabilityZones ec2:DescribeCapacityReservations ec2:DescribeImages ec2:DescribeInstances
ec2:DescribeInstanceAttribute ec2:DescribeInstanceTypes ec2:DescribeRouteTables ec2:DescribeSecurityGroups
ec2:DescribeSubnets ec2:DescribeVpcs ec2:DescribeVolumes ec2:DetachVolume ec2:RunInstances ec2:TerminateInstances
"""
GATEWAY = """
elasticloadbalancing:CreateLoadBalancer elasticloadbalancing:CreateTargetGroup elasticloadbalancing:CreateListener
elasticloadbalancing:RegisterTargets elasticloadbalancing:AddTags elasticloadbalancing:DeleteLoadBalancer
elasticloadbalancing:DeleteTargetGroup elasticloadbalancing:DeleteListener elasticloadbalancing:DeregisterTargets
acm:DescribeCertificate acm:ListCertificates
"""
ADDRESSES = "ec2:AllocateAddress ec2:AssociateAddress ec2:DisassociateAddress ec2:ReleaseAddress ec2:DescribeAddresses"
VOLUMES = ("ec2:AttachVolume", "ec2:CreateVolume", "ec2:DeleteVolume", "ec2:DetachVolume")
SIDS = {
    "machines": "Machines",
    "volumes": "Volumes",
    "quotas": "Quotas",
    "gateways with ACM certificates": "GatewaysWithACM",
    "iam_instance_profile": "InstanceProfile",
    "machines with several network cards": "NotOnThePageAddresses",
    "live prices": "NotOnThePagePrices",
}


def policy(config: BackendConfig | None, granted: tuple[Permission, ...]) -> str:
    """The policy's JSON: a statement for each purpose, its Sid saying which, NotOnThePage… where the page lacks it."""
    groups: dict[str, list[str]] = {}
    for each in granted:
        groups.setdefault(each.purpose, []).append(each.name)
    statements: list[dict[str, Any]] = [
        {"Sid": SIDS[purpose], "Effect": "Allow", "Action": sorted(names), "Resource": "*"} for purpose, names in groups.items()
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=4)


ACCOUNT = Account(
    guides={
        "access_key": Guide(
            steps=(
                "In the IAM console make a user for this purpose, without access to the console itself.",
                "Attach the policy that `%dstack backends policy aws` prints to that user.",
                "In the user's Security credentials make an access key for use outside AWS; its secret is shown this one time.",
                "Enter both halves with `%dstack configure aws`: neither belongs into a cell.",
            ),
            commands=(
                "aws iam create-user --user-name dstack-jupyter",
                "aws iam put-user-policy --user-name dstack-jupyter --policy-name dstack-jupyter"
                " --policy-document file://policy.json",
                "aws iam create-access-key --user-name dstack-jupyter",
            ),
            tool="aws",
        ),
        "default": Guide(
            steps=(
                "Log in as you do for AWS's own tools: an SSO session, a profile, variables, or a role of this machine.",
                "Give that identity the policy that `%dstack backends policy aws` prints.",
                "A profile other than the default one is chosen with AWS_PROFILE where the engine starts.",
            ),
            commands=("aws configure sso", "aws sts get-caller-identity"),
            tool="aws",
        ),
    },
    permissions=(
        *(Permission(name, *(("feature", "volumes") if name in VOLUMES else ())) for name in EC2.split()),
        *permissions("servicequotas:ListServiceQuotas servicequotas:GetServiceQuota", purpose="quotas"),
        *permissions(GATEWAY, "feature", "gateways with ACM certificates"),
        *permissions("iam:GetInstanceProfile iam:GetRole iam:PassRole", "feature", "iam_instance_profile", needed=_profile),
        *permissions(ADDRESSES, "feature", "machines with several network cards", page=False),
        *permissions("pricing:GetProducts ec2:DescribeSpotPriceHistory", "improves", "live prices", page=False),
    ),
    policy=policy,
    more=(
        "New accounts have a quota of 0 vCPUs for GPU families: ask for more under Service Quotas, EC2, 'Running On-Demand …'.",
        "Regions that are opt-in must be enabled for the account first.",
        "The page's policy lacks a comma after ec2:DescribeCapacityReservations and cannot be loaded as printed; this one can.",
    ),
)
