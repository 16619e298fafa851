import contextlib, threading, torch
from bitzones.models import loading
from bitzones.schema.profile_sections import Model
from bitzones.serve.http.served import Routed
class Tiny:
    def __init__(self, source="embedded:tiny"):
        l=loading.load(Model(source=source),torch.device("cpu"))
        self.model, self.tokenizer, self.name, self.sha256, self.tasks = l.model,l.tokenizer,source,l.sha256,("base",)
        self.resident_bytes=sum(p.nbytes for p in l.model.parameters()); self._lock=threading.Lock()
    @contextlib.contextmanager
    def precision(self, task):
        with self._lock: yield
    def route(self, prompt, *, task=None, system=None):
        return Routed(task or "base", "only plan" , None)
