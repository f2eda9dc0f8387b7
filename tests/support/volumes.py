"""A volume of a ConfigMap or Secret, changed exactly as the kubelet changes it."""

import itertools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

_numbers = itertools.count(1000)


class Volume:
    """A mounted directory: names link to ``..data/NAME``, and ``..data`` to the files' directory.

    A change writes a new directory and renames a new link onto ``..data``: all files change in
    one step (kubernetes, pkg/volume/util/atomic_writer.go).
    """

    def __init__(self, path: Path, files: Mapping[str, str | bytes]) -> None:
        self.path = path
        path.mkdir()
        self.update(files)

    def update(self, files: Mapping[str, str | bytes]) -> None:
        """Replace everything that the volume holds."""
        link = self.path / "..data"
        old = link.readlink() if link.is_symlink() else None
        fresh = self.path / f"..2026_11_27_22_00_00.{next(_numbers)}"
        fresh.mkdir(mode=0o755)
        for name, content in files.items():
            (fresh / name).write_bytes(content.encode() if isinstance(content, str) else content)
        scratch = self.path / "..data_tmp"
        scratch.symlink_to(fresh.name)
        os.replace(scratch, link)  # noqa: PTH105 - the very call
        for name in files:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(Path("..data") / name)
        for entry in self.path.iterdir():
            if not entry.name.startswith("..") and entry.name not in files:
                entry.unlink()
        if old is not None:
            shutil.rmtree(self.path / old)
