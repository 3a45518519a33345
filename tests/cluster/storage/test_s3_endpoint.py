"""Endpoints, regions and proxies that cannot be what they are to be: the setting is named with its value."""

from pathlib import Path

import pytest

from cluster.storage.s3 import S3Storage
from resnet_dist.errors import StorageError
from tests.s3_fixtures import set_environment

URL = "and that is no URL of a server; write http://host:port"


@pytest.mark.parametrize(
    ("config", "variables", "said"),
    [
        ("", {"AWS_ENDPOINT_URL": "minio:9000"}, f"AWS_ENDPOINT_URL is 'minio:9000', {URL}"),
        ("", {"AWS_ENDPOINT_URL_S3": "https//minio"}, f"AWS_ENDPOINT_URL_S3 is 'https//minio', {URL}"),
        ("", {"AWS_ENDPOINT_URL": "http://minio:99999"}, f"AWS_ENDPOINT_URL is 'http://minio:99999', {URL}"),
        ("", {"AWS_ENDPOINT_URL": "http://minio:9000 "}, f"AWS_ENDPOINT_URL is 'http://minio:9000 ', {URL}"),
        ("", {"AWS_ENDPOINT_URL": "http://me:secret@mi nio?key=secret"}, f"AWS_ENDPOINT_URL is '…@mi nio', {URL}"),
        ("", {"AWS_ENDPOINT_URL": "s3://minio"}, f"AWS_ENDPOINT_URL is 's3://minio', {URL}"),
        ("", {"AWS_REGION": "eu west"}, "AWS_REGION is 'eu west', and that is no region"),
        ("[default]\nregion = eu/west\n", {}, "region of profile default is 'eu/west', and that is no region"),
        ("[default]\nendpoint_url = minio\n", {}, f"endpoint_url of profile default is 'minio', {URL}"),
        (
            "[default]\nservices = lab\nendpoint_url = http://good\n[services lab]\ns3 =\n  endpoint_url = minio\n",
            {},
            f"endpoint_url of s3 in services lab is 'minio', {URL}",
        ),
        (
            "",
            {"AWS_ENDPOINT_URL": "http://minio", "HTTP_PROXY": "me:secret@proxy:99999"},
            "the proxy's address is malformed: HTTP_PROXY is '…@proxy:99999'; correct it",
        ),
        (
            "",
            {"AWS_ENDPOINT_URL": "http://minio", "HTTP_PROXY": "http://"},
            "the proxy's address is malformed: HTTP_PROXY is 'http://'; correct it",
        ),
    ],
)
def test_what_is_malformed_is_named_with_its_value_and_no_password(
    config: str, variables: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment("", monkeypatch, tmp_path)
    (tmp_path / "config").write_text(config)
    for name, value in {"AWS_CONFIG_FILE": str(tmp_path / "config"), **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError) as caught:
        S3Storage("s3://bucket").put("a", b"1")
    assert said in str(caught.value) and "secret" not in str(caught.value)


def test_an_endpoint_that_is_to_be_ignored_may_be_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment("nonsense", monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert S3Storage("s3://bucket").endpoint() == "https://s3.amazonaws.com"


def test_the_region_of_the_environment_goes_before_the_profiles_and_is_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment("http://minio", monkeypatch, tmp_path)
    (tmp_path / "config").write_text("[default]\nregion = us-west-2\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    storage = S3Storage("s3://bucket")
    assert storage.client().meta.region_name == "eu-central-1"
    assert storage._sessions().of_botocore.get_config_variable("region") == "eu-central-1"  # the token service's
