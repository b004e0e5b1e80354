"""Makes a stage undone, as if its last attempts had died right before they committed."""

from tasks.store import Store


def undo(store: Store, run: str, stage: str) -> None:
    """Removes the record of a stage: its commits and their copy."""
    for key in begun_and_done(store, run, stage)[1]:
        store.delete(key)
    store.delete(f"runs/{run}/stages/{stage}.json")


def begun_and_done(store: Store, run: str, stage: str) -> tuple[list[str], list[str]]:
    """Keys of a stage's log, in order: attempts that began, and commits."""
    keys: tuple[list[str], list[str]] = [], []
    for key in store.keys(f"runs/{run}/stages/attempts/{stage}"):
        keys["record" in store.read_json(key)].append(key)
    return keys
