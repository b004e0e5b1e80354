"""What must never be shown: passwords, tokens and signatures inside URLs and messages."""

import re
from urllib.parse import urlsplit

# Parameters that let whoever knows them in: of signed URLs, upload sessions and OAuth.
_PARAMETERS = (
    "x-goog-signature|x-goog-credential|x-amz-signature|x-amz-credential|x-amz-security-token|"
    "signature|googleaccessid|awsaccesskeyid|sig|upload_id|access_token|refresh_token|id_token|"
    "token|api_?key|key|client_secret|secret|password|assertion"
)
_PARAMETER = re.compile(rf"(?i)([?&;](?:{_PARAMETERS})=)[^&\s'\"<>)]+")
_USER = re.compile(r"(://)[^/?#\s@]*(?::[^/?#\s]*)?@")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}|\bya29\.[\w.-]+|\beyJ[\w-]+\.[\w.-]+")
_HIDDEN = "***"
NO_SECRETS = (
    "a password or key in the URL would be kept in records and logs; take it out and give it by "
    "the environment, as the tools of that service read it"
)


def holds_secret(url: str) -> bool:
    """Whether a URL has a password or a parameter that lets people in."""
    if "://" not in url:
        return False
    return ":" in urlsplit(url).netloc.rpartition("@")[0] or bool(_PARAMETER.search(url))


def without_secrets(text: str) -> str:
    """A text with every user, password, token and signature blotted out."""
    text = _USER.sub(r"\1", _PARAMETER.sub(rf"\1{_HIDDEN}", text))
    return _BEARER.sub(_HIDDEN, text)
