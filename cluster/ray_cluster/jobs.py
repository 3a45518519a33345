"""Jobs on a Ray cluster, through its job server: submit, follow, stop. Every failure is a `UserError` of one line."""

import asyncio
import contextlib
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from aiohttp import ClientError

from cluster.ray_cluster.address import WANTS_TOKEN, without_user
from cluster.ray_cluster.core_settings import require_core_settings
from cluster.ray_cluster.local import running_cluster
from resnet_dist.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

T = TypeVar("T")

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
PATIENCE = 120.0
"""Seconds for which a job server that was there and does not answer is asked again."""
REQUEST_SECONDS = (10.0, 60.0)
"""Seconds that a job server may take to accept a connection, and between two words of its answer."""

_OVERRIDES = "RAY_API_SERVER_ADDRESS"  # Ray lets it, and RAY_ADDRESS, win over the address that it is given

# Ray tells of every request and every upload, and advises on authentication at length.
_TALKATIVE = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
    "ray._private.authentication.authentication_token_setup",
)


@dataclass(frozen=True)
class JobState:
    """A job as the job server knows it."""

    job_id: str
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    entrypoint: str
    started: float | None
    """Seconds since 1970."""
    ended: float | None
    message: str

    @property
    def is_over(self) -> bool:
        """Whether it will not run any more."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


class NoAnswerError(UserError):
    """The job server cannot be reached at the moment, or something before it says so."""


def require_job_id(job_id: str) -> str:
    """The id, or a `UserError` if it is none: it stands in the job server's URLs, and in commands that users copy."""
    if not re.fullmatch(r"\w[\w .-]*", job_id):
        raise UserError(f"{job_id!r} is no job's id: it has letters, digits, '-', '_' and '.'; `job status` lists ids")
    return job_id


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str | None = None) -> None:
        """Connect to `address`, http://host:8265.

        Without it: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, the cluster that `cluster up` started here, or port 8265.
        """
        require_core_settings()
        started = running_cluster()
        given = address or os.environ.get(_OVERRIDES) or os.environ.get("RAY_ADDRESS") or "auto"
        given = given.strip().partition("#")[0]  # as it stands in a browser
        if given in ("auto", "local"):
            given = started.dashboard if started else DEFAULT_ADDRESS
        if started and given.rstrip("/") in (started.dashboard, started.address):
            given = started.dashboard
            started.use_token()
        if not given.startswith(("http://", "https://")):
            host = given.rpartition("://")[2].rpartition("@")[2].rpartition(":")[0] or "<head>"
            raise UserError(
                f"{given.rpartition('@')[2]}: is not the address of a job server; give --address http://{host}:8265 "
                "(its dashboard)"
            )
        if not _is_url(given):
            raise UserError(f"{given.rpartition('@')[2]}: is no URL of a server; give --address http://<head>:8265")
        self.address = given.rstrip("/")
        with self._one_line():
            self._client: JobSubmissionClient = self._connect()

    def submit(self, entrypoint: str, working_dir: str, variables: dict[str, str], job_id: str | None) -> str:
        """Upload a directory and start a command in it; returns the job's id."""
        environment: dict[str, Any] = {"working_dir": working_dir}
        if variables:
            environment["env_vars"] = variables
        job_id = job_id or f"resnet-dist-{secrets.token_hex(6)}"  # one that is known if the answer is lost
        try:
            with self._one_line(job_id):
                self._client.submit_job(entrypoint=entrypoint, runtime_env=environment, submission_id=job_id)
        except NoAnswerError:
            self.patiently(lambda: self.state(job_id))  # raises if it did not get there
        return job_id

    def state(self, job_id: str) -> JobState:
        """What is known of a job."""
        with self._one_line(job_id):
            return _state(self._client.get_job_info(job_id))

    def all(self) -> list[JobState]:
        """Every job that was submitted to this cluster, the newest first."""
        with self._one_line():
            details = [item for item in self._client.list_jobs() if item.submission_id]
        return sorted(map(_state, details), key=lambda job: job.started or 0, reverse=True)

    def logs(self, job_id: str) -> str:
        """What a job has printed so far."""
        with self._one_line(job_id):
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, write: Callable[[str], None], notice: Callable[[str], None]) -> JobState:
        """Pass on what a job prints, from its first line on, until it is over.

        `notice` is told, once, that the server does not answer, and that it does again. Raises a `NoAnswerError` that
        says how to look again if it is silent for too long.
        """
        written = 0

        def pass_on(text: str, begins: int) -> None:
            nonlocal written
            if begins + len(text) > written:
                write(text[max(0, written - begins) :])
                written = begins + len(text)

        async def tail() -> None:
            seen = 0  # a new connection begins at the start of the log
            async for text in self._client.tail_job_logs(job_id):
                pass_on(text, seen)
                seen += len(text)

        def catch_up() -> JobState:
            state = self.state(job_id)
            if not whole:  # the connection may have broken over the last words, or does not work here at all
                pass_on(self.logs(job_id), 0)
            return state

        self.state(job_id)  # refuses a job that is not there
        while True:
            whole = False
            with contextlib.suppress(RuntimeError, OSError, ClientError):
                asyncio.run(tail())
                whole = True
            state = self.patiently(catch_up, notice, f"job {job_id} goes on without being watched, and ")
            if state.is_over:
                return state
            time.sleep(1.0)

    def patiently(self, ask: Callable[[], T], notice: Callable[[str], None] = lambda _: None, meanwhile: str = "") -> T:
        """What `ask` returns, asked again for a while if the job server does not answer."""
        end = None
        while True:
            try:
                answer = ask()
            except NoAnswerError as error:
                if end is None:
                    end = time.monotonic() + PATIENCE
                    notice(
                        f"the job server at {without_user(self.address)} does not answer; {meanwhile}it is asked again"
                    )
                if time.monotonic() > end:
                    raise error
                time.sleep(1.0)
            else:
                if end is not None:
                    notice(f"the job server at {without_user(self.address)} answers again")
                return answer

    def stop(self, job_id: str) -> bool:
        """Ask a job to end. False if it was over already."""
        with self._one_line(job_id):
            return bool(self._client.stop_job(job_id))

    def _connect(self) -> "JobSubmissionClient":
        from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
        from ray.job_submission import JobSubmissionClient

        class Client(JobSubmissionClient):
            def _do_request(self, *args: Any, **options: Any) -> Any:
                return super()._do_request(*args, **{"timeout": REQUEST_SECONDS} | options)

        for name in _TALKATIVE:  # importing them has set their levels
            logging.getLogger(name).setLevel(logging.ERROR)
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        before = os.environ.get(_OVERRIDES)
        os.environ[_OVERRIDES] = str(self.address)
        try:
            return Client(self.address)
        finally:
            if before is None:
                del os.environ[_OVERRIDES]
            else:
                os.environ[_OVERRIDES] = before

    @contextlib.contextmanager
    def _one_line(self, job_id: str | None = None) -> Iterator[None]:
        """Turn what Ray raises into a `UserError` that says what to do; it never holds a token."""
        from ray.exceptions import AuthenticationError

        if job_id is not None:
            require_job_id(job_id)
        place = without_user(str(self.address))
        try:
            yield
        except AuthenticationError as error:
            if re.search(r"(Missing|Invalid) authentication token", error.message):
                raise UserError(f"the cluster at {place} {WANTS_TOKEN}") from None
            raise UserError(
                f"access to {place} is denied by something that is not Ray, such as a proxy or a login page; "
                f"{self._remedy(place)}"
            ) from None
        except OSError as error:  # requests' errors are among these
            raise NoAnswerError(_unanswered(error, place, self._remedy(place))) from None
        except (RuntimeError, ValueError) as error:
            if "does not exist" in str(error):
                raise UserError(f"there is no job {job_id} at {place}; `job status` lists those there are") from None
            if "already" in str(error) and job_id:
                raise UserError(f"there is a job {job_id} at {place} already; give another --id") from None
            first = " ".join(str(error).partition("<")[0].split())[:300].rstrip(": ")  # without pages for people
            if first.startswith("Version check returned"):
                raise UserError(f"what answers at {place} is no job server; {self._remedy(place)}") from None
            if re.search(r"status code 50[234]", first):  # of a proxy before it
                raise NoAnswerError(f"the job server at {place} cannot be reached: {first}; try again later") from None
            raise UserError(f"the job server at {place} refuses: {first}") from None

    def _remedy(self, place: str) -> str:
        parts = urlsplit(place)
        if path := parts.path.strip("/"):
            return f"give --address {parts.scheme}://{parts.netloc}, without /{path}, or the cluster's own"
        return "give --address http://<head>:8265"


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0  # or it raises
    except ValueError:
        return False


def _unanswered(error: OSError, place: str, remedy: str) -> str:
    """Why nothing of use came from a job server's address."""
    import requests

    cause = error.__context__ if isinstance(error.__context__, OSError) else error  # which Ray replaces
    if isinstance(cause, requests.exceptions.SSLError):
        return (
            f"no secure connection to {place}: is its certificate trusted here (REQUESTS_CA_BUNDLE), and does it speak "
            "https?"
        )
    if isinstance(cause, requests.exceptions.ProxyError):
        return f"the proxy to {place} cannot be reached, or refuses; check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
    status = getattr(getattr(cause, "response", None), "status_code", 0)
    if status >= 500:
        return f"what answers at {place} is out of order (status {status}); try again later"
    kinds = requests.exceptions.HTTPError, requests.exceptions.JSONDecodeError, requests.exceptions.TooManyRedirects
    if isinstance(cause, kinds):
        return f"what answers at {place} is no job server, but a login page or a proxy perhaps; {remedy}"
    return f"no job server answers at {place}; {remedy}, or start a cluster here with `cluster up`"


def _state(details: Any) -> JobState:
    return JobState(
        str(details.submission_id),
        str(getattr(details.status, "value", details.status)),
        str(details.entrypoint),
        details.start_time / 1000 if details.start_time else None,
        details.end_time / 1000 if details.end_time else None,
        " ".join((details.message or "").partition(", last available logs")[0].split()),  # `logs` has those
    )
