"""`.ci/commit-subject` lets a message pass or says what is wrong with its subject."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci/commit-subject"


def look_at(message: str, directory: Path) -> subprocess.CompletedProcess[str]:
    file = directory / "COMMIT_EDITMSG"
    file.write_text(message)
    return subprocess.run([SCRIPT, file], capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize(
    "message",
    [
        "One line",
        "é" * 72,
        "A subject\n\nA body whose lines may be longer than seventy-two characters, since nobody lists bodies.\n",
        "\n# what git says\nA subject\n# On branch main\n",
        "A subject\n# ------------------------ >8 ------------------------\ndiff --git a/x b/x\n" + "+" * 100,
    ],
)
def test_a_subject_that_fits_passes(message: str, tmp_path: Path) -> None:
    done = look_at(message, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("é" * 73, "the subject has 73 characters, expected at most 72"),
        ("A subject\nand a line that belongs to it", "the line after the subject is not empty"),
        ("# On branch main\n", "there is no subject"),
    ],
)
def test_a_subject_that_does_not_fit_is_refused_with_the_reason(message: str, reason: str, tmp_path: Path) -> None:
    done = look_at(message, tmp_path)
    assert done.returncode == 1
    assert reason in done.stderr
