"""An object store, through fsspec's driver: whole objects by name, and creation that one alone can win.

A store is used only after it has shown that it refuses to create what is there already: leases stand on that,
and some drivers, servers and proxies overwrite without a word.
"""

import contextlib
import functools
import logging
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lm_jax import failures
from lm_jax.strict import ConfigError, nearest

# The extra that brings the driver of a kind of store.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
# Not shared, or plain folders.
_NO_STORES = {"file": "give the folder without file://", "local": "give the folder without local://",
              "memory": "is of one process only"}  # fmt: skip
_CONNECT_S, _READ_S, _ATTEMPTS = 5, 30, 3
# Google's driver asks six times, with pauses that double: as long in all.
_GOOGLE_READ_S = 10
# Uploaded in one request; larger files are read in parts.
_WHOLE = 16 << 20
# What S3 says of several that create one object at the same moment.
_CONFLICT = "ConditionalRequestConflict"
# And of a bucket that is not there; Google's driver says only what was asked for.
_NO_BUCKET = "bucket does not exist"


class StoreError(OSError):
  """A store did not do what it was asked.

  Attributes:
    is_passing: whether it may do so when it is asked again.
  """

  kind = failures.DISK

  def __init__(self, message: str, *, is_passing: bool):
    super().__init__(message)
    self.is_passing = is_passing


class Stat(NamedTuple):
  """An object: what changes whenever its content does, and its bytes."""

  etag: str
  size: int


def is_url(workdir: str) -> bool:
  return "://" in workdir


def checked(url: str) -> str:
  """Returns the URL of a workdir in a store in its one spelling; raises ConfigError."""
  protocol, _, rest = url.partition("://")
  place, _, key = rest.partition("/")
  if "@" in place:
    # It would stand in files and on screens.
    raise ConfigError(
      f"--workdir={protocol}://***@{place.rpartition('@')[2]}/{key}: holds a password; leave it to the "
      "environment, as the store's own tools do"
    )
  if why := _NO_STORES.get(protocol):
    raise ConfigError(f"--workdir={url}: is no object store: {why}")
  parts = [part for part in key.split("/") if part]
  if not place or not parts or set(parts) & {".", ".."} or re.search(r"[?#*\[\]\x00-\x1f]", rest):
    raise ConfigError(f"--workdir={url}: must be {protocol}://BUCKET/FOLDER")
  return f"{protocol}://{place}/{'/'.join(parts)}"


class Store:
  """A folder of a bucket. Names are relative to it; errors are StoreError, of a name FileNotFoundError."""

  def __init__(self, url: str):
    self.url = checked(url)
    self._root = self.url.partition("://")[2]

  @functools.cached_property
  def _fs(self) -> Any:
    protocol = self.url.partition("://")[0]
    try:
      import fsspec
      from fsspec.registry import known_implementations, registry

      if protocol not in (*known_implementations, *registry):
        raise ConfigError(f"--workdir={self.url}: unknown kind of store{nearest(protocol, _EXTRAS)}")
      options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
      if _EXTRAS.get(protocol) == "s3":
        retries = {"max_attempts": _ATTEMPTS}
        options["config_kwargs"] = {
          "connect_timeout": _CONNECT_S, "read_timeout": _READ_S, "retries": retries
        }  # fmt: skip
      elif _EXTRAS.get(protocol) == "gcs":
        options |= _google_options()
      with self._told():
        return fsspec.filesystem(protocol, **options)
    except ImportError as error:
      extra = _EXTRAS.get(protocol)
      how = f"pip install 'lm_jax[{extra}]'" if extra else str(error)
      raise ConfigError(f"--workdir={self.url}: its driver is not installed; {how}") from None

  def require_creation(self) -> None:
    """Raises ConfigError unless the store makes an object only where there is none."""
    name = f".probe-{uuid.uuid4().hex}"
    lacks = (
      f"--workdir={self.url}: this store cannot create an object only where there is none, which leases need"
    )
    try:
      self.create(name, b"1")
      try:
        self.create(name, b"2")
      except FileExistsError:
        return
      finally:
        self.remove(name)
    except (NotImplementedError, TypeError) as error:
      raise ConfigError(f"{lacks} ({_one_line(error)})") from None
    except StoreError as error:
      raise ConfigError(f"--workdir={error}") from None
    raise ConfigError(f"{lacks}: it overwrote one")

  # --- objects ----------------------------------------------------------------------------------

  def stats(self, folder: str = "", prefix: str = "") -> dict[str, Stat]:
    """Returns all objects below a folder, by their names relative to it, whose names begin with a prefix."""
    root = f"{self._root}/{folder}" if folder else self._root
    with self._told():
      found = self._fs.find(root, detail=True, **({"prefix": prefix} if prefix else {}))
    return {
      path.removeprefix(f"{root}/"): Stat(_etag(info), info["size"])
      for path, info in found.items() if path.startswith(f"{root}/{prefix}") and info["type"] == "file"
    }  # fmt: skip

  def read(self, name: str) -> bytes:
    with self._told(name):
      return self._fs.cat_file(self._path(name))

  def write(self, name: str, data: bytes) -> None:
    with self._told():
      self._fs.pipe_file(self._path(name), data)

  def create(self, name: str, data: bytes) -> None:
    """Makes an object; raises FileExistsError where there is one, and of several at once for all but one."""
    try:
      with self._told():
        self._fs.pipe_file(self._path(name), data, mode="create")
    except StoreError as error:
      if _CONFLICT not in str(error):
        raise
      raise FileExistsError(name) from None
    except FileExistsError:
      # A first answer may have got lost, and the driver have asked again.
      with contextlib.suppress(FileNotFoundError):
        if self.read(name) == data:
          return
      raise

  def upload(self, path: Path, name: str) -> None:
    """Sends a file; raises FileNotFoundError where it is gone."""
    if path.stat().st_size <= _WHOLE:
      self.write(name, path.read_bytes())
      return
    try:
      with self._told():
        self._fs.put_file(str(path), self._path(name))
    except StoreError:
      path.stat()
      raise

  def download(self, name: str, path: Path) -> None:
    """Makes, or replaces, a file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
      with self._told(name):
        self._fs.get_file(self._path(name), str(temporary))
      temporary.replace(path)
    finally:
      temporary.unlink(missing_ok=True)

  def remove(self, name: str) -> None:
    """Removes an object; one that is not there is no error."""
    with contextlib.suppress(FileNotFoundError), self._told(name):
      self._fs.rm_file(self._path(name))

  def _path(self, name: str) -> str:
    return f"{self._root}/{name}"

  @contextlib.contextmanager
  def _told(self, name: str | None = None) -> Iterator[None]:
    """Makes one error in one line of what drivers and those below them raise."""
    try:
      yield
    except (StoreError, ConfigError, FileExistsError, NotImplementedError, TypeError, ImportError):
      raise
    except FileNotFoundError as error:
      if name is not None and _NO_BUCKET not in str(error):
        raise FileNotFoundError(f"{self.url}/{name}") from None
      why = _one_line(error) if _NO_BUCKET in str(error) else "there is no such bucket"
      raise StoreError(f"{self.url}: {why}", is_passing=False) from None
    except Exception as error:
      raise StoreError(f"{self.url}: {_one_line(error)}", is_passing=not _is_refusal(error)) from None


def _google_options() -> dict[str, Any]:
  """Returns options of gcsfs, which from here on does with plain requests, and tells us alone what failed."""
  # Else it asks for the kind of the bucket before every request where it may not know that, and warns each
  # time; only zonal buckets need it.
  os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
  import aiohttp

  # What it logs, with tracebacks, it raises too.
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
  return {"requests_timeout": aiohttp.ClientTimeout(sock_connect=_CONNECT_S, sock_read=_GOOGLE_READ_S)}


def _is_refusal(error: Exception) -> bool:
  """Returns whether a store does not allow it, which asking again does not change."""
  return (
    isinstance(error, PermissionError) or getattr(error, "code", None) in (401, 403)
    or any(word in str(error) for word in ("redentials", "Forbidden"))
  )  # fmt: skip


def _etag(info: dict[str, Any]) -> str:
  for name in ("ETag", "etag", "generation", "md5Hash", "mtime", "LastModified"):
    if info.get(name):
      return str(info[name])
  raise StoreError(
    f"{info.get('name')}: its driver does not say when an object changed ({', '.join(info)})",
    is_passing=False,
  )


def _one_line(error: object) -> str:
  # An endpoint may be given with a password.
  return re.sub(r"//[^/@\s]+@", "//***@", " ".join(str(error).split())) or type(error).__name__
