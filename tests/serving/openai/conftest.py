"""What tests of the server in this process share."""

import pytest


@pytest.fixture(scope="module")
def client():
    """A client of a tiny model with the small limits of `served.SMALL`; a module's tests share it."""
    from served import tiny_app
    from starlette.testclient import TestClient

    app, _ = tiny_app()
    with TestClient(app) as made:
        yield made
