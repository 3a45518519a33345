"""A stand-in of a cluster's job server: its HTTP interface, one job, and connections that break when told to."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web


class JobServer:
    """One job, what it has printed, and whether the server answers."""

    def __init__(self) -> None:
        self.url = ""
        self.log = ""
        self.status = "RUNNING"
        self.ids: set[str] = set()
        self.answers = threading.Event()
        self.answers.set()
        self.websockets = True
        """Whether what lies between lets them through."""
        self.loses: set[str] = set()
        """`METHOD path's end` of requests that are carried out, and whose answer is lost."""
        self.requests: list[str] = []
        self.before: tuple[int, str] | None = None
        """Status and text with which something before the server answers instead of it."""

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._middleware])
        application.add_routes(
            [
                web.get("/api/version", self._version),
                web.get("/api/packages/{tail:.*}", self._there),
                web.post("/api/jobs/", self._submit),
                web.get("/api/jobs/{id}", self._job),
                web.get("/api/jobs/{id}/logs", self._logs),
                web.get("/api/jobs/{id}/logs/tail", self._tail),
                web.post("/api/jobs/{id}/stop", self._stop),
            ]
        )
        return application

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        assert request.transport
        if not self.answers.is_set():
            request.transport.abort()
        if self.before:
            status, text = self.before
            return web.Response(status=status, text=text, headers={"Location": request.path} if status == 302 else {})
        answer: web.StreamResponse = await handler(request)
        if f"{request.method} {request.path.rstrip('/').rpartition('/')[2]}" in self.loses:
            self.loses.clear()
            request.transport.abort()
        return answer

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": "2", "ray_commit": "c", "session_name": "s"})

    async def _there(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _submit(self, request: web.Request) -> web.Response:
        job_id = (await request.json())["submission_id"]
        self.ids.add(job_id)
        return web.json_response({"job_id": job_id, "submission_id": job_id})

    async def _job(self, request: web.Request) -> web.Response:
        job_id = request.match_info["id"]
        if job_id not in self.ids:
            return web.Response(status=404, text=f"Job {job_id} does not exist")
        return web.json_response(
            {"type": "SUBMISSION", "submission_id": job_id, "status": self.status, "entrypoint": "grid run"}
        )

    async def _logs(self, _: web.Request) -> web.Response:
        return web.json_response({"logs": self.log})

    async def _tail(self, request: web.Request) -> web.StreamResponse:
        if not self.websockets:
            return web.Response(status=400)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        sent = 0
        while self.answers.is_set():
            over = self.status != "RUNNING"
            if self.log[sent:]:
                await socket.send_str(self.log[sent:])
                sent = len(self.log)
            if over:
                await socket.close()
                return socket
            await asyncio.sleep(0.01)
        assert request.transport
        request.transport.abort()
        return socket

    async def _stop(self, _: web.Request) -> web.Response:
        stopped = self.status == "RUNNING"
        self.status = "STOPPED" if stopped else self.status
        return web.json_response({"stopped": stopped})


@contextmanager
def job_server() -> Iterator[JobServer]:
    """Run one on a free port."""
    server = JobServer()
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(server.application(), shutdown_timeout=1)
    ready, end = threading.Event(), asyncio.Event()

    async def serve() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await end.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield server
    finally:
        server.status = "STOPPED"
        loop.call_soon_threadsafe(end.set)
        thread.join(60)
        loop.close()
