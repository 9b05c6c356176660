"""Makes .venv with the project and its pinned dependencies, and nothing when it is up to date.

``bootstrap.py run`` installs what the service needs; ``bootstrap.py`` also what tests need.

Standard library only, and plain enough that an old interpreter gets far enough to find a newer one
or to say what to install.
"""

import hashlib
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin", "python")
STAMP = os.path.join(VENV, "stamp")
OLDEST = (3, 11)
LEVELS = {"run": ".", "test": ".[test,dev]"}  # the later one holds the earlier one
IS_WHOLE = "import pip, sys; sys.exit(sys.prefix != %r)" % VENV  # made here, not moved here


def find_python():
    """This interpreter when it is new enough, else the newest on PATH that runs."""
    if sys.version_info >= OLDEST:
        return sys.executable
    for name in ("python3.13", "python3.12", "python3.11"):
        path = shutil.which(name)
        if path and run(path, "-c", "import venv", stderr=subprocess.DEVNULL):
            return path
    sys.exit(
        "delivery needs Python 3.11 or newer and found only %s: install one and run this again."
        % sys.version.split()[0]
    )


def run(*command, **options):
    """Runs a command in the project's folder; true when it succeeded."""
    try:
        return subprocess.call(command, cwd=ROOT, **options) == 0
    except OSError:
        return False


def fingerprint():
    """What the environment depends on: its place, and the two files that name the packages."""
    digest = hashlib.sha256(ROOT.encode())
    for name in ("pyproject.toml", "requirements.lock"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def level_of(wanted):
    """The level that .venv was finished at by this script from exactly these files, or None."""
    try:
        with open(STAMP) as file:
            made, _, level = file.read().partition(" ")
    except OSError:
        return None
    return level if made == wanted and level in LEVELS and os.path.exists(PYTHON) else None


def main(level="test"):
    """Makes or refreshes the environment; the stamp comes last, so an interrupted run is redone."""
    if level not in LEVELS:
        sys.exit("bootstrap.py: write one of %s" % ", ".join(LEVELS))
    wanted = fingerprint()
    if level_of(wanted) in (level, "test"):
        return
    print("making .venv (once, about half a minute) ...", flush=True)
    works = run(PYTHON, "-c", IS_WHOLE, stderr=subprocess.DEVNULL)
    if not works and not run(find_python(), "-m", "venv", "--clear", VENV):
        sys.exit(
            "Could not make a virtual environment: on Debian and Ubuntu install the package"
            " python3-venv, then run this again."
        )
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    if not run(*pip, "--constraint", "requirements.lock", "--editable", LEVELS[level]):
        sys.exit(
            "Could not install the dependencies (see above): check the connection to your package"
            " index, then run this again."
        )
    with open(STAMP, "w") as file:
        file.write("%s %s" % (wanted, level))


if __name__ == "__main__":
    main(*sys.argv[1:2])
