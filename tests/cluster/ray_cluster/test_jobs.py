"""Following a job's log, whose connection may break as often as it likes while the job has something to say."""

from collections.abc import AsyncIterator

import pytest

from cluster.ray_cluster.jobs import RECONNECTS, Jobs, JobState
from resnet_dist.errors import UserError


class BreakingConnection:
    """Ray's client: each connection sends the log from its beginning, a word more than the last, and breaks."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.connections = 0

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        self.connections += 1
        for word in self.words[: self.connections]:
            yield word
        raise RuntimeError("the connection is lost")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> BreakingConnection:
    client = BreakingConnection([f"word {number}\n" for number in range(3 * RECONNECTS)])

    def state(_: Jobs, job_id: str) -> JobState:
        over = client.connections > len(client.words)
        return JobState(job_id, "SUCCEEDED" if over else "RUNNING", "grid run", 0.0, None, "")

    def connect(_: Jobs) -> BreakingConnection:
        return client

    monkeypatch.setattr(Jobs, "state", state)
    monkeypatch.setattr(Jobs, "_connect", connect)
    monkeypatch.setattr("cluster.ray_cluster.jobs.time.sleep", lambda _: None)
    return client


def test_a_log_is_followed_over_any_number_of_broken_connections(client: BreakingConnection) -> None:
    written: list[str] = []
    assert Jobs("http://127.0.0.1:8265").follow("job", written.append).status == "SUCCEEDED"
    assert written == client.words


def test_a_job_that_says_nothing_over_many_connections_is_given_up(client: BreakingConnection) -> None:
    client.words = ["the only word\n"]
    client.words += [""] * 3 * RECONNECTS
    with pytest.raises(UserError, match="its log cannot be followed; it goes on"):
        Jobs("http://127.0.0.1:8265").follow("job", lambda _: None)
    assert client.connections == 1 + RECONNECTS
