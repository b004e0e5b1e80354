"""The process of a temporary Prefect server: python -m flows.temporary_server HOST PORT PARENT."""

import sys

import uvicorn

from tasks.processes import end_with_parent


def main() -> None:
    """Serves until it is ended, or its parent is, even by a signal that nobody can handle."""
    host, port, parent = sys.argv[1:]
    end_with_parent(int(parent))
    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host=host,
        port=int(port),
        log_level="error",
        lifespan="on",
    )


if __name__ == "__main__":
    main()
