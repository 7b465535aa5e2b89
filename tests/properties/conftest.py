"""The rules of the unit tests hold here as well: no test starts a process."""

from tests.unit.conftest import compiled_anew, no_process_is_started, pytest_collection_finish

__all__ = ["compiled_anew", "no_process_is_started", "pytest_collection_finish"]
