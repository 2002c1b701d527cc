import pytest
from made_up_run import write_made_up_run


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    return write_made_up_run(tmp_path_factory.mktemp("records") / "records.jsonl")
