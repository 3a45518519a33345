"""The keys for S3: where they come from fails in one line that names it, and a run lives through it."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import CredentialRetrievalError

from cluster.storage import s3_keys
from cluster.storage.lease import Lease
from cluster.storage.s3 import S3Storage
from resnet_dist.errors import StorageError
from resnet_dist.storage.sending import SpooledStorage
from tests.s3_fixtures import ACCESS_KEY, SECRET_KEY, set_environment
from tests.s3_proxy import s3_proxy, self_signed

KEYS = {"Version": 1, "AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY}


ROLE = "role_arn = arn:aws:iam::123456789012:role/runs\n"
SSO = (
    "sso_session = office\nsso_account_id = 123456789012\nsso_role_name = runs\n[sso-session office]\n"
    "sso_start_url = https://office.example\nsso_region = us-east-1"
)


class Answering(BaseHTTPRequestHandler):
    """A store that takes everything, and a token service that answers as it is told."""

    refusal: tuple[int, str] | None = (403, "AccessDenied")
    expired: frozenset[str] = frozenset()
    """Access keys that the store says have expired."""

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, said = 200, b"<ListBucketResult></ListBucketResult>" if self.command == "GET" else b""
        if b"Action=AssumeRole" in body:
            status, code = self.refusal or (200, "")
            said = f"<ErrorResponse><Error><Code>{code}</Code></Error></ErrorResponse>".encode()
        elif any(f"Credential={key}/" in self.headers.get("Authorization", "") for key in self.expired):
            status, said = 400, b"<Error><Code>ExpiredToken</Code></Error>"
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_PUT = do_GET = do_POST = do_DELETE = answer  # noqa: N815 - names that http.server looks for

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Answering]]:
    """The environment of a user of such a store who has no keys yet."""
    handler = type("Told", (Answering,), {})
    monkeypatch.setattr("cluster.storage.s3.PATIENCE", 0.3)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        set_environment(f"http://127.0.0.1:{running.server_port}", monkeypatch, tmp_path)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("RESNET_DIST_STORAGE_TIMEOUT", "2")
        yield handler
        running.shutdown()


def by_command(directory: Path, printed: str, before: str = "") -> Path:
    """Let the default profile have its keys from a program that prints this."""
    program = directory / "helper"
    (directory / "printed").write_text(printed)
    program.write_text(f"#!/bin/sh\n{before}\ncat {directory / 'printed'}\n")
    program.chmod(0o755)
    (directory / "config").write_text(f"[default]\ncredential_process = {program}\n")
    return program


def failure() -> str:
    with pytest.raises(StorageError) as caught:
        S3Storage("s3://bucket/x").put("a", b"1")
    said = str(caught.value)
    assert "\n" not in said and ACCESS_KEY not in said and SECRET_KEY not in said and "s3:PutObject" not in said
    return said


@pytest.mark.parametrize(
    ("printed", "before", "said"),
    [
        ("<html>Please log in</html>", "", "prints something else than JSON"),
        ("[]", "", "prints something else than JSON"),
        ('{"Version": 1}', "", "prints JSON without keys in it"),
        ('{"Version": 2}', "", "fails"),
        ("", "exit 3", "fails"),
        (json.dumps(KEYS | {"Expiration": "2001-01-01T00:00:00Z"}), "", "gives keys that have expired already"),
    ],
)
def test_a_helper_program_that_gives_no_keys_is_named(
    printed: str, before: str, said: str, server: type[Answering], tmp_path: Path
) -> None:
    program = by_command(tmp_path, printed, before)
    assert f"cannot write s3://bucket/x/a: credential_process of profile default {said} ({program})" in failure()


def test_a_helper_program_that_waits_for_somebody_is_named(
    server: type[Answering], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.storage.s3.KEYS_SECONDS", 0.1)
    monkeypatch.setenv("RESNET_DIST_STORAGE_TIMEOUT", "0.1")
    os.mkfifo(tmp_path / "forever")
    program = by_command(tmp_path, "", f"read password < {tmp_path / 'forever'}")
    try:
        # A busy machine may end the question for keys before the program's own time is up.
        assert re.search(
            rf"credential_process of profile default \({program}\) prints nothing within 0 s; run it by|"
            "what gives profile default its keys does not answer within 0 s",
            failure(),
        )
    finally:
        os.close(os.open(tmp_path / "forever", os.O_RDWR))  # ends it


def test_a_helper_program_that_is_not_there_is_named(server: type[Answering], tmp_path: Path) -> None:
    program = by_command(tmp_path, "")
    program.unlink()
    assert f"cannot be started: {program}: No such file or directory; correct its path" in failure()


def use_web_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    token = tmp_path / "token"
    token.write_text("token")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/runs")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return token


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "AccessDenied", "does not let these credentials take the role"),
        (400, "ExpiredTokenException", "says that the token has expired: renew it"),
        (400, "InvalidIdentityToken", "says that the token is not valid"),
        (503, "Strange", "refuses (Strange, status 503)"),
    ],
)
def test_what_the_token_service_refuses_is_not_taken_for_the_stores_word(
    status: int, code: str, said: str, server: type[Answering], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_web_identity(tmp_path, monkeypatch)
    server.refusal = (status, code)
    assert f"the token service, asked for AWS_ROLE_ARN (AssumeRoleWithWebIdentity), {said}" in failure()


def test_so_with_a_profiles_role(server: type[Answering], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(
        "[profile lab]\nrole_arn = arn:aws:iam::123456789012:role/runs\nsource_profile = base\nregion = us-east-1\n"
        f"[profile base]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert "the token service, asked for role_arn of profile lab (AssumeRole), does not let these" in failure()


def test_a_token_service_that_is_not_there_is_named(
    server: type[Answering], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_web_identity(tmp_path, monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")
    assert "the token service at 127.0.0.1 cannot be reached for AWS_ROLE_ARN" in failure()


def test_a_token_file_that_is_not_there_is_named(
    server: type[Answering], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = use_web_identity(tmp_path, monkeypatch)
    token.unlink()
    assert f"the token file {token}, for AWS_ROLE_ARN, cannot be read: No such file" in failure()


def test_a_token_file_that_is_empty_is_named(
    server: type[Answering], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = use_web_identity(tmp_path, monkeypatch)
    token.write_text("")
    assert f"the token file {token}, for AWS_ROLE_ARN, holds no token" in failure()


def test_a_role_that_cannot_be_one_is_named(
    server: type[Answering], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_web_identity(tmp_path, monkeypatch)
    monkeypatch.setenv("AWS_ROLE_ARN", "runs")
    assert "AWS_ROLE_ARN is not a role's name, which begins with arn:aws:iam::" in failure()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "role_arn = r\nsource_profile = nobody",
            'The source_profile "nobody" referenced in the profile "lab" does not',
        ),
        ("role_arn = r\nsource_profile = lab2\n[profile lab2]\nrole_arn = r\nsource_profile = lab", "Infinite loop in"),
        (
            "role_arn = r\nsource_profile = lab\nmfa_serial = m",
            "mfa_serial asks for a code, which nobody types in a run",
        ),
        ("services = nothing", 'the "nothing" services configuration does not exist'),
        (f"{ROLE}credential_source = Ec2InstanceMetadata", "gives no keys: this machine is no instance of EC2 with"),
        (f"{ROLE}credential_source = EcsContainer", "gives no keys: this is no container of ECS or EKS with a role"),
        (f"{ROLE}credential_source = Environment", "gives no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (f"{ROLE}credential_source = Ec2", 'The credential source "Ec2" referenced in profile "lab" is not valid'),
        (SSO, "the session of profile lab is over; log in again: aws sso login"),
        (SSO.replace("[sso", "[other"), 'The specified sso-session does not exist: "office"'),
        ("region = us-east-1", "there are no credentials in profile lab; set AWS_ACCESS_KEY_ID"),
        ("aws_access_key_id =\naws_secret_access_key =", "there are no credentials in profile lab; set AWS_ACCESS"),
        ("aws_access_key_id = a", "aws_secret_access_key is missing beside the others in profile lab; set it"),
        ("credential_process =", "credential_process of profile lab is empty; name a program"),
        ("credential_process = 'helper", "credential_process of profile lab has a quotation mark that is not closed"),
    ],
)
def test_a_profile_that_cannot_be_used_says_why_and_nothing_is_asked_at_the_terminal(
    lines: str, said: str, server: type[Answering], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    (tmp_path / "config").write_text(f"[profile lab]\n{lines}\n")
    if "services" in lines:
        by_environment = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        with (tmp_path / "no-credentials").open("w") as file:
            file.write("[lab]\n" + "".join(f"{name.lower()} = {value}\n" for name, value in by_environment.items()))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert said in failure()


def test_a_container_whose_service_of_keys_is_away_is_named(
    server: type[Answering], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://example.com/keys")  # not one of this machine
    assert "the service that AWS_CONTAINER_CREDENTIALS_FULL_URI names gives no credentials" in failure()


def test_a_machine_whose_keys_cannot_be_renewed_is_told_by_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    def credentials() -> None:
        raise CredentialRetrievalError(provider="iam-role", error_msg="Credential refresh failed")

    session = botocore.session.get_session()
    monkeypatch.setattr(session, "get_credentials", credentials)
    with pytest.raises(s3_keys.KeysError, match=r"gives this machine its keys \(iam-role\) does not answer as it did"):
        s3_keys.current_keys(session)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": ACCESS_KEY + "\n"}, "AWS_ACCESS_KEY_ID has a space, a line break or a quotation mark"),
        ({"AWS_SECRET_ACCESS_KEY": SECRET_KEY + "\n"}, "AWS_SECRET_ACCESS_KEY has a space, a line break"),
        ({"AWS_SESSION_TOKEN": "token\r"}, "AWS_SESSION_TOKEN has a space, a line break"),
        ({"AWS_ACCESS_KEY_ID": f'"{ACCESS_KEY}"'}, "AWS_ACCESS_KEY_ID has a space, a line break or a quotation mark"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "AWS_SECRET_ACCESS_KEY is missing beside the others"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "there are no credentials here; set AWS_ACCESS"),
        (
            {"AWS_PROFILE": "nobody"},
            "the profile that AWS_PROFILE names does not exist ('nobody'); correct it; there are: none",
        ),
        ({"AWS_CA_BUNDLE": "/no/such"}, "AWS_CA_BUNDLE, or ca_bundle of the profile: /no/such cannot be read: No such"),
        ({"AWS_CA_BUNDLE": __file__}, f"{__file__} holds no certificate in PEM"),
        ({"AWS_CONFIG_FILE": __file__}, f"{__file__} cannot be read as profiles; correct it"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9 "},
            "AWS_ENDPOINT_URL is 'http://127.0.0.1:9 ', and that is no URL of a server",
        ),
        ({"HTTP_PROXY": "no-proxy:99999"}, "the proxy's address is malformed: HTTP_PROXY is 'no-proxy:99999'"),
        ({"AWS_DEFAULTS_MODE": "strange"}, "the configuration is not valid: Client configured with invalid defaults"),
    ],
)
def test_the_variable_that_is_wrong_is_named(
    settings: dict[str, str], said: str, server: type[Answering], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    for name, value in (good | settings).items():
        monkeypatch.setenv(name, value)
    assert said in failure()


EMPTY = (
    *("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE"),
    *("AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"),
    *("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"),
    *("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"),
    *("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"),
)


def test_an_empty_variable_is_an_unset_one(server: type[Answering], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    for name in EMPTY:
        monkeypatch.setenv(name, "")
    storage = S3Storage("s3://bucket/x")
    storage.put("a", b"1")
    assert storage.client().meta.region_name == "us-east-1"


def test_an_empty_bundle_of_authorities_is_none_and_certificates_are_looked_at(
    server: type[Answering], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_command(tmp_path, json.dumps(KEYS))
    with (tmp_path / "config").open("a") as file:
        file.write("ca_bundle =\n")
    monkeypatch.setenv("AWS_CA_BUNDLE", "")
    with s3_proxy(os.environ["AWS_ENDPOINT_URL"], self_signed(tmp_path / "own.pem")) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert "its certificate is not trusted" in failure()
        assert not proxy.requests


def test_a_run_goes_on_while_there_are_no_keys_and_sends_all_of_it_later(
    server: type[Answering], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_dist.storage.sending.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("resnet_dist.storage.sending.LONGEST_PAUSE", 0.01)
    program = by_command(tmp_path, json.dumps(KEYS | {"Expiration": "2101-01-01T00:00:00Z"}))
    storage = S3Storage("s3://bucket/x")
    with SpooledStorage(storage, "grid", "trial") as spooled:
        storage._forget(None)  # as at the end of the keys' time
        program.rename(tmp_path / "away")
        for number in range(3):
            spooled.put(f"grid/trials/trial/{number}", b"1")
        wait_until(lambda: "credential_process of profile default cannot be started" in spooled.trouble)
        (tmp_path / "printed").write_text("<html>Please log in</html>")
        (tmp_path / "away").rename(program)
        wait_until(lambda: "something else than JSON" in spooled.trouble)
        (tmp_path / "printed").write_text(json.dumps(KEYS))
    spooled.require_complete("the run")
    assert storage.counts.totals().requests["PutObject"] == 3


def test_a_lease_lives_through_a_time_without_keys(server: type[Answering], tmp_path: Path) -> None:
    program = by_command(tmp_path, json.dumps(KEYS))
    storage = S3Storage("s3://bucket/x")
    storage.put("a", b"1")
    lease = Lease(storage, "grid", duration=30.0)
    lease.generation, lease._renewed = 1, time.monotonic()
    lease.renew = renewed = Renewals(lease.renew)  # type: ignore[method-assign]
    storage._forget(None)
    program.rename(tmp_path / "away")
    lease.renew_in_background()
    wait_until(lambda: "StorageError" in renewed.outcomes)
    (tmp_path / "away").rename(program)
    wait_until(lambda: renewed.outcomes[-1:] == ["renewed"])
    assert not lease.lost and all(thread.is_alive() for thread in lease._threads)
    lease._stop.set()


class Renewals:
    """What came of each renewal."""

    def __init__(self, renew: Any) -> None:
        self.renew = renew
        self.outcomes: list[str] = []

    def __call__(self) -> None:
        try:
            self.renew()
        except Exception as error:
            self.outcomes.append(type(error).__name__)
            raise
        self.outcomes.append("renewed")


def test_keys_that_are_replaced_in_their_file_are_used_once_the_old_ones_are_refused(
    server: type[Answering], tmp_path: Path
) -> None:
    for number in (1, 2):
        (tmp_path / f"keys-{number}").write_text(
            f"[default]\naws_access_key_id = AKIANUMBER{number}\naws_secret_access_key = {SECRET_KEY}\n"
        )
    (tmp_path / "keys-1").rename(tmp_path / "no-credentials")  # the file that the environment names
    storage = S3Storage("s3://bucket/x", timeout=60)
    storage.put("a", b"1")
    server.expired = frozenset({"AKIANUMBER1"})
    with pytest.raises(StorageError, match="the session token has expired; renew the credentials"):
        storage.put("a", b"2")
    (tmp_path / "keys-2").rename(tmp_path / "no-credentials")
    storage.put("a", b"3")


def test_no_traceback_of_botocores_reaches_the_terminal(server: type[Answering], tmp_path: Path) -> None:
    """It logs them when keys cannot be renewed that are still good for a while."""
    soon = f"{datetime.now(UTC) + timedelta(minutes=12):%Y-%m-%dT%H:%M:%SZ}"
    by_command(
        tmp_path, json.dumps(KEYS | {"Expiration": soon}), f"[ -e {tmp_path}/once ] && exit 1; touch {tmp_path}/once"
    )
    code = (
        "from resnet_dist import logs; logs.configure(); from cluster.storage.s3 import S3Storage;"
        "s = S3Storage('s3://bucket/x'); s.put('a', b'1'); s.put('a', b'2'); print('written')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("written\n", "")


def wait_until(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
