"""The README's Python runs as it stands, and its commands are the ones that CI runs."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run_as_they_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "\n44\n" in printed  # The number of penalties that the comment promises.
    folded = r"^conv4_block\[1-6\]_2_bn/gamma +×6 +batch +residual_last +apply"
    assert re.search(folded, printed, re.MULTILINE)
    assert names["model"].losses == []


def test_the_commands_that_ci_reads_are_there():
    commands = re.findall(r"```bash\n(python3 -m venv .*)\n```", README)
    assert len(commands) == 2
    assert commands[0].endswith("examples/train_resnet.py")
    assert commands[1].endswith(".venv/bin/python -m pytest -q -n 2")
