"""Choices that LaMP's options offer."""
from typing import Literal

OBJECTIVES = ("ptc", "ptm", "lm", "gen")
ConditionKind = Literal["query", "cls", "both"]
