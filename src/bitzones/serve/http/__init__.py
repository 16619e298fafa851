"""An OpenAI-compatible HTTP server for people who try a plan; vLLM is what serves one to many."""

from bitzones.serve.http.app import create_app
from bitzones.serve.http.server import bind, run, running
from bitzones.serve.limits import Limits

__all__ = ["Limits", "bind", "create_app", "run", "running"]
