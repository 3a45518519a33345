"""Where the endpoint, the region and the proxy of S3 are named, and whether they can be what they are to be."""

import os
from typing import Any
from urllib.parse import urlsplit

import botocore.session

from resnet_dist.errors import StorageError

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")


def require_endpoint(session: botocore.session.Session) -> None:
    """Raise a `StorageError` that names the setting and its value if the endpoint is no URL of a server."""
    profile = session.get_scoped_config()
    section = profile.get("services", "")
    of_services = session.full_config.get("services", {}).get(section, {}).get("s3", {})
    named = (
        _named(f"endpoint_url of profile {session.profile or 'default'}", profile.get("endpoint_url"))
        | _named(f"endpoint_url of s3 in services {section}", of_services.get("endpoint_url"))
        | _environment(_ENDPOINT_VARIABLES)
    )
    if not named or session.get_config_variable("ignore_configured_endpoint_urls"):
        return
    source, value = list(named.items())[-1]
    try:
        parts = urlsplit(value)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0  # or it raises
    except ValueError:
        is_url = False
    if not is_url or any(character.isspace() for character in value):
        raise StorageError(
            f"{source} is {shown(value)}, and that is no URL of a server; write http://host:port or https://host:port"
        )


def malformed(session: botocore.session.Session) -> str:
    """What to say of an address that boto3 cannot make of endpoint and region."""
    of_profile = session.get_scoped_config().get("region")
    regions = _named(f"region of profile {session.profile or 'default'}", of_profile) | _environment(_REGION_VARIABLES)
    if not regions:
        return "the S3 endpoint is malformed; correct AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL"
    source, value = list(regions.items())[-1]
    return f"{source} is {value!r}, and that is no region; write one such as us-east-1"


def proxy_for(endpoint: str) -> str:
    """The variable that names the proxy for an endpoint, and its value."""
    name = f"{urlsplit(endpoint).scheme}_proxy"
    named = _environment((name, name.upper()))
    return ", ".join(f"{source} is {shown(value)}" for source, value in named.items()) or "set HTTPS_PROXY, HTTP_PROXY"


def shown(value: str) -> str:
    """A URL, or what was to be one, without what may be secret in it."""
    *hidden, rest = value.partition("?")[0].rpartition("@")
    return repr(f"…@{rest}" if hidden[1] else rest)


def _environment(names: tuple[str, ...]) -> dict[str, str]:
    """Those that are set; the first one, which goes before the others, comes last."""
    return {name: os.environ[name] for name in reversed(names) if os.environ.get(name)}


def _named(source: str, value: Any) -> dict[str, str]:
    return {source: str(value)} if value else {}
