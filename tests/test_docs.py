"""The documents are true: every command, embed and target they should name is there."""

import re
import subprocess
from pathlib import Path

from generator.cli import papernotes
from generator.embeds import EMBEDS
from generator.new import FILES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_every_command_is_in_the_readme_and_every_one_there_exists():
    named = set(re.findall(r"^\| `papernotes (\w+)", README, re.MULTILINE))
    assert named == set(papernotes.commands)


def test_every_command_has_a_help_text():
    assert all(command.help for command in papernotes.commands.values())


def test_every_make_target_has_a_help_line_and_the_readme_names_it():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)) - {"help"}
    helped = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert targets == set(re.findall(r"make (\w+)", helped)) - {"help"}
    assert targets <= set(re.findall(r"^make (\w+)", README, re.MULTILINE))


def test_every_embed_is_documented():
    assert set(re.findall(r"`\{\{ (\w+)\(", CONTRIBUTING)) == set(EMBEDS)


def test_every_file_the_documents_name_exists():
    named = re.findall(r"`((?:generator|templates|notes|tests)/[\w./]+)`", CONTRIBUTING)
    for path in named:
        path = path if not path.startswith("templates/") else f"generator/{path}"
        assert (ROOT / path).exists(), path


def test_a_draft_is_five_files():
    assert len(FILES) == 5


def test_the_versions_of_torch_and_triton_belong_together():
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert (pinned["torch"], pinned["triton"]) == ("2.13.0", "3.7.1")
