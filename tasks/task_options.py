"""What the Prefect tasks of this package have in common."""

from typing import Any

from prefect.cache_policies import NO_CACHE

from tasks.errors import retry_if_transient

# Models and loaders are arguments: Prefect must not hash or store them. The store is the truth.
PLAIN: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}

RETRIED: dict[str, Any] = {
    **PLAIN,
    "retries": 3,
    "retry_delay_seconds": [5, 30, 120],
    "retry_condition_fn": retry_if_transient,
}
