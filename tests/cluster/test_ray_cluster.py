"""The cluster that a command uses, without one: what is refused before Ray is asked."""

import pytest

from cluster.ray_cluster import connected
from resnet_dist.errors import UserError


def test_the_address_of_a_job_server_is_refused_where_ray_itself_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")  # as `cluster up` prints it for `ray job`
    said = "is the address of a job server; give this command to it with `resnet-dist submit"
    with pytest.raises(UserError, match=said), connected():
        pass
