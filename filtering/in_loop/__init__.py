"""The filter inside somebody else's training loop, in a handful of lines."""

from memsieve.filtering.in_loop.keys import content_key
from memsieve.filtering.in_loop.loop_filter import LoopFilter

__all__ = ["LoopFilter", "content_key"]
