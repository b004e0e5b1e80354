"""Credentials: found by the usual ways, told about in a sentence, and never shown."""

import json
import logging
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tasks.errors import StoreRefusedError, exit_code, explain_fault
from tasks.secrets import holds_secret, without_secrets
from tasks.settings import ConfigError, RetrainConfig
from tasks.store import open_store

ROOT = Path(__file__).parents[2]
# A program as the flow is one: everything is logged, to one place.
PROGRAM = """
import json, logging, os, sys, traceback
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
for name in ("tasks", "flows", "yolov5_core"):
    logging.getLogger(name).setLevel(logging.DEBUG)
import fsspec.config
fsspec.config.conf["gs"] = {"endpoint_url": sys.argv[1]}  # instead of Google, with credentials
from tasks.errors import exit_code
from tasks.stage import run_stage
from tasks.store import open_store
try:
    store = open_store("gs://models/" + sys.argv[2])
    store.check_writable()
    (large := __import__("pathlib").Path(sys.argv[3])).write_bytes(bytes(9 << 20))
    store.put_file(large, "weights/last.pt")
    run_stage(store, "r", "train", {}, lambda context: {"made": context.publish(large, "x").key})
    store.read_bytes("gone")
except Exception as error:
    traceback.print_exc()
    sys.exit(exit_code(error))
"""


def key_file(folder: Path, token_uri: str) -> Path:
    """The key of a service account that nobody has."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    doc = {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "5ec1e7ab1e",
        "private_key": key.decode(),
        "client_email": "retrain@project.iam.gserviceaccount.com",
        "token_uri": token_uri,
    }
    path = folder / "key.json"
    path.write_text(json.dumps(doc))
    return path


def run_program(url: str, place: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {
        key: value
        for key, value in os.environ.items()
        if key not in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS")
    }
    home = {"HOME": str(folder), "CLOUDSDK_CONFIG": str(folder / "gcloud"), "NO_GCE_CHECK": "true"}
    return subprocess.run(  # noqa: S603  our own text
        [sys.executable, "-c", PROGRAM, url, place, str(folder / "large")],
        cwd=ROOT,
        env=clean | home | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.gcs
def test_a_service_account_is_used_and_neither_key_nor_token_is_ever_shown(emulator, tmp_path):
    key = key_file(tmp_path, f"{emulator.url}/token")
    place = uuid.uuid4().hex
    done = run_program(
        emulator.url, place, tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(key), GCSFS_DEBUG="DEBUG"
    )
    assert done.returncode == 1, done.stderr  # of the object that is missing on purpose
    assert "MissingObjectError" in done.stderr
    assert "stage train done" in done.stderr
    tokens = {line.authorization for line in emulator.log if "/storage/" in line.target}
    assert len(tokens) == 1  # every request came with the token
    (token,) = tokens
    assert token.startswith("Bearer ya29.")
    sessions = {
        line.target.partition("upload_id=")[2].partition("&")[0]
        for line in emulator.log
        if "upload_id=" in line.target
    }
    assert sessions
    private = json.loads(key.read_text())["private_key"].splitlines()[1]
    stored = b"".join(o.data for (_, name), o in emulator.storage.objects.items() if place in name)
    for secret in (token, token.removeprefix("Bearer "), "5ec1e7ab1e", private, *sessions):
        assert secret not in done.stdout + done.stderr
        assert secret.encode() not in stored


@pytest.mark.gcs
def test_the_service_account_of_a_machine_or_pod_is_used(emulator, tmp_path):
    host = emulator.url.partition("://")[2]
    done = run_program(
        emulator.url,
        uuid.uuid4().hex,
        tmp_path,
        GCE_METADATA_HOST=host,
        GCE_METADATA_IP=host,
        NO_GCE_CHECK="false",
    )
    assert "stage train done" in done.stderr
    (token,) = {line.authorization for line in emulator.log if "/storage/" in line.target}
    assert token.startswith("Bearer ya29.")
    assert token.removeprefix("Bearer ") not in done.stderr


@pytest.mark.gcs
@pytest.mark.parametrize(
    ("status", "sentence"),
    [(401, "set GOOGLE_APPLICATION_CREDENTIALS"), (403, "check the path and the permissions")],
)
def test_refused_credentials_are_told_in_a_sentence(emulator, tmp_path, status, sentence):
    key = key_file(tmp_path, f"{emulator.url}/token")
    emulator.fail(match="/storage/", count=1000, status=status)
    done = run_program(
        emulator.url, uuid.uuid4().hex, tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(key)
    )
    assert done.returncode == 2
    assert sentence in done.stderr.splitlines()[-1]
    assert len([line for line in emulator.log if "/storage/" in line.target]) == 1
    assert "ya29" not in done.stderr


@pytest.mark.gcs
def test_an_expired_account_is_told_in_a_sentence_and_not_tried_again(emulator, tmp_path):
    key = key_file(tmp_path, f"{emulator.url}/token")
    emulator.fail(match="/token", count=1000, status=400)
    done = run_program(
        emulator.url, uuid.uuid4().hex, tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(key)
    )
    assert done.returncode == 2
    assert "no valid credentials" in done.stderr.splitlines()[-1]
    assert emulator.served("POST", "/token") == [400]
    assert "assertion=" not in done.stderr


@pytest.mark.gcs
def test_a_token_service_that_fails_for_a_moment_is_asked_again(emulator, tmp_path):
    key = key_file(tmp_path, f"{emulator.url}/token")
    emulator.fail(match="/token", count=1, status=503)
    done = run_program(
        emulator.url, uuid.uuid4().hex, tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(key)
    )
    assert "stage train done" in done.stderr
    assert emulator.served("POST", "/token") == [503, 200]


@pytest.mark.gcs
def test_without_credentials_what_to_do_is_told(emulator, tmp_path):
    emulator.fail(match="/storage/", count=1000, status=401)  # as Google answers the nameless
    done = run_program(emulator.url, uuid.uuid4().hex, tmp_path)
    assert done.returncode == 2
    assert "set GOOGLE_APPLICATION_CREDENTIALS" in done.stderr.splitlines()[-1]
    assert "gcloud auth application-default login" in done.stderr.splitlines()[-1]


@pytest.mark.gcs
@pytest.mark.parametrize("content", [None, "", "{}", "not JSON"])
def test_a_key_file_that_is_none_is_refused_before_any_request(emulator, tmp_path, content):
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    done = run_program(
        emulator.url, uuid.uuid4().hex, tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(path)
    )
    assert done.returncode == 2
    assert str(path) in done.stderr.splitlines()[-1]
    assert emulator.log == []


SECRET_URLS = [
    "ftp://me:secret@host/x",
    "https://localhost/x?X-Goog-Signature=secret&X-Goog-Expires=60",
    "https://localhost/x?sv=1&sig=secret",
    "https://localhost/x?access_token=secret",
]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_a_url_with_a_secret_is_refused_without_showing_it(url):
    assert holds_secret(url)
    with pytest.raises(StoreRefusedError, match="take it out") as caught:
        open_store(url)
    assert exit_code(caught.value) == 2
    assert "secret" not in str(caught.value).replace("secret or", "")


@pytest.mark.parametrize("key", ["data", "store", "bucket", "weights", "mlflow"])
@pytest.mark.parametrize("url", SECRET_URLS)
def test_a_setting_with_a_secret_is_refused_so_that_no_record_keeps_it(key, url):
    settings = {"data": "sample", "store": "store", key: url}
    with pytest.raises(ConfigError, match=f"{key}: ") as caught:
        RetrainConfig(**settings)
    assert "=secret" not in str(caught.value)
    assert ":secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["gs://models/a@b", "sftp://me@host/x", "memory://x", "folder", "a:b@c", "s3://b/key=1"]
)
def test_a_url_without_a_secret_is_none(url):
    assert not holds_secret(url)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot read s3://me:pw@host/x?a=1", "cannot read s3://host/x?a=1"),
        (
            "at http://localhost/o?upload_id=ABC-1&name=x",
            "at http://localhost/o?upload_id=***&name=x",
        ),
        ("{'Authorization': 'Bearer abcdefghij'}", "{'Authorization': '***'}"),
        ("token ya29.a0AfH6SM-x_y expired", "token *** expired"),
        ("nothing: a=b?c", "nothing: a=b?c"),
    ],
)
def test_secrets_in_a_text_are_blotted_out(text, shown):
    assert without_secrets(text) == shown


def test_a_backends_own_message_is_cleaned_before_it_is_told():
    error = OSError("PUT s3://me:pw@host/o?upload_id=ABC1 failed: Bearer abcdefgh12345")
    said = str(explain_fault(error, "cannot write x"))
    for secret in ("pw", "ABC1", "abcdefgh"):
        assert secret not in said


def test_loggers_that_show_headers_are_kept_quiet(monkeypatch, tmp_path):
    for name in ("urllib3", "google", "aiohttp", "gcsfs", "fsspec"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    open_store(str(tmp_path))
    for name in (
        "urllib3.connectionpool",
        "google.auth.transport",
        "aiohttp.client",
        "fsspec.http",
    ):
        assert not logging.getLogger(name).isEnabledFor(logging.DEBUG)
