"""Every code block of the README and the docs runs, from top to bottom of its page, in one directory.

A block is left out only where a comment above it says why: `<!-- not run: REASON -->`. Of shell blocks the lines that
begin with `replicate` are run, with the id of the first experiment where they say ID.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "replicate_core").glob("__init__.py")])
BLOCK = re.compile(
    r"^(<!-- not run: (?P<reason>.+?) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL
)


def blocks(page: Path) -> list[tuple[str, str]]:
    found = BLOCK.finditer(page.read_text("utf-8"))
    return [(match["language"], match["code"]) for match in found if match["reason"] is None]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_code_of_the_page_runs(page: Path, project: Path) -> None:
    names: dict[str, object] = {"__name__": "__docs__"}
    for language, code in blocks(page):
        if language == "python":
            exec(compile(code, str(page), "exec"), names)
        elif language == "bash":
            for line in code.splitlines():
                if line.startswith("replicate "):
                    run(line)


def run(line: str) -> None:
    words = shlex.split(line, comments=True)
    first = replicate("ls", "-q").split()[0]
    replicate(*(first if word == "ID" else word for word in words[1:]))


def replicate(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "replicate", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"replicate {' '.join(words)}: {done.stderr}"
    return done.stdout
