"""The server on Ray Serve: replicas of one application on the machines of a cluster, behind Ray's own proxies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vtokens.core.extras import needs
from vtokens.serve.keys import ENVIRONMENT, Keys, read_keys

if TYPE_CHECKING:
    from ray.serve import Application

    from vtokens.serve.errors import App, Receive, Scope, Send
    from vtokens.serve.settings import Settings

_SPARE = 10.0  # seconds that a replica may take beyond the drain of its own queue


class Replica:
    """What travels to each replica: the settings; the model is loaded there, by the first message it gets."""

    def __init__(self, settings: Settings, keys: Keys, loopback: bool, hosts: Iterable[str]) -> None:
        self._settings, self._keys, self._loopback, self._hosts = settings, keys, loopback, tuple(hosts)
        self._app: App | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the server does; the first scope is that of the lifespan, before which a replica is not ready."""
        if self._app is None:
            from vtokens.serve.app import make_app
            from vtokens.serve.front import Front
            from vtokens.serve.guard import guarded
            from vtokens.serve.server import ROUTES

            made: Any = make_app(self._settings)
            inner = guarded(made, self._settings.limits, self._keys, loopback=self._loopback, hosts=self._hosts)
            self._app = Front(inner, made.state.metrics, ROUTES)
        await self._app(scope, receive, send)


def application(
    settings: Settings,
    keys: Keys | None = None,
    *,
    replicas: int = 1,
    cpus: float = 1,
    gpus: float = 0,
    loopback: bool = True,
    hosts: Iterable[str] = (),
    **options: Any,
) -> Application:
    """The server as an application of Ray Serve: `serve.run(application(Settings(...)))`, or `serve run MODULE:NAME`.

    Each replica makes its batches itself, of the requests that it was given. Ray hands a replica no more than fit into
    its batch and its queue (`max_ongoing_requests`), lets as many wait as one queue holds, and refuses the rest with
    503; nothing of Ray's batches beside that (`@serve.batch`), which would be a second queue.

    Args:
        settings: as of `vtokens serve`; `device` is where a replica's model goes.
        keys: who may ask; None takes those of the environment, where the application is made.
        replicas: models at work.
        cpus, gpus: of each replica, as Ray counts them.
        loopback: whether the proxies listen on 127.0.0.1 alone, which is Ray's default.
        hosts: names that the server has besides.
        options: further ones of `serve.deployment`, such as `autoscaling_config` in place of `replicas`.

    Raises:
        ImportError: Ray is not installed.
        ValueError: proxies that others reach, without keys.
    """
    with needs("ray", "Ray Serve"):
        from ray import serve

    keys = read_keys() if keys is None else keys
    if not loopback and not keys:
        raise ValueError(
            f"loopback=False lets other machines in, and no key is asked of them: give keys, or set {ENVIRONMENT}"
        )

    class VtokensServer:
        """One model, with its queue."""

    told: dict[str, Any] = {
        "name": "vtokens",
        "max_ongoing_requests": settings.most + settings.queue,
        "max_queued_requests": settings.queue,
        "graceful_shutdown_timeout_s": settings.drain + _SPARE,
        "ray_actor_options": {"num_cpus": cpus, "num_gpus": gpus},
    }
    if "autoscaling_config" not in options:
        told["num_replicas"] = replicas
    ingress: Any = serve.ingress(Replica(settings, keys, loopback, hosts))(VtokensServer)
    deployment: Any = serve.deployment(ingress, **told | options)
    return deployment.bind()
