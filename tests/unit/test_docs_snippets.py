"""What every page of the documentation shows can be taken as it stands."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator

import click
import pytest
import yaml

from delivery.cli import main
from tests.docs_blocks import Block, blocks, pages

ALL = [one for page in pages() for one in blocks(page)]
SHELL = ("bash", "console", "sh")
PLACEHOLDER = re.compile(r"<[a-z][\w ,-]*>|…")
"""What a reader fills in."""
CALL = re.compile(r"(?:^|\$\(|/|&& |[A-Z]=\S+ |exec [\w-]+ )delivery ([a-z][^)\n]*)", re.MULTILINE)
"""The command where a shell runs it, not where it is another one's argument."""


def of(*languages: str) -> list[Block]:
    return [one for one in ALL if one.language in languages]


def commands(block: Block) -> Iterator[str]:
    """The commands that a reader types, each with the lines that belong to it; no output."""
    lines = iter(PLACEHOLDER.sub("X", block.code).splitlines())
    for line in lines:
        if block.language == "console" and not line.startswith("$ "):
            continue
        typed = line.removeprefix("$ ")
        while not is_whole(typed):
            typed += "\n" + next(lines, "EOF")
        yield typed


def is_whole(typed: str) -> bool:
    """Whether a shell asks for no further line."""
    if typed.endswith("\\"):
        return False
    opened = re.search(r"<<'?(\w+)", typed)
    if opened:
        return typed.endswith("\n" + opened[1])
    try:
        shlex.split(typed, comments=True)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("page", pages())
def test_python_compiles(page: str) -> None:
    for one in blocks(page):
        if one.language == "python":
            compile(one.code, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_files_of_settings_can_be_read() -> None:
    read = {"toml": tomllib.loads, "yaml": yaml.safe_load}
    found = of(*read)
    assert found
    for one in found:
        assert read[one.language](one.code) is not None, one.page


def test_shells_can_read_their_lines() -> None:
    bash = shutil.which("bash")
    assert bash is not None
    typed = [one for block in of(*SHELL) for one in commands(block)]
    assert typed
    done = subprocess.run(
        [bash, "-n"], input="\n".join(typed), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_commands_and_their_options_exist() -> None:
    seen = 0
    for block in of(*SHELL):
        for line in commands(block):
            for call in CALL.findall(line.replace("\\\n", " ")):
                seen += 1
                check_call(call, f"{block.page}: {line}")
    assert seen > 50


def check_call(call: str, place: str) -> None:
    """A call of the command names commands and options that are there."""
    words = shlex.split(call.partition(" #")[0], posix=False)
    command: click.Command = main
    for word in words:
        if isinstance(command, click.Group):
            if word in command.commands:
                command = command.commands[word]
                continue
            if not word.startswith("-"):
                assert command.invoke_without_command, place
        name = word.partition("=")[0]
        if re.fullmatch(r"--[a-z][a-z-]*", name):
            known = {one for param in command.params for one in param.opts}
            known |= {one for param in command.params for one in param.secondary_opts}
            assert name in known | {"--help"}, f"{place}: {name}"
        if word in ("|", "&&", ";", ">"):
            return
