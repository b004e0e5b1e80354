"""The Kubernetes job template: the jobs made with it are valid and say what was asked for.

Jobs are rendered by Prefect's own worker code and checked, offline, against the schemas that the
Kubernetes API publishes; strictly, so that a misspelt field is found.
"""

import asyncio
import copy
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from tasks.records import STAGES
from tests.stack import ROOT

FOLDER = ROOT / "containers" / "kubernetes"
TEMPLATE = json.loads((FOLDER / "job-template.json").read_text("utf-8"))
VERSIONS = ("1.29", "1.32", "1.37")
GPU = {
    "image": "registry/yolov5-retrain:train",
    "gpus": 2,
    "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "cpu_request": "4",
    "memory_request": "16Gi",
    "memory_limit": "24Gi",
    "shm_size": "8Gi",
    "service_account_name": "retrain",
    "active_deadline_seconds": 36000,
    "env": {"GOOGLE_APPLICATION_CREDENTIALS": "/var/run/secrets/yolov5-retrain/key.json"},
    "env_from": [{"secretRef": {"name": "mine"}}],
    "credentials_secret": "key",
    "image_pull_secrets": [{"name": "registry"}],
    "cache_volume": {"name": "cache", "persistentVolumeClaim": {"claimName": "data"}},
}


def rendered(values: Mapping[str, Any]) -> dict[str, Any]:
    """The job that the worker would make."""

    async def configured() -> KubernetesWorkerJobConfiguration:
        nobody = PrefectClient("http://127.0.0.1:1/api")  # it is asked only for blocks
        return await KubernetesWorkerJobConfiguration.from_template_and_values(
            base_job_template=copy.deepcopy(TEMPLATE), values=dict(values), client=nobody
        )

    made = asyncio.run(configured())
    made.prepare_for_flow_run(FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="train 2026"))
    return made.job_manifest


def require_valid(manifest: dict[str, Any]) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


def pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return pod


def kubernetes_deployments() -> list[tuple[str, dict[str, Any]]]:
    """Entry point and job variables of each stage's deployment, nothing set in the environment."""
    text = (ROOT / "prefect.yaml").read_text("utf-8")
    doc = yaml.safe_load(re.sub(r"\{\{ \$\w+ }}", "", text))
    return [
        (found["entrypoint"].rpartition(":")[2], found["work_pool"]["job_variables"])
        for found in doc["deployments"]
        if found["work_pool"]["name"] == "stages-kubernetes"
    ]


def placeholders(value: Any) -> Iterator[str]:
    yield from re.findall(r"\{\{ (\w+) }}", json.dumps(value))


@pytest.mark.parametrize("values", [{"image": "yolov5-retrain:cpu"}, GPU], ids=["least", "most"])
def test_jobs_are_valid_with_the_least_and_with_all_variables(values: dict[str, Any]):
    manifest = rendered(values)
    require_valid(manifest)
    assert list(placeholders(manifest)) == []


def test_each_stage_of_prefect_yaml_makes_a_valid_job():
    found = kubernetes_deployments()
    assert sorted(stage for stage, _ in found) == sorted(STAGES)
    for stage, variables in found:
        assert variables.keys() <= TEMPLATE["variables"]["properties"].keys(), stage
        manifest = rendered(variables)
        require_valid(manifest)
        container = pod_of(manifest)["containers"][0]
        heavy = stage in ("train", "evaluate", "finalize", "promote")
        assert (":train" if heavy else ":cpu") in container["image"]
        # an empty text is no quantity, though the schema takes it
        quantities = [q for of in container["resources"].values() for q in of.values()]
        assert all(quantities), stage


def test_the_template_declares_the_variables_that_it_uses_and_no_others():
    declared = set(TEMPLATE["variables"]["properties"])
    assert set(placeholders(TEMPLATE["job_configuration"])) == declared


def test_what_a_deployment_asks_for_is_in_the_job():
    manifest = rendered(GPU)
    pod = pod_of(manifest)
    container = pod["containers"][0]
    assert container["resources"] == {
        "requests": {"cpu": "4", "memory": "16Gi"},
        "limits": {"memory": "24Gi", "nvidia.com/gpu": 2},
    }
    assert pod["nodeSelector"] == GPU["node_selector"]
    assert pod["tolerations"] == GPU["tolerations"]
    assert pod["serviceAccountName"] == "retrain"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert container["envFrom"] == GPU["env_from"]
    volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
    assert volumes == {
        "tmp": {"emptyDir": {}},
        "cache": {"persistentVolumeClaim": {"claimName": "data"}},
        "shm": {"emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
        "credentials": {"secret": {"secretName": "key", "optional": True}},
    }
    assert manifest["spec"]["activeDeadlineSeconds"] == 36000


def test_a_job_asks_for_no_gpu_and_no_limit_that_nobody_named():
    container = pod_of(rendered({"image": "x"}))["containers"][0]
    assert container["resources"] == {"requests": {}, "limits": {}}


@pytest.mark.parametrize("values", [{"image": "x"}, GPU], ids=["least", "most"])
def test_a_stage_has_no_more_rights_than_it_needs(values: dict[str, Any]):
    pod = pod_of(rendered(values))
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    container = pod["containers"][0]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert {"/tmp", "/cache", "/dev/shm"} <= mounted.keys()  # noqa: S108  the pod's
    assert set(mounted.values()) == {volume["name"] for volume in pod["volumes"]}


def test_only_prefect_tries_again_and_an_evicted_stage_goes_back_to_its_queue():
    manifest = rendered({"image": "x"})
    spec = manifest["spec"]
    assert (spec["backoffLimit"], spec["completions"], spec["parallelism"]) == (0, 1, 1)
    env = {entry["name"]: entry["value"] for entry in pod_of(manifest)["containers"][0]["env"]}
    assert env["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"


def test_a_misspelt_field_would_be_found():
    manifest = rendered({"image": "x"})
    pod_of(manifest)["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="readOnlyRootFileSystem"):
        require_valid(manifest)


def test_the_workers_own_objects_are_valid_and_may_do_what_it_does():
    objects = list(yaml.safe_load_all((FOLDER / "worker.yaml").read_text("utf-8")))
    for found in objects:
        require_valid(found)
    by_kind = {found["kind"]: found for found in objects}
    assert {o["metadata"].get("namespace", "yolov5-retrain") for o in objects} == {"yolov5-retrain"}
    rules = {r: set(rule["verbs"]) for rule in by_kind["Role"]["rules"] for r in rule["resources"]}
    assert {"create", "delete", "watch"} <= rules["jobs"]
    assert {"watch", "list"} <= rules["pods"]
    assert "secrets" not in rules
    default = TEMPLATE["variables"]["properties"]
    accounts = {o["metadata"]["name"] for o in objects if o["kind"] == "ServiceAccount"}
    assert default["service_account_name"]["default"] in accounts
    assert default["namespace"]["default"] == by_kind["Namespace"]["metadata"]["name"]
    worker = by_kind["Deployment"]["spec"]["template"]["spec"]
    assert worker["serviceAccountName"] in accounts
    assert "stages-kubernetes" in worker["containers"][0]["args"]
