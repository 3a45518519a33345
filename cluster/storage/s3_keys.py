"""The keys that boto3 finds for S3; where there are none, which variable, file, command or service is at fault.

They are asked for before each request, apart from it: so a failure to get them is never taken for one of the store.
"""

import configparser
import functools
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore import exceptions as boto
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cluster.storage.s3_errors import SET_KEYS, code_of, status_of

PATIENCE = 5.0
"""Seconds for which keys are asked for again where they may be had later: while a helper program is replaced, say."""

_LASTING = (
    *(boto.PartialCredentialsError, boto.ProfileNotFound, boto.InvalidConfigError, boto.ConfigParseError),
    *(boto.ConfigNotFound, boto.InfiniteLoopConfigError, boto.RefreshWithMFAUnsupportedError),
    *(configparser.Error, UnicodeError),
)
"""Errors that are of the configuration."""

_CONTAINER = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")

_VARIABLES = {"access_key": "AWS_ACCESS_KEY_ID", "secret_key": "AWS_SECRET_ACCESS_KEY", "token": "AWS_SESSION_TOKEN"}

_TOKEN_SERVICE: Mapping[str, str] = {
    "AccessDenied": "does not let these credentials take the role: correct the role, or who it trusts",
    "ExpiredTokenException": "says that the token has expired: renew it",
    "ExpiredToken": "says that the token has expired: renew it",
    "InvalidIdentityToken": "says that the token is not valid: renew it",
    "InvalidClientTokenId": "does not know the access key with which it is asked: correct that",
    "UnrecognizedClientException": "does not know the access key with which it is asked: correct that",
    "SignatureDoesNotMatch": "says that the secret key is not the access key's: correct it",
    "MalformedPolicyDocument": "refuses the role: correct it",
    "ValidationError": "refuses the role's name: correct it",
}
"""What it says, by its error code."""

_SOURCES: Mapping[str, str] = {
    "Ec2InstanceMetadata": "this machine is no instance of EC2 with a role, or its metadata service is not to be "
    "reached; take another source",
    "EcsContainer": "this is no container of ECS or EKS with a role (AWS_CONTAINER_CREDENTIALS_… is not set); take "
    "another source",
    "Environment": SET_KEYS,
}
"""What is the matter where a `credential_source` gives no keys."""

_MOST_NAMED = 8

for _name in ("botocore", "boto3", "s3transfer", "urllib3"):
    # They log tracebacks of what they raise, or live with; what matters of it is said in a line of ours.
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(logging.CRITICAL)


class KeysError(Exception):
    """There are no keys. The text says why, and what to do."""

    def __init__(self, reason: str, can_pass: bool) -> None:
        super().__init__(reason)
        self.can_pass = can_pass


class Sessions(NamedTuple):
    """What finds keys, and what makes clients with them."""

    of_botocore: botocore.session.Session
    of_boto3: boto3.session.Session


def new_sessions(settings: Config) -> Sessions:
    """Those of the environment as it is now. `settings` are also the token service's. Raises a `KeysError`."""
    # An empty variable is an unset one. To botocore some are values: an empty AWS_PROFILE is a profile's name.
    for name in [name for name, value in os.environ.items() if name.startswith("AWS_") and not value.strip()]:
        del os.environ[name]
    session = botocore.session.get_session()
    try:
        session.register_component("data_loader", service_descriptions())
        session.set_default_client_config(settings)
        if region := os.environ.get("AWS_REGION"):  # which botocore does not read, and the token service needs one
            session.set_config_variable("region", region)
        return Sessions(session, boto3.session.Session(botocore_session=session))
    except Exception as error:
        raise KeysError(_reason(error, session), _can_pass(error)) from error


@functools.cache
def service_descriptions() -> Any:
    """botocore's reader of API descriptions, shared: reading S3's takes four fifths of the 0.2 s of a new client."""
    return botocore.session.get_session().get_component("data_loader")


def current_keys(session: botocore.session.Session) -> Any:
    """The keys (`access_key`, `secret_key`, `token`), renewed if it is time. Raises a `KeysError`."""
    try:
        session.get_scoped_config()  # which says whether there is such a profile
        _refuse_questions(session)
        credentials = session.get_credentials()
        keys = credentials.get_frozen_credentials() if credentials else None
    except Exception as error:
        raise KeysError(_reason(error, session), _can_pass(error)) from error
    if credentials is None or keys is None or not (keys.access_key and keys.secret_key):
        where = f"in profile {session.profile}" if session.profile else "here"
        raise KeysError(f"there are no credentials {where}; {SET_KEYS}", can_pass=False)
    for name, variable in _VARIABLES.items():
        value = getattr(keys, name) or ""
        if any(character.isspace() or not character.isprintable() for character in value) or value[:1] in ("'", '"'):
            source = variable if credentials.method == "env" else f"{name} from {credentials.method}"
            raise KeysError(f"{source} has a space, a line break or a quotation mark in it; remove that", False)
    return keys


def _refuse_questions(session: botocore.session.Session) -> None:
    _, settings = _profile(session)
    if "mfa_serial" in settings and not os.environ.get("AWS_ACCESS_KEY_ID"):
        raise boto.InvalidConfigError(
            error_msg="mfa_serial asks for a code, which nobody types in a run: get keys for a session first (aws sts "
            "get-session-token), and put them into the environment"
        )


def _can_pass(error: Exception) -> bool:
    if isinstance(error, ClientError):
        return status_of(error) in (0, 408, 429) or status_of(error) >= 500 or code_of(error).startswith("Throttl")
    return not isinstance(error, _LASTING)


def unanswered(sessions: Sessions | None, seconds: float) -> str:
    """Why there are no keys, where nothing has come of asking for them."""
    profile, settings = _profile(sessions.of_botocore) if sessions else ("default", {})
    if (command := settings.get("credential_process", "")).strip():
        source = f"credential_process of profile {profile} ({command.split()[0]})"
        return f"{source} prints nothing within {seconds:.0f} s; run it by itself and see what it waits for"
    return f"what gives profile {profile} its keys does not answer within {seconds:.0f} s; have that looked at"


def _reason(error: Exception, session: botocore.session.Session) -> str:
    profile, settings = _profile(session)
    named = f"profile {profile}"
    role = f"role_arn of {named}" if "role_arn" in settings else "AWS_ROLE_ARN"
    if isinstance(error, boto.ProfileNotFound):
        there = ", ".join(session.available_profiles[:_MOST_NAMED]) or "none"
        return f"the profile that AWS_PROFILE names does not exist ({profile!r}); correct it; there are: {there}"
    if isinstance(error, boto.PartialCredentialsError):
        missing, place = error.kwargs.get("cred_var", "a key"), "" if "AWS_" in str(error) else f" in {named}"
        return f"{missing} is missing beside the others{place}; set it, or unset them"
    if isinstance(error, (boto.ConfigParseError, boto.ConfigNotFound)):
        return f"{error.kwargs.get('path', 'a file of the configuration')} cannot be read as profiles; correct it"
    if isinstance(error, boto.InvalidConfigError):
        said = _line(error.kwargs.get("error_msg") or error)
        return f"the configuration of {named} is not valid: {said}; correct it"
    if isinstance(error, (configparser.Error, UnicodeError)):
        places = [session.get_config_variable(name) for name in ("config_file", "credentials_file")]
        return f"{' or '.join(map(str, places))} is not a file of profiles ({type(error).__name__}); correct it"
    if uri := next((name for name in _CONTAINER if name in os.environ and not settings), ""):
        return f"the service that {uri} names gives no credentials ({type(error).__name__}); correct it"
    if isinstance(error, ClientError):
        said = _TOKEN_SERVICE.get(code_of(error), f"refuses ({code_of(error)}, status {status_of(error)})")
        return f"the token service, asked for {role} ({error.operation_name}), {said}"
    if isinstance(error, BotoCoreError) and (url := error.kwargs.get("endpoint_url")):
        return (
            f"the token service at {urlsplit(url).hostname} cannot be reached for {role} ({type(error).__name__}); "
            "check AWS_ENDPOINT_URL_STS, AWS_REGION and AWS_CA_BUNDLE"
        )
    if isinstance(error, OSError) and (token := _token_file(settings)) and str(error.filename) == token:
        return f"the token file {token}, for {role}, cannot be read: {error.strerror}; put it there"
    if isinstance(error, boto.ParamValidationError):
        if "WebIdentityToken" in str(error) and (token := _token_file(settings)):
            return f"the token file {token}, for {role}, holds no token; have it written anew"
        return f"{role} is not a role's name, which begins with arn:aws:iam::; correct it"
    if "credential_process" in settings:
        return f"credential_process of {named} {_fault_of_command(error, settings['credential_process'])}"
    if isinstance(error, boto.CredentialRetrievalError) and (source := settings.get("credential_source")):
        return f"credential_source = {source} of {named} gives no keys: {_SOURCES.get(source, 'correct it')}"
    if isinstance(error, (boto.SSOError, boto.TokenRetrievalError, boto.UnauthorizedSSOTokenError)):
        return f"the session of {named} is over; log in again: aws sso login"
    if isinstance(error, boto.CredentialRetrievalError):
        return (
            f"the service that gives this machine its keys ({error.kwargs.get('provider')}) does not answer as it did; "
            "have that looked at"
        )
    if isinstance(error, boto.NoRegionError):
        return f"the token service's region is not known, for {role}; set AWS_DEFAULT_REGION"
    said = _line(error) if isinstance(error, boto.MissingDependencyException) else type(error).__name__
    return f"the credentials of {named} cannot be had ({said}); check the AWS_* settings"


def _fault_of_command(error: Exception, command: str) -> str:
    """What is wrong with a program that is to print keys; what it prints is left out, since it may be a secret."""
    if not command.strip():
        return "is empty; name a program, or take the line out"
    program = command.split()[0]
    if "closing quotation" in str(error):
        return f"has a quotation mark that is not closed ({program}); correct it"
    if isinstance(error, OSError):
        return f"cannot be started: {program}: {error.strerror}; correct its path"
    if isinstance(error, boto.CredentialRetrievalError) and "Missing required key" in str(error):
        return f"prints JSON without keys in it ({program}); run it by itself and see what it says"
    if isinstance(error, boto.CredentialRetrievalError):
        return f"fails ({program}); run it by itself and see what it says"
    if isinstance(error, RuntimeError):
        return f"gives keys that have expired already ({program}); have it renew them"
    return f"prints something else than JSON ({program}), a login page perhaps; run it by itself and see what it says"


def _profile(session: botocore.session.Session) -> tuple[str, Mapping[str, Any]]:
    """The profile's name, and its settings together with those of the profiles that it builds on."""
    name = session.profile or "default"
    try:
        profiles = session.full_config.get("profiles", {})
    except (BotoCoreError, configparser.Error, UnicodeError):
        return name, {}
    return name, {key: value for one in reversed(list(_chain(name, profiles))) for key, value in one.items()}


def _chain(name: str, profiles: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    seen: set[str] = set()
    while name in profiles and name not in seen:
        seen.add(name)
        yield profiles[name]
        name = profiles[name].get("source_profile", "")


def _token_file(settings: Mapping[str, Any]) -> str:
    return str(os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") or settings.get("web_identity_token_file") or "")


def _line(text: object) -> str:
    return " ".join(str(text).split())[:200].rstrip(".")
