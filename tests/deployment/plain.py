"""An environment with what `pip install` of the wheel and some extras brings, and no more.

Owns: which distributions these are, read from their metadata as pip reads it, and a virtual
environment of links to this environment's copies of them. No package index is asked, so it takes a
second; pip itself builds the image in `.ci/docker`.
"""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IMPORT_ALL = """
import importlib, pkgutil, delivery
failed = []
def note(name):
    if name != "delivery.pytest_plugin":  # of a pytest that is there
        failed.append(name)
for module in pkgutil.walk_packages(delivery.__path__, "delivery.", onerror=note):
    if module.name in ("delivery.__main__", "delivery.worker"):  # these run on import
        continue
    if module.name.startswith("delivery.outbox.django"):  # an app of a Django that is there
        continue
    if module.name.startswith("delivery.pytest_plugin"):
        continue
    if module.name.startswith("delivery.adapters."):  # each brings a framework: `make adapters`
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        failed.append(f"{module.name}: {error}")
print("\\n".join(failed), end="")
"""
"""A program that imports every module and prints those that it cannot."""


def required_by(wheel: Path, *extras: str) -> dict[str, Distribution]:
    """The distributions that ``wheel[extras]`` needs, without the wheel, by canonical name.

    Raises:
        PackageNotFoundError: one of them is not in this environment.
    """
    name, version = wheel.name.split("-")[:2]
    own = PathDistribution(zipfile.Path(wheel, f"{name}-{version}.dist-info/"))
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(_requirements(own, frozenset(extras)))
    while waiting:
        wanted = waiting.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key not in seen:
            seen.add(key)
            found[key[0]] = distribution(wanted.name)
            waiting += _requirements(found[key[0]], key[1])
    return found


def make_environment(folder: Path, wheel: Path, distributions: dict[str, Distribution]) -> Path:
    """Make a virtual environment of the distributions and the wheel; its interpreter."""
    venv.create(folder, symlinks=True, with_pip=False)
    packages = next((folder / "lib").glob("python*/site-packages"))
    for one in distributions.values():
        for file in one.files or ():
            here = Path(str(one.locate_file(file)))  # bytecode too: compiling all takes long
            if ".." not in file.parts and here.exists():
                link = packages / file
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(here)
    pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-index",
        "--target",
        str(packages),
        str(wheel),
    ]
    subprocess.run([sys.executable, *pip], check=True, timeout=120)
    return folder / "bin" / "python"


def _requirements(one: Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    for text in one.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield requirement
