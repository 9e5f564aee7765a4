"""Machines at AMD Developer Cloud: DigitalOcean's API at a host of its own, with sizes and images of its own.

Its host may have moved (a 301 to api.devcloud.amd.com was seen): nobody follows that with a key. What the user is told then
names the setting, ``DSTACK_JUPYTER_AMDDEVCLOUD_ENDPOINT``.
"""

from __future__ import annotations

from ..digitalocean.cloud import DigitalOceanCloud
from ..rest import endpoint
from ..vendor import Vendor
from .config import AMDDevCloudConfig


class AMDCloud(DigitalOceanCloud):
    def _console(self, number: int) -> str:
        return f"https://amd.digitalocean.com/droplets/{number}"


class AMDDevCloud(Vendor[AMDDevCloudConfig]):
    """``type: amddevcloud``."""

    name = "amddevcloud"
    config_type = AMDDevCloudConfig

    def endpoint(self) -> str:
        return endpoint(self.name, "https://api-amd.digitalocean.com")

    def connect(self, config: AMDDevCloudConfig, endpoint: str) -> AMDCloud:
        return AMDCloud(self.name, "AMD Developer Cloud", endpoint, config.creds.api_key, config.project_name)
