"""Select the check of a fixture by its content, never by its file name."""
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from motion.skeleton import SKELETONS, Skeleton
from tests.golden.report import Report

Check = Callable[[Report], None]
Checks = dict[str, Check]


class UnknownFixture(Exception):
    """Raised if no check matches the content of a fixture."""


def find_check(names: Iterable[str], checks: Checks) -> Check:
    """Return the first check with a pattern that matches one of ``names``; patterns are separated by spaces.

    Raises ``UnknownFixture`` if there is none.
    """
    names = sorted(names)
    for patterns, check in checks.items():
        if any(fnmatchcase(name, pattern) for name in names for pattern in patterns.split()):
            return check
    raise UnknownFixture(f"no check for {', '.join(names[:8]) or 'an empty fixture'}")


def skeleton_of(joints_num: int) -> Skeleton:
    """Return the skeleton with this number of joints. Raises ``UnknownFixture`` if there is none."""
    for skeleton in SKELETONS.values():
        if len(skeleton) == joints_num:
            return skeleton
    raise UnknownFixture(f"no skeleton of {joints_num} joints")
