"""Jobs on a stand-in of a job server: connections that break and answers that are lost end nothing but themselves."""

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.processes import Process, start_time
from cluster.ray_cluster import jobs as jobs_module
from cluster.ray_cluster.jobs import Jobs, NoAnswerError
from cluster.ray_cluster.local import LocalCluster
from resnet_dist.errors import UserError
from tests.cluster.ray_cluster.job_server import JobServer, job_server
from tune_jobs.command_line import main

pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated")  # Ray's client gives it


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JobServer]:
    """One with a job `j`, at the address that the environment names."""
    monkeypatch.setattr("cluster.ray_cluster.jobs.time.sleep", lambda _: threading.Event().wait(0.01))
    with job_server() as running:
        running.ids.add("j")
        monkeypatch.setenv("RAY_ADDRESS", running.url)
        monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
        yield running


class Following:
    """A command that follows the job in a thread, and what it has printed."""

    def __init__(self, server: JobServer, *command: str) -> None:
        self.server = server
        self.text = ""
        self.notices: list[str] = []
        self.status = ""
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            self.status = Jobs().follow("j", self._take, self._notice).status
        except UserError as error:
            self.status = str(error)

    def _take(self, text: str) -> None:
        with self._news:
            self.text += text
            self._news.notify_all()

    def _notice(self, line: str) -> None:
        with self._news:
            self.notices.append(line)
            self._news.notify_all()

    def wait(self, condition: Callable[[], object]) -> None:
        with self._news:
            assert self._news.wait_for(condition, 60), (self.text, self.notices, self.status)

    def end(self) -> str:
        self._thread.join(60)
        return self.status


def test_a_job_is_followed_over_any_number_of_broken_connections(server: JobServer) -> None:
    following = Following(server)
    for number in range(3):
        server.log += f"word {number}\n"
        following.wait(lambda: following.text == server.log)
        server.answers.clear()
        following.wait(lambda: len(following.notices) % 2 == 1)
        server.log += f"meanwhile {number}\n"
        server.answers.set()
        following.wait(lambda: following.text == server.log)
    server.log += "the last word\n"
    server.status = "SUCCEEDED"
    assert following.end() == "SUCCEEDED" and following.text == server.log
    lost, found = following.notices[:2]
    assert lost.endswith("does not answer; job j goes on without being watched, and it is asked again")
    assert found == f"the job server at {server.url} answers again"


def test_what_a_job_says_before_its_end_while_nobody_listens_is_printed(server: JobServer) -> None:
    following = Following(server)
    server.log = "begins\n"
    following.wait(lambda: following.text)
    server.answers.clear()
    following.wait(lambda: following.notices)
    server.log += "ends\n"
    server.status = "FAILED"
    server.answers.set()
    assert following.end() == "FAILED" and following.text == "begins\nends\n"


def test_a_log_is_followed_where_no_websocket_gets_through(server: JobServer) -> None:
    server.websockets = False
    following = Following(server)
    for number in range(20):
        server.log += f"word {number}\n"
        following.wait(lambda: following.text == server.log)
    server.status = "SUCCEEDED"
    assert following.end() == "SUCCEEDED" and not following.notices


def test_a_server_that_does_not_come_back_is_given_up_with_how_to_look_again(
    server: JobServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs_module, "PATIENCE", 0.1)

    class Screen(io.StringIO):
        def write(self, text: str) -> int:
            server.answers.clear()
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", screen := Screen())
    server.log = "a word\n"
    assert main(["job", "logs", "-f", "j"]) == 1
    assert screen.getvalue() == "a word\n"
    said = capsys.readouterr().err
    assert f"error: no job server answers at {server.url}; " in said
    assert "Job j goes on if its cluster does: look again with `" in said and "job logs -f j`" in said


@pytest.mark.parametrize("lost", ["POST stop", "GET j"])
def test_a_job_is_stopped_though_an_answer_is_lost(
    server: JobServer, lost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.loses.add(lost)
    assert main(["job", "stop", "j"]) == 0
    assert capsys.readouterr().out == "job j: STOPPED\n"


@pytest.mark.parametrize("job_id", ["", "a/b", "../j", "j?x", "j#x", "%6a", "-f"])
@pytest.mark.parametrize("command", [["job", "status"], ["job", "logs"], ["job", "stop"]])
def test_what_cannot_be_an_id_is_said_to_be_none(
    server: JobServer, command: list[str], job_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.requests.clear()
    assert main([*command, "--", job_id]) == 1
    assert f"{job_id!r} is no job's id" in capsys.readouterr().err
    assert all(request.startswith("GET /api/version") for request in server.requests), "no request about it was sent"


def test_an_id_that_no_job_can_have_is_refused_before_anything_is_uploaded(
    server: JobServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.requests.clear()
    assert main(["submit", "--id", "a/b", "--dry-run", "--", "grid", "run", "demo", "--storage", "s3://bucket/x"]) == 1
    assert "'a/b' is no job's id" in capsys.readouterr().err and server.requests == []


def test_commands_to_copy_hold_whatever_the_id_is(
    server: JobServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "code.py").write_text("")
    command = ["submit", "--id", "my job", "--no-wait", "--working-dir", str(tmp_path), "--", "grid", "run", "demo"]
    assert main([*command, "--storage", "s3://bucket/results"]) == 0
    assert "job logs -f 'my job'" in capsys.readouterr().out


def test_another_server_is_not_said_to_be_an_old_ray(server: JobServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["job", "status", "--address", f"{server.url}/elsewhere"]) == 1
    assert f"what answers at {server.url}/elsewhere is no job server" in capsys.readouterr().err


PAGE = "<html><body>Please sign in</body></html>"


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (401, "Unauthorized: Missing authentication token", "the cluster at URL wants a token that is not"),
        (403, "Forbidden: Invalid authentication token", "the cluster at URL wants a token that is not"),
        (403, PAGE, "access to URL is denied by something that is not Ray, such as a proxy"),
        (401, PAGE, "access to URL is denied by something that is not Ray, such as a proxy"),
        (200, PAGE, "what answers at URL is no job server, but a login page or a proxy perhaps; give --address"),
        (302, "", "what answers at URL is no job server, but a login page or a proxy perhaps; give --address"),
        (407, PAGE, "what answers at URL is no job server, but a login page or a proxy perhaps; give --address"),
        (404, PAGE, "what answers at URL is no job server; give --address"),
        (502, PAGE, "what answers at URL is out of order (status 502); try again later"),
    ],
)
def test_what_answers_instead_of_the_job_server_is_said(
    status: int, text: str, said: str, server: JobServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.before = (status, text)
    assert main(["job", "status", "--address", server.url]) == 1
    assert capsys.readouterr().err.startswith(f"error: {said.replace('URL', server.url)}")


def test_so_is_it_of_what_comes_later(server: JobServer) -> None:
    jobs = Jobs(server.url)
    server.before = (502, PAGE)
    with pytest.raises(NoAnswerError, match="cannot be reached: Request failed with status code 502; try again"):
        jobs.all()
    server.before = (500, PAGE)
    with pytest.raises(UserError, match=r"refuses: Request failed with status code 500$"):
        jobs.all()


@pytest.mark.parametrize("address", ["http://", "http://me:secret@[::1", "http://head:99999", "http://head:port"])
def test_an_address_that_is_no_url_is_said_to_be_none(address: str) -> None:
    with pytest.raises(UserError, match="is no URL of a server; give --address http://<head>:8265") as caught:
        Jobs(address)
    assert "secret" not in str(caught.value)


def test_an_address_as_it_stands_in_a_browser_is_taken(server: JobServer) -> None:
    server.ids.add("j")
    assert Jobs(f"{server.url}/#/jobs").state("j").job_id == "j"


def test_a_path_that_leads_to_no_job_server_is_named(server: JobServer) -> None:
    with pytest.raises(UserError, match=f"is no job server; give --address {server.url}, without /dash, or the"):
        Jobs(f"{server.url}/dash")


def test_a_submission_whose_answer_is_lost_is_followed(
    server: JobServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "code.py").write_text("")
    server.loses.add("POST jobs")
    server.log, server.status = "trained\n", "SUCCEEDED"
    command = ["submit", "--id", "mine", "--working-dir", str(tmp_path), "--", "grid", "run", "demo"]
    assert main([*command, "--storage", "s3://bucket/results"]) == 0
    assert "mine" in server.ids and "trained\n" in capsys.readouterr().out
    assert sum(request == "POST /api/jobs/" for request in server.requests) == 1


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("10.1.2.3:6379", "10.1.2.3:6379: is not the address of a job server; give --address http://10.1.2.3:8265"),
        ("ray://user:secret@head:10001", "head:10001: is not the address of a job server; give --address http://head:"),
    ],
)
def test_another_address_of_a_cluster_names_the_likely_one(
    address: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=said) as caught:
        Jobs()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["", "auto", "local", "127.0.0.1:6000", None])
def test_every_address_of_the_cluster_that_was_started_here_finds_its_jobs(
    address: str | None, server: JobServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alive = Process(os.getpid(), start_time(os.getpid()) or 0)
    started = LocalCluster(server.url, "127.0.0.1:6000", str(tmp_path), (alive,))
    monkeypatch.setattr(jobs_module, "running_cluster", lambda: started)
    monkeypatch.setattr(LocalCluster, "use_token", lambda _: None)
    if address is None:
        monkeypatch.delenv("RAY_ADDRESS")
    else:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert Jobs().state("j").status == "RUNNING"
