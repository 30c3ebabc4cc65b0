"""Where the jobs of a collection run: in worker processes of this machine, or on a Ray cluster."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar

from rlhive._ray import connect_ray, require_ray
from rlhive.errors import InvalidOptionError, WorkerDiedError
from rlhive.rollouts._rollout import default_num_workers, map_unordered

#: How often a job whose worker died is run again.
MAX_RETRIES = 3
_BACKENDS = ("processes", "ray")

Result = TypeVar("Result")


class JobRunner(Protocol):
    """Runs jobs as :func:`rlhive.rollouts.map_unordered` does."""

    def __call__(self, function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """Yield ``function(*job)`` of every job in the order of completion."""
        ...


def require_backend(backend: str, address: str | None) -> None:
    """Check the options of :func:`open_workers`.

    Raises:
        InvalidOptionError: There is no such backend, or it takes no address.
    """
    if backend not in _BACKENDS:
        msg = f"backend={backend!r}: expected one of {', '.join(_BACKENDS)}"
        raise InvalidOptionError(msg)
    if backend != "ray" and address is not None:
        msg = f"address={address!r}: expected none with backend={backend!r}; backend='ray' takes one"
        raise InvalidOptionError(msg)


@contextlib.contextmanager
def open_workers(backend: str, *, num_workers: int | None = None, address: str | None = None) -> Iterator[JobRunner]:
    """Yield a function that runs jobs on a backend, which is connected until the block ends.

    Args:
        backend: ``"processes"`` of this machine, or ``"ray"``.
        num_workers: Number of jobs at the same time; by default one per core of the machine or of the cluster.
        address: Address of the Ray cluster, see :func:`rlhive._ray.connect_ray`.

    Raises:
        MissingExtraError, InvalidOptionError, ClusterUnreachableError: As :func:`rlhive._ray.connect_ray`.
    """
    if backend == "processes":
        yield partial(map_unordered, num_workers=num_workers or default_num_workers())
        return
    is_connected_here = connect_ray(address)
    try:
        yield partial(map_on_cluster, num_workers=num_workers)
    finally:
        if is_connected_here:
            require_ray().shutdown()


def map_on_cluster(
    function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], *, num_workers: int | None = None
) -> Iterator[Result]:
    """Yield ``function(*job)`` of every job in the order of completion, computed on the connected Ray cluster.

    Ray replaces a worker that dies, and runs its job again from the start, :data:`MAX_RETRIES` times at most. A worker
    stays alive for the next job, so that what ``function`` caches is built once per worker. An interrupt or an error
    kills the workers that run a job.

    Args:
        function: Module-level function; it is called with the same arguments again where a worker died.
        jobs: Argument tuples, one per call.
        num_workers: Number of jobs at the same time; by default the number of the cluster's CPUs.

    Raises:
        WorkerDiedError: The workers that ran a job died, one after the other.
    """
    ray = require_ray()
    remote = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(function)
    refs = (remote.remote(*job) for job in jobs)
    num_workers = num_workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending = list(itertools.islice(refs, num_workers))
    try:
        while pending:
            finished, pending = ray.wait(pending)
            pending += itertools.islice(refs, len(finished))
            for ref in finished:
                yield _get_result(ray, ref)
    except BaseException:
        for ref in pending:
            ray.cancel(ref, force=True)
        raise


def _get_result(ray: Any, ref: Any) -> Any:
    """Return the result of a job, or raise its error as if it had run in this process."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())
        msg = (
            f"The workers that ran a job died {MAX_RETRIES + 1} times: {reason} Recorded episodes are kept; run the "
            "same command again to resume."
        )
        raise WorkerDiedError(msg) from error
