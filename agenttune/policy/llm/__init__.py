"""The policy that asks a language model: what it is told, the two forms of asking it, and when it is worth asking.

Knows `llm/` for the call itself and the protocol for what is told; it has no path to the log or the trainer.
"""
