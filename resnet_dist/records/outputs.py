"""Which files of a working directory are no code, wherever a user keeps them: what this program wrote, and data."""

import re
from pathlib import Path, PurePosixPath

from resnet_dist.file_kinds import IMAGE_SUFFIXES

_FILES = re.compile(r"[0-9a-f]{16}\.zip|\.check-[0-9a-f]{16}")
"""Archives of `export` and what is written to see whether a directory takes files."""
_DATA = (*IMAGE_SUFFIXES, ".ipynb")
"""Images, whose fingerprint a trial records, figures, and notebooks, of which it records all that they ask for."""


def is_data(name: str) -> bool:
    """Whether a file is an image or a notebook, by its name."""
    return name.lower().endswith(_DATA)


class Outputs:
    """Tells results below a directory from other files; asks the file system once for each folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[PurePosixPath, bool] = {}

    def __contains__(self, name: str) -> bool:
        """Whether `name`, relative to the directory, is an experiment's, a report's, staged data's or an archive's."""
        path = PurePosixPath(name)
        return bool(_FILES.fullmatch(path.name)) or any(map(self._is_output, path.parents))

    def _is_output(self, folder: PurePosixPath) -> bool:
        if folder not in self._known:
            self._known[folder] = folder.parts != () and _is_output(self.root / folder)
        return self._known[folder]


def _is_output(folder: Path) -> bool:
    return (
        (folder / ".lease").is_dir()
        or ((folder / "experiment.json").is_file() and (folder / "trials").is_dir())
        or ((folder / "report.html").is_file() and (folder / "tables.csv").is_file())
        or (folder.name == ".data" and ((folder / "sources").is_dir() or (folder / "weights").is_dir()))
    )
