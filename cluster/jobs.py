"""A cluster's head, asked over HTTP: what the cluster has, and jobs that are submitted, watched and stopped there.

The only client of Ray Jobs. Every question has a few seconds; a head that does not answer is an error that says so.
The token is read as Ray does (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token) and sent only to a head that asks
for one. The line that a cluster runs in a shell holds our own words, a run's id and a number; all that a user wrote
travels in files.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cluster.capacity import Capacity
from cluster.errors import HeadSilent, RunFailed, UsageError
from cluster.offer import Offer, node_capacity, usage_by_node
from cluster.runs import parse_run_id
from cluster.submissions import View

if TYPE_CHECKING:
    from cluster.submissions import Seen, Submission

QUICK_S = (4.0, 4.0)
"""Seconds to connect, and to the first byte of an answer: two questions in a row stay below 10 s together."""
SLOW_S = (4.0, 60.0)
"""The same for what a head does before it answers: it takes code in, or finds a place for a job."""
LOOK_EVERY_S = 10.0
CHATTY = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""Loggers that tell a user of uploads and closed connections; the latter two set their level themselves."""
TOKEN_REMEDY = "Set RAY_AUTH_TOKEN_PATH to the file that holds the cluster's token, or put it into ~/.ray/auth_token."


class Head:
    """A cluster's head that answers, and takes our token where it asks for one."""

    def __init__(self, address: str) -> None:
        self.address = checked_address(address)
        self.asks_token = self._asks_token()
        self._client: Any = _client(self.address, _token_header(self.address) if self.asks_token else {})
        self._answer("/api/version")

    @property
    def warnings(self) -> list[str]:
        """What is unsafe about talking to this head."""
        if _is_loopback(self.address):
            return []
        found: list[str] = []
        if self.address.startswith("http://"):
            found.append(f"{self.address} is not encrypted: use https, or a tunnel to the head, outside a trusted net")
        if not self.asks_token:
            found.append(f"{self.address} asks for no token: whoever reaches it runs code there (RAY_AUTH_MODE=token)")
        return found

    def offer(self) -> Offer:
        """Return what the cluster has, and what of it is free as far as the head knows."""
        about = self._answer("/api/v0/cluster_metadata")["data"]
        listed = self._answer("/nodes?view=summary")["data"]["summary"]
        usage = usage_by_node(self._answer("/api/cluster_status")["data"])
        alive = [node for node in listed if node["raylet"]["state"] == "ALIVE"]
        nodes = [node_capacity(node, usage) for node in alive]
        working = tuple(node for node in nodes if node.cpus > 0)
        return Offer(
            ray_version=about["rayVersion"],
            python_version=about["pythonVersion"],
            capacity=Capacity(working),
            hosts=frozenset(node.host for node in nodes),
            knows_free=all(node.node_id in usage for node in working),
        )

    def submit(self, submission: Submission, variables: Mapping[str, str], code: Path | None) -> None:
        """Start the driver of a run, with ``code`` as its working directory (None: what is installed there)."""
        parse_run_id(submission.run)
        environment: dict[str, Any] = {"env_vars": dict(variables)} | ({"working_dir": str(code)} if code else {})
        with _told("the cluster did not take the job"):
            self._client.submit_job(
                entrypoint=f"exec python -m cluster.submitted {submission.run} {submission.attempt:d}",
                submission_id=submission.job,
                runtime_env=environment,
                metadata={"owner": submission.owner, "run": submission.run, "job_hash": submission.job_hash},
            )

    def view(self, job: str) -> View:
        """Return what the cluster says of a job."""
        reply = self._client._do_request("GET", f"/api/jobs/{job}")
        if reply.status_code == 404:
            return View("absent")
        if reply.status_code != 200:
            raise RunFailed(f"the head at {self.address} answered {reply.status_code}", _first_line(reply.text))
        return _view(reply.json())

    def stop(self, job: str) -> None:
        """End a job's driver: at first asked to, a few seconds later killed."""
        with _told("the cluster did not stop the job"):
            self._client.stop_job(job)

    def log(self, job: str) -> str:
        """Return what a job's driver has printed; empty where the cluster has no such job."""
        if self.view(job).seen == "absent":
            return ""
        with _told("the cluster did not show the log"):
            return self._client.get_job_logs(job)

    def follow(self, job: str) -> Iterator[str]:
        """Yield a job's log as it grows, to the job's end. Raises HeadSilent where the head is lost meanwhile."""
        from aiohttp import ClientError

        loop = asyncio.new_event_loop()
        stream = self._client.tail_job_logs(job)

        async def part() -> str | None:
            return await anext(stream, None)

        pending: asyncio.Task[str | None] | None = None
        try:
            while True:
                pending = loop.create_task(part())
                while not loop.run_until_complete(asyncio.wait([pending], timeout=LOOK_EVERY_S))[0]:
                    self.view(job)  # a connection whose other end has vanished is silent for ever
                text = pending.result()
                if text is None:
                    return
                yield text
        except (OSError, RuntimeError, ClientError) as error:
            raise HeadSilent(f"the head at {self.address} was lost: {_first_line(str(error))}") from error
        finally:
            if pending is not None and not pending.done():
                pending.cancel()
                loop.run_until_complete(asyncio.wait([pending]))
            loop.run_until_complete(stream.aclose())
            loop.close()

    def _asks_token(self) -> bool:
        reply = _client(self.address, {})._do_request("GET", "/api/authentication_mode")
        if reply.status_code != 200:
            what = f"{self.address} answered {reply.status_code} where a head of Ray says how it authenticates"
            raise UsageError(what, "Check the address: it is the dashboard's, usually http://HEAD:8265.")
        try:
            return reply.json()["authentication_mode"] != "disabled"
        except (ValueError, KeyError, TypeError) as error:
            what = f"what answers at {self.address} is no head of Ray"
            raise UsageError(what, "Check the address: it is the dashboard's, usually http://HEAD:8265.") from error

    def _answer(self, endpoint: str) -> Any:
        reply = self._client._do_request("GET", endpoint)
        if reply.status_code != 200:
            raise RunFailed(f"the head at {self.address} answered {reply.status_code}", _first_line(reply.text))
        return reply.json()


def checked_address(text: str) -> str:
    """Return a head's address as http(s)://HOST:PORT; raises UsageError where ``text`` is none."""
    whole = text if "://" in text else f"http://{text}"
    remedy = "Give the dashboard's address, as http://HEAD:8265."
    try:
        parts = urlsplit(whole)
        port = parts.port
    except ValueError:
        raise UsageError(f"{text!r} is not the address of a cluster's head", remedy) from None
    if parts.username is not None or parts.password is not None:
        raise UsageError("the address holds a user or a password", f"{remedy} {TOKEN_REMEDY}")
    wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query
    if wrong or parts.fragment:
        raise UsageError(f"{text!r} is not the address of a cluster's head", remedy)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{port or (443 if parts.scheme == 'https' else 8265)}"


def head_capacity(address: str) -> Capacity:
    """Return what the cluster of a head can hand out."""
    return Head(address).offer().capacity


def _client(address: str, headers: Mapping[str, str]) -> Any:
    """Return Ray's client for one address, with bounds on the time that its questions take.

    Ray's own constructor prefers RAY_ADDRESS to the address it is given, and asks twice (ray.dashboard.utils,
    get_address_for_submission_client, Ray 2.60).
    """
    import requests
    from ray.dashboard.modules.dashboard_sdk import SubmissionClient
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(logging.ERROR)

    class Client(JobSubmissionClient):
        def __init__(self) -> None:
            SubmissionClient.__init__(self, address=address, headers=dict(headers))

        def _do_request(self, method: str, endpoint: str, **how: Any) -> Any:
            bound = QUICK_S if method == "GET" else SLOW_S
            try:
                return super()._do_request(method, endpoint, timeout=bound, **how)
            except AuthenticationError as error:
                raise _token_refused(address, has_token=bool(headers)) from error
            except requests.exceptions.RequestException as error:
                raise HeadSilent(
                    f"the head at {address} does not answer: {_cause(error)}",
                    "Check the address, and that the head runs and lets you through (hone doctor --address).",
                ) from error

    return Client()


def _token_header(address: str) -> dict[str, str]:
    """Return the header with our token, wherever Ray finds one. Raises UsageError where there is none."""
    from ray._raylet import AuthenticationTokenLoader  # pyright: ignore[reportAttributeAccessIssue]
    from ray.exceptions import AuthenticationError

    try:
        header = AuthenticationTokenLoader.instance().get_token_for_http_header(ignore_auth_mode=True)
    except AuthenticationError as error:
        raise UsageError(f"the token cannot be read: {_first_line(str(error))}", TOKEN_REMEDY) from error
    if not header:
        raise _token_refused(address, has_token=False)
    return dict(header)


def _token_refused(address: str, *, has_token: bool) -> UsageError:
    what = "does not take the token that is set here" if has_token else "asks for a token, and none is set here"
    return UsageError(f"the head at {address} {what}", TOKEN_REMEDY)


@contextmanager
def _told(what: str) -> Generator[None]:
    """Turn what Ray's client raises for an answer other than 200 into one of our errors."""
    try:
        yield
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip(" .^")]
        raise RunFailed(f"{what}: {lines[-1].strip() if lines else 'no reason given'}"[:400]) from error


def _view(details: Mapping[str, Any]) -> View:
    seen: dict[str, Seen] = {
        "PENDING": "pending",
        "RUNNING": "running",
        "SUCCEEDED": "succeeded",
        "FAILED": "failed",
        "STOPPED": "stopped",
    }
    return View(seen[details["status"]], details.get("message") or "")


def _is_loopback(address: str) -> bool:
    name = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _cause(error: BaseException) -> str:
    """Return the innermost reason of a failed request, without the wrappers of two libraries."""
    kind = type(error).__name__
    if "Timeout" in kind:
        return "nothing came back in time"
    while error.args and isinstance(inner := getattr(error.args[0], "reason", error.args[0]), BaseException):
        error = inner
    return _first_line(str(error).rpartition(": ")[2] or kind)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:300]
