"""No test reaches a provider by accident, whatever the developer's own environment holds."""

from __future__ import annotations

import os

from agenttune.chat import REMOTE_ENV

# Before any test module is read, so that processes started by tests inherit it.
os.environ[REMOTE_ENV] = "off"
for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
    os.environ.pop(name, None)
