"""Where Google's libraries get access tokens, for tests: OAuth's endpoint, the metadata server."""

import json
import uuid
from collections.abc import Mapping

_ACCOUNT = "/computeMetadata/v1/instance/service-accounts/"
PATHS = rf"/|/token|/computeMetadata/v1/project/project-id|{_ACCOUNT}[^/]+/(?:token)?"


def identity_reply(path: str) -> tuple[bytes, Mapping[str, str]]:
    """Body and headers for one of the paths; nobody checks who asks."""
    google = {"Metadata-Flavor": "Google", "Content-Type": "application/json"}
    if path.endswith("token"):
        token = f"ya29.{uuid.uuid4().hex}"
        doc = {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}
        return json.dumps(doc).encode(), google
    if path.startswith(_ACCOUNT):
        account = {"email": "retrain@project.iam.gserviceaccount.com", "scopes": [], "aliases": []}
        return json.dumps(account).encode(), google
    return b"project", {**google, "Content-Type": "text/plain"}
