from tests.clouds.fixtures import make_site, site  # noqa: F401
