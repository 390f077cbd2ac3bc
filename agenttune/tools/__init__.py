"""Tools over one run, for language models and for programs: derived from the commands, answered from a `RunReader`."""

from agenttune.tools.answers import MAX_ANSWER_CHARACTERS, encode, error_text, record_text
from agenttune.tools.reads import READS
from agenttune.tools.shapes import WRITE_KINDS, plain_schema, write_shape
from agenttune.tools.toolbox import Outcome, Toolbox, Wait, offered_tools

__all__ = [
    "MAX_ANSWER_CHARACTERS",
    "READS",
    "WRITE_KINDS",
    "Outcome",
    "Toolbox",
    "Wait",
    "encode",
    "error_text",
    "offered_tools",
    "plain_schema",
    "record_text",
    "write_shape",
]
