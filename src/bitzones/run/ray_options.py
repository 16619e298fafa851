"""How a sweep is spread over a Ray cluster. Imports nothing heavy: the options of the plugin and the command line are made here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from bitzones.schema.errors import MissingPackageError

__all__ = ["LOCAL", "RayOptions"]

LOCAL = "local"
"""In place of an address: a cluster of this machine alone, for the time of the run."""


@dataclass(frozen=True)
class RayOptions:
    """Where workers are started, and how many.

    Args:
        address: of a running cluster, as `ray.init` takes it, or ``local``.
        workers: at most so many; None is one for every ``gpus`` GPUs, or for every ``cpus`` CPUs where a model fits.
        cpus: of a worker without a GPU.
        gpus: of a worker with any: several, where one does not hold the model.
        resume: whether finished blocks of an earlier run in the same folder are taken over.
    """

    address: str
    workers: int | None = None
    cpus: int = 1
    gpus: int = 1
    resume: bool = False

    def require_package(self) -> None:
        """Refuse at once where Ray is not installed.

        Raises:
            MissingPackageError: says what to install.
        """
        if find_spec("ray") is None:
            raise MissingPackageError("this needs the package ray: pip install 'bitzones[ray]'")
