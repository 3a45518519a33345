"""What looks like a credential, and so is never uploaded, shipped or recorded."""

import fnmatch
import re
from pathlib import PurePosixPath

# Names of files that hold credentials more often than code, in lower case.
_SECRET_NAMES = (
    *(".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.tfstate*"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".pgpass", ".npmrc", ".pypirc"),
    *(".htpasswd", ".git-credentials", ".dockerconfigjson", "kubeconfig*", "*.kubeconfig"),
    *("rclone.conf", ".s3cfg", ".boto"),
    *("credential", "credentials", "secret", "secrets", "*service-account*.json", "*service_account*.json"),
    *(
        f"*{word}*.{kind}"
        for word in ("credential", "secret")
        for kind in ("json", "y*ml", "toml", "ini", "csv", "txt")
    ),
)


_SECRET_FOLDERS = {".ssh", ".aws", ".gnupg", ".kube", ".docker"}


# What credentials look like. A harmless file that is left out costs a line in the record; a key in a bucket costs more.
_SECRET_TEXT = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY"
    rb"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    rb"|\b(?:gh[opsur]_|github_pat_|glpat-|hf_|xox[abpr]-|sk-)[A-Za-z0-9_-]{16,}"
    rb"|://[^/\s:@'\"{}]+:[^/\s@'\"{}]+@"
    rb"|(?i:secret|passw(?:or)?d|token|api_?key|access_?key)\w*[\"']?[ \t]*[:=][ \t]*[\"'][^\"'\s]{12,}[\"']"
    rb"|(?i:secret|passw(?:or)?d|token|api_?key|access_?key)\w*=[A-Za-z0-9/+_-]{16,}\s*$",
    re.MULTILINE,
)


def looks_like_a_credential(text: bytes) -> bool:
    """Whether a text holds what looks like a key, a token or a password."""
    return bool(_SECRET_TEXT.search(text))


def looks_secret(name: str) -> bool:
    """Whether a file's name is one for credentials."""
    *folders, file = PurePosixPath(name.lower()).parts
    return bool(_SECRET_FOLDERS.intersection(folders)) or any(fnmatch.fnmatchcase(file, p) for p in _SECRET_NAMES)
