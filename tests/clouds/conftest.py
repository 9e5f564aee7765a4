from tests.clouds.fixtures import make_site, site  # noqa: F401
from tests.hosts.fixtures import image_folder  # noqa: F401
