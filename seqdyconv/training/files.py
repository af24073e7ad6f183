"""Files that a crash leaves as they were: moved to ``seqdyconv.files``."""

from seqdyconv.files import replacing

__all__ = ["replacing"]
