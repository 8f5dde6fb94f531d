"""Wrote `tests/data/keepsake`, once, with Keepsake itself. Kept to show how: its ids and times are never the same.

python3 -m venv /tmp/keepsake
/tmp/keepsake/bin/pip install "keepsake==0.4.2" "protobuf<3.21" "setuptools<80"
mkdir /tmp/digits && cd /tmp/digits
cp .../tests/data/make_keepsake.py /tmp && KEEPSAKE_NO_ANALYTICS=1 /tmp/keepsake/bin/python /tmp/make_keepsake.py
cp -r .keepsake/ .../tests/data/keepsake  # and see that no heartbeat is among it
"""

from pathlib import Path

import keepsake  # type: ignore[import-not-found]  # 0.4.2, which no other test needs

Path("keepsake.yaml").write_text("repository: file://.keepsake\n")
Path("train.py").write_text("import keepsake\n" * 20)
Path("notes").mkdir(exist_ok=True)
Path("notes/empty.txt").write_text("")
Path("notes/lies.txt").unlink(missing_ok=True)
Path("notes/lies.txt").symlink_to("empty.txt")
Path("train.py").chmod(0o755)

first = keepsake.init(path=".", params={"lr": 0.1, "layers": [64, 32], "deep": {"none": None, "inf": float("inf")}})
for step, loss in enumerate([0.5, 0.25, float("nan")]):
    Path("model.txt").write_text(f"weights of step {step}\n")
    metrics = {"loss": loss, "epoch": step}
    first.checkpoint(path="model.txt", step=step * 10, metrics=metrics, primary_metric=("loss", "minimize"))
first.checkpoint(path=None, metrics={"loss": 0.75, "epoch": 3})
Path("logs").mkdir(exist_ok=True)
Path("logs/first.log").write_text("a line\n")
first.checkpoint(path="logs/", metrics={"note": "[not a number]"})
first.stop()

second = keepsake.init(path=None, params=None)
second.stop()
