"""What ends a run before its end, told apart: what to do about it differs.

Attributes of exceptions (`kind`) name the first two, since only those who raise them know.
"""

import errno

from lm_jax.strict import ConfigError

OUT_OF_MEMORY, DIVERGED = "out_of_memory", "diverged"
DIED = "died"  # its process, or its machine, died again and again
DISK = "disk"  # full, or read-only
CONFIG, CODE = "config", "code"

# Trying again gives the same, as runs are deterministic: a sweep does not, unless it is told to.
CERTAIN = (DIVERGED,)

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# Libraries wrap the system's errors, and keep their words.
_DISK_WORDS = ("No space left on device", "Disk quota exceeded", "Read-only file system")


def kind(error: BaseException) -> str:
  """Returns the kind of what ended a run."""
  if own := getattr(error, "kind", None):
    return own
  if isinstance(error, ConfigError):
    return CONFIG
  if isinstance(error, MemoryError):
    return OUT_OF_MEMORY
  if getattr(error, "errno", None) in _DISK_ERRORS or any(words in str(error) for words in _DISK_WORDS):
    return DISK
  return CODE
