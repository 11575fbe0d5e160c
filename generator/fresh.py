"""Where a site is to stand comes in; a fresh folder to build it in goes out, and takes the site's place when it is whole.

A build that is killed, or finds the disk full, leaves the site of the build before it as it was.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from generator.store import abandoned

KEPT = ".gitkeep"
"""The one hidden file that a site may hold without being some other program's folder."""
TRIES = 20
_HERE, _EXCHANGE = -100, 2
"""Linux's AT_FDCWD and RENAME_EXCHANGE."""


class Fresh:
    """One build's folder beside the site; locked while it is built in, so that the next build removes what a killed one left."""

    def __init__(self, site: Path) -> None:
        self.site = site
        self.folder = site
        self._held = -1
        for old in site.parent.glob(f".{site.name}-*.building"):
            if abandoned(old):
                shutil.rmtree(old, ignore_errors=True)
        if not _replaceable(site):
            return  # built in place, as MkDocs does it
        with contextlib.suppress(OSError):
            self.folder = Path(tempfile.mkdtemp(prefix=f".{site.name}-", suffix=".building", dir=site.parent))
            self._held = os.open(self.folder, os.O_RDONLY)
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.folder.chmod(0o755)  # a web server reads it

    def put(self) -> None:
        """Let the built site take its place; raise OSError where it cannot."""
        if self.folder == self.site:
            return
        if (self.site / KEPT).exists():
            (self.folder / KEPT).touch()
        if _exchanged(self.folder, self.site):
            self.drop()  # it is the old one now
            return
        for _ in range(TRIES):  # another build may put its own at this moment
            aside = Path(tempfile.mkdtemp(prefix=f".{self.site.name}-", suffix=".building", dir=self.site.parent))
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.site, aside)
            try:
                os.rename(self.folder, self.site)
                break
            except OSError:
                if not self.site.exists():
                    os.rename(aside, self.site)
                    raise
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        else:
            raise OSError(f"other builds keep putting theirs into {self.site}")
        self.folder = self.site
        self.drop()

    def drop(self) -> None:
        """Forget the folder; what was built in it is gone, and the site stays as it was."""
        if self.folder != self.site:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = self.site
        if self._held >= 0:
            os.close(self._held)
            self._held = -1


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders change places in one step, in which nobody sees neither; return False where the system cannot."""
    try:
        exchange = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return exchange(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def _replaceable(site: Path) -> bool:
    """Return whether a folder may be put in the site's place: it is no link and no disk, and nobody else's."""
    if site.is_symlink() or os.path.ismount(site):
        return False
    try:
        return all(not name.startswith(".") or name == KEPT for name in os.listdir(site))
    except FileNotFoundError:
        return site.parent.is_dir()
    except OSError:
        return False
