"""Importing replicate costs nothing: no framework, no terminal library, no cloud driver."""

import subprocess
import sys

import pytest

HEAVY = {
    "tensorflow", "keras", "torch", "lightning", "pytorch_lightning", "jax", "numpy", "pandas", "matplotlib", "s3fs",
    "fsspec", "click", "rich",
}  # fmt: skip


@pytest.mark.parametrize("module", ["replicate", "replicate_core"])
def test_importing_it_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert module in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("adapter", ["keras_callback", "lightning_callback", "pl_callback"])
def test_an_adapter_is_an_attribute_that_is_imported_on_first_use(adapter: str) -> None:
    framework = "keras" if adapter == "keras_callback" else "pytorch_lightning"
    code = (
        f"import sys; sys.modules[{framework!r}] = None; sys.modules['lightning'] = None; import replicate\n"
        f"try: replicate.{adapter}\nexcept ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout


def test_the_two_names_are_one_api() -> None:
    import replicate
    import replicate_core

    assert set(replicate_core.__all__) <= set(replicate.__all__)
    assert all(getattr(replicate, name) is getattr(replicate_core, name) for name in replicate_core.__all__)


def test_what_is_promised_is_listed() -> None:
    import replicate

    assert set(replicate.__all__) == {
        "Checkpoint",
        "CheckpointList",
        "CompactReport",
        "CopyReport",
        "ConfigInvalid",
        "Corrupted",
        "Damage",
        "Experiment",
        "ExperimentList",
        "Experiments",
        "FileMatch",
        "ImportResult",
        "InvalidInput",
        "MissingExtra",
        "NotFound",
        "Preview",
        "PrimaryMetric",
        "Project",
        "PruneReport",
        "ReplicateError",
        "StorageFailed",
        "SyncResult",
        "TooNew",
        "VerifyReport",
        "__version__",
        "experiments",
        "init",
    }
    with pytest.raises(AttributeError):
        _ = replicate.nothing


def test_names_of_the_version_before_work_for_one_more() -> None:
    import replicate

    assert replicate.Holder is replicate.FileMatch
    assert replicate.Imported is replicate.ImportResult
    assert replicate.Synced is replicate.SyncResult
    with pytest.raises(AttributeError):
        _ = replicate.Reported


def test_tab_shows_the_promise_and_nothing_else() -> None:
    import replicate

    assert dir(replicate) == sorted([*replicate.__all__, "keras_callback", "lightning_callback", "pl_callback"])
