"""Tools over one run, for language models and for programs: derived from the commands, answered from a `RunReader`.

They know the protocol, and nothing of where a run is.
"""

from agenttune.llm.tools.read_tools import offered_reads
from agenttune.llm.tools.tool_results import MAX_ANSWER_CHARACTERS, encode, error_text, record_text
from agenttune.llm.tools.tool_schemas import plain_schema, write_kinds, write_shape
from agenttune.llm.tools.toolbox import Toolbox, ToolOutcome, ToolWait, accepted_names, offered_tools

__all__ = [
    "MAX_ANSWER_CHARACTERS",
    "ToolOutcome",
    "ToolWait",
    "Toolbox",
    "accepted_names",
    "encode",
    "error_text",
    "offered_reads",
    "offered_tools",
    "plain_schema",
    "record_text",
    "write_kinds",
    "write_shape",
]
