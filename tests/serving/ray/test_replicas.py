"""What can be said of `lookaway serve --ray` without Ray."""

import sys

import pytest
from fastapi.testclient import TestClient
from served import tiny_app

from lookaway.cli.serve import Options, check_for_replicas, check_installed
from lookaway.core.errors import MissingDependency, SettingsError
from lookaway.serving.openai.limits import Limits
from lookaway.serving.ray.replicas import Replicas, without_metrics


def test_how_many():
    assert Replicas.parse("3") == Replicas(3, 3)
    assert Replicas.parse("1-4") == Replicas(1, 4)
    for wrong in ("", "0", "4-1", "-2", "two", "1-2-3"):
        with pytest.raises(SettingsError, match="--replicas takes"):
            Replicas.parse(wrong)


def test_a_replica_is_given_what_it_can_take_and_a_few_more_that_it_refuses_itself():
    limits = Limits(max_batch=4, max_waiting=10)
    assert Replicas(2, 2).settings(limits) == {"max_ongoing_requests": 22, "num_replicas": 2}
    scaled = Replicas(1, 4).settings(limits)
    assert scaled["autoscaling_config"] == {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 4}


def test_counters_of_one_replica_are_not_shown_as_those_of_all():
    app, _ = tiny_app()
    with TestClient(without_metrics(app)) as client:
        reply = client.get("/metrics")
        assert reply.status_code == 404
        assert "Replicas count for themselves" in reply.json()["error"]["message"]
        assert client.get("/health").status_code == 200


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    check_installed(with_ray=False)
    with pytest.raises(MissingDependency, match=r"lookaway\[ray\]"):
        check_installed(with_ray=True)


def test_one_numbered_gpu_is_refused():
    check_for_replicas(Options(device="cuda"))
    with pytest.raises(SettingsError, match="cuda:1 names one GPU"):
        check_for_replicas(Options(device="cuda:1"))
