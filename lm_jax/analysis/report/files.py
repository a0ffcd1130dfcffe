"""Files of a report: each appears whole or not at all, and those of an earlier report go."""

import contextlib
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
  """Yields a temporary path that becomes `path` at once, so that a reader sees the old file or the new."""
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
  os.close(handle)
  temporary = Path(name)
  try:
    yield temporary
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
  with replacing(path) as temporary:
    temporary.write_bytes(content if isinstance(content, bytes) else content.encode())


def remove_stale(folder: Path, written: Collection[str], stems: Collection[str]) -> None:
  """Removes files of these stems that an earlier report wrote and this one did not."""
  if folder.is_dir():
    for path in folder.iterdir():
      if path.name not in written and path.name.split(".")[0] in stems:
        path.unlink()
