"""What faults do to a training while it runs, each kind a class; the loops of the tasks call its hooks.

What lies in the data is a function of seed and step: a return to an earlier step meets it again. An accident happens
once in a training: after a return it is over; in a trial that is undone it happens, and is still to come.
"""

from __future__ import annotations

from agenttune.bench.tasks.injection import batches, gradients, layers, operator, reports
from agenttune.bench.tasks.injection.injector import Injector, make_injector

__all__ = ["Injector", "batches", "gradients", "layers", "make_injector", "operator", "reports"]
