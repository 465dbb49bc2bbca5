"""The HTTP server around a handler: what a container of the Python runtime runs.

    server.py DIRECTORY     imports handler.py there, then serves it on $PORT

A call is one request. Its body is the handler's `payload`; `ctx` has the execution, the function
and the organization that the platform's headers name. What the handler returns is the answer:
bytes as they are, str as UTF-8, an iterator piece by piece, anything else as JSON. What it raises
is a 500 with `error`, `type` and `traceback`.

Three kinds of thread share the work. The main one runs an event loop with all the sockets and
never runs a handler's code, so that the health path answers however busy the handler is. A `def`
handler runs on a thread of a bounded pool, from the call to the last piece of its answer. An
`async def` handler runs on the second event loop, which is all the handler's. Calls that find no
thread free wait; those over IGNITE_MAX_CALLS wait with their body unread, which bounds memory.

Only the standard library, of Python 3.9 and later.
"""

import asyncio
import contextvars
import importlib.util
import inspect
import json
import logging
import os
import signal
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

# Longest request line with headers; what most servers take.
MAX_HEAD = 64 * 1024
# Time for the rest of a head whose first byte has come. Connections without a request stay: the
# gateway keeps them for the next one.
HEAD_TIMEOUT = 60
# What asyncio and the platform's own servers use; a burst of connects fits.
BACKLOG = 512

HEALTH_PATH = "/healthz"
CONTEXT = {
    "execution_id": "x-ignite-execution-id",
    "function_id": "x-ignite-function-id",
    "organization_id": "x-ignite-organization-id",
}
# Modules that the cloud has without a list, as far as its manual names them, and packages that are
# called otherwise than the module in them.
IN_CLOUD = ("boto3", "httpx", "numpy", "pandas", "pydantic", "requests")
PACKAGES = {
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "jwt": "PyJWT",
    "PIL": "Pillow",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
JSON = "application/json"
BYTES = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"
LINES = "application/x-ndjson"

class Refused(Exception):
    """A request that is not HTTP as this server takes it; the connection ends after the answer."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Gone(Exception):
    """Nobody is there to take more of the answer."""


def setting(name, default):
    """A whole number of at least 1 from the environment."""
    text = os.environ.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        sys.exit(f"ignite: {name}={text!r} is not a whole number of at least 1")
    return int(text)


# === Handler ===


def load(directory):
    """The handler of the directory. Ends the process when there is none that can be called."""
    sys.path[0] = directory
    try:
        import handler as module
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "handler":
            sys.exit(f"ignite: there is no handler.py at the root of the code ({directory})")
        sys.exit(f"ignite: handler.py cannot be imported\n{failure(error)['traceback'].rstrip()}")
    handler = getattr(module, "handler", None)
    if not callable(handler):
        sys.exit("ignite: handler.py has no function `def handler(payload: bytes, ctx: dict)`")
    try:
        inspect.signature(handler).bind(b"", {})
    except TypeError as error:
        sys.exit(f"ignite: handler.handler cannot be called with (payload, ctx): {error}")
    except ValueError:
        # Written in C and without a signature: the first call will show.
        pass
    return handler


def encode(value):
    """What a handler returned, as body and content type."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value), BYTES
    if isinstance(value, str):
        return value.encode(), TEXT
    return json.dumps(value).encode(), JSON


def encode_piece(value):
    """One piece of a streamed answer; values that become JSON are told apart by lines."""
    body, kind = encode(value)
    return (body + b"\n", LINES) if kind == JSON else (body, kind)


def failure(error):
    """The answer for what a handler raised, without the frames of this file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace)
    lines.append(remedy(error))
    try:
        text = str(error)
    except Exception:  # its __str__ is the handler's code, too
        text = "<no text: str() of the exception failed>"
    return {"error": text, "type": type(error).__name__, "traceback": "".join(lines)}


def remedy(error):
    """What to do about a module that is not there; empty for any other error. The line is the last of
    the traceback, so that it is also in what the platform says of a container that does not start."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    module = error.name.partition(".")[0]
    try:
        if importlib.util.find_spec(module) is not None:
            return ""  # a part of a module that is there
    except (ImportError, ValueError):
        return ""
    package = PACKAGES.get(module, module)
    text = f"ignite: {module} is not installed: add {package} to requirements.txt at the root of the code"
    if module in IN_CLOUD:
        text += f"; the cloud has {package} pre-installed, here that is for the server's python_base"
    return text + "\n"


class Workers:
    """Where the handler's code runs."""

    def __init__(self, handler, threads):
        self.handler = handler
        inner = handler if inspect.isroutine(handler) else getattr(handler, "__call__", handler)
        self.is_async = inspect.iscoroutinefunction(inner)
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="handler")
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="handler-loop", daemon=True).start()

    async def call(self, payload, ctx, answer):
        """Runs one call to its end; `answer` gets what it makes."""
        if self.is_async:
            await self.on_loop(self.handler(payload, ctx), answer)
            return
        io = asyncio.get_running_loop()
        context = contextvars.copy_context()
        rest = await io.run_in_executor(self.pool, context.run, self.on_thread, payload, ctx, answer)
        if rest is not None:
            await self.on_loop(rest, answer)

    def on_thread(self, payload, ctx, answer):
        """A call on a thread; answers what only an event loop can go on with."""
        try:
            result = self.handler(payload, ctx)
            if inspect.isawaitable(result) or hasattr(result, "__aiter__"):
                return result
            self.pieces(result, answer)
        except BaseException as error:  # SystemExit must not end the thread either
            answer.fail(error)
        finally:
            flush()
        return None

    def pieces(self, result, answer):
        """Answers with a result, on a thread."""
        if not hasattr(result, "__next__"):
            answer.whole(*encode(result))
            return
        try:
            for value in result:
                answer.piece(*encode_piece(value)).result()
                flush()
            answer.end()
        except Gone:
            pass
        finally:
            if hasattr(result, "close"):
                result.close()

    async def on_loop(self, work, answer):
        """Goes on with a coroutine or an async iterator, on the handler's own loop."""
        future = asyncio.run_coroutine_threadsafe(self.finish(work, answer), self.loop)
        await asyncio.wrap_future(future)

    async def finish(self, work, answer):
        try:
            if inspect.isawaitable(work):
                work = await work
            if hasattr(work, "__aiter__"):
                await self.async_pieces(work, answer)
            elif hasattr(work, "__next__"):
                # An ordinary iterator would hold up every other call of the loop.
                run = asyncio.get_running_loop().run_in_executor
                await run(self.pool, contextvars.copy_context().run, self.pieces, work, answer)
            else:
                answer.whole(*encode(work))
        except BaseException as error:
            answer.fail(error)
        finally:
            flush()

    async def async_pieces(self, result, answer):
        try:
            async for value in result:
                await asyncio.wrap_future(answer.piece(*encode_piece(value)))
                flush()
            answer.end()
        except Gone:
            pass
        finally:
            if hasattr(result, "aclose"):
                await result.aclose()


def flush():
    """Lines go out as they end; what has no line end yet goes out after a call."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass


# === HTTP ===


class Request:
    """The head of a request and how its body comes."""

    def __init__(self, head):
        lines = head.decode("latin-1").split("\r\n")
        parts = lines[0].split(" ")
        if len(parts) != 3 or parts[2] not in ("HTTP/1.0", "HTTP/1.1"):
            raise Refused(HTTPStatus.BAD_REQUEST, "the request line is not one of HTTP/1.1")
        self.method, target, version = parts
        self.path = target.split("?", 1)[0]
        self.is_1_1 = version == "HTTP/1.1"
        self.headers = {}
        for line in lines[1:]:
            if not line:
                break
            name, colon, value = line.partition(":")
            # A space before the colon, or a folded line: servers disagree on what they mean.
            if not colon or not name or name != name.strip():
                raise Refused(HTTPStatus.BAD_REQUEST, "a header line is malformed")
            name, value = name.lower(), value.strip(" \t")
            known = self.headers.get(name)
            self.headers[name] = value if known is None else f"{known},{value}"
        options = [o.strip().lower() for o in self.headers.get("connection", "").split(",")]
        self.keep_alive = "close" not in options if self.is_1_1 else "keep-alive" in options
        coding = self.headers.get("transfer-encoding")
        self.chunked = coding is not None
        length = self.headers.get("content-length", "0")
        # Two answers to where a body ends would let one request hide in another.
        if self.chunked and ("content-length" in self.headers or not self.is_1_1):
            raise Refused(HTTPStatus.BAD_REQUEST, "the body's length is given in two ways")
        if self.chunked and coding.lower() != "chunked":
            raise Refused(HTTPStatus.NOT_IMPLEMENTED, "the only transfer coding known is chunked")
        if not length.isascii() or not length.isdigit():
            raise Refused(HTTPStatus.BAD_REQUEST, "content-length is not one number")
        self.length = int(length)

    def is_health(self):
        """Whether the platform asks for the container's health: at the usual path, or at one that
        the app set, where only the platform's own questions name no execution."""
        if self.method not in ("GET", "HEAD"):
            return False
        return self.path == HEALTH_PATH or (
            CONTEXT["execution_id"] not in self.headers
            and self.headers.get("user-agent", "").startswith("ignite-health")
        )


class Answer:
    """The answer to one request, on its way to the client. Its methods are called from the
    handler's threads; what touches the socket happens on the server's loop."""

    def __init__(self, writer, request, loop):
        self.writer, self.request, self.loop = writer, request, loop
        self.started = self.broken = False
        # The answer that goes out at once when nothing was streamed: status, type, body.
        self.complete = None

    # Called from the handler's threads.

    def whole(self, body, kind, status=HTTPStatus.OK):
        self.complete = (status, kind, body)

    def piece(self, body, kind):
        """Sends a piece; the future is done when there is room for the next."""
        return asyncio.run_coroutine_threadsafe(self.send(body, kind), self.loop)

    def end(self):
        if not self.started:
            self.whole(b"", BYTES)

    def fail(self, error):
        described = failure(error)
        execution = self.request.headers.get(CONTEXT["execution_id"], "none")
        sys.stderr.write(f"ignite: execution {execution} failed\n{described['traceback']}")
        self.broken = self.started
        self.whole(json.dumps(described).encode(), JSON, HTTPStatus.INTERNAL_SERVER_ERROR)

    # On the server's loop.

    async def send(self, body, kind):
        if self.writer.transport.is_closing():
            raise Gone
        if not self.started:
            self.started = True
            chunked = "transfer-encoding: chunked" if self.request.is_1_1 else None
            self.request.keep_alive &= self.request.is_1_1
            self.writer.write(self.head(HTTPStatus.OK, kind, chunked))
        if self.request.method == "HEAD":
            raise Gone
        if self.request.is_1_1 and body:
            body = b"%x\r\n%b\r\n" % (len(body), body)
        try:
            self.writer.write(body)
            await self.writer.drain()
        except OSError:
            raise Gone from None

    async def finish(self, draining):
        """Sends what is left once the call has ended."""
        self.request.keep_alive &= not (draining or self.writer.transport.is_closing())
        if self.broken:
            # A body that breaks off must not look whole: its last chunk never comes, or, where the
            # end of the connection would be its end, the connection is reset.
            self.request.keep_alive = False
            if not self.request.is_1_1:
                self.writer.transport.abort()
        elif not self.started:
            # Nothing is complete when the client left before the first piece.
            await self.send_whole(*(self.complete or (HTTPStatus.OK, BYTES, b"")))
        elif self.request.is_1_1 and self.request.method != "HEAD":
            self.writer.write(b"0\r\n\r\n")
            await self.writer.drain()

    async def send_whole(self, status, kind, body):
        head = self.head(status, kind, f"content-length: {len(body)}")
        self.writer.writelines([head] if self.request.method == "HEAD" else [head, body])
        await self.writer.drain()

    def head(self, status, kind, framing):
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", f"content-type: {kind}"]
        if framing is not None:
            lines.append(framing)
        if not self.request.keep_alive:
            lines.append("connection: close")
        elif not self.request.is_1_1:
            lines.append("connection: keep-alive")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


class Server:
    """The listener and its connections."""

    def __init__(self, workers, calls, payload_limit):
        self.workers, self.payload_limit = workers, payload_limit
        self.calls = asyncio.Semaphore(calls)
        self.draining = asyncio.Event()
        # Every connection, and those of them that wait for a request.
        self.open, self.idle = set(), set()

    async def run(self, port):
        """Serves until the first SIGTERM or SIGINT, then until every request has its answer."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self.stop)
        try:
            listener = await asyncio.start_server(
                self.connection, "0.0.0.0", port, limit=MAX_HEAD, backlog=BACKLOG
            )
        except (OSError, OverflowError) as error:
            sys.exit(f"ignite: cannot listen on port {port}: {error}")
        await self.draining.wait()
        listener.close()
        for writer in self.idle:
            writer.close()
        while self.open:
            await asyncio.wait(self.open)

    def stop(self):
        if self.draining.is_set():
            os._exit(1)  # asked twice: without the answers
        self.draining.set()

    async def connection(self, reader, writer):
        self.open.add(asyncio.current_task())
        try:
            while not self.draining.is_set() and await self.exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            self.open.discard(asyncio.current_task())
            writer.close()

    async def exchange(self, reader, writer):
        """One request and its answer; whether another may follow."""
        try:
            request = await self.receive(reader, writer)
            if request is None:
                return False
            answer = Answer(writer, request, asyncio.get_running_loop())
            if request.is_health():
                request.keep_alive &= not (request.chunked or request.length)
                await answer.send_whole(HTTPStatus.OK, TEXT, b"ok\n")
                return request.keep_alive
            async with self.calls:
                payload = await self.body(request, reader, writer)
                ctx = {key: request.headers.get(name, "") for key, name in CONTEXT.items()}
                await self.workers.call(payload, ctx, answer)
                await answer.finish(self.draining.is_set())
            return request.keep_alive
        except Refused as refused:
            answer = Answer(writer, Request(b"GET / HTTP/1.1\r\nconnection: close"), None)
            body = json.dumps({"error": str(refused)}).encode()
            await answer.send_whole(refused.status, JSON, body)
            return False

    async def receive(self, reader, writer):
        """The head of the next request; None when the connection ends before one."""
        self.idle.add(writer)
        try:
            first = await reader.read(1)
        finally:
            self.idle.discard(writer)
        if not first:
            return None
        late = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, writer.transport.abort)
        try:
            return Request(first + await reader.readuntil(b"\r\n\r\n"))
        except asyncio.LimitOverrunError:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise Refused(status, f"headers of over {MAX_HEAD} bytes") from None
        finally:
            late.cancel()

    async def body(self, request, reader, writer):
        if request.length > self.payload_limit:
            raise self.too_large()
        if request.headers.get("expect", "").lower() == "100-continue" and request.is_1_1:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not request.chunked:
            return await reader.readexactly(request.length)
        body = bytearray()
        while True:
            size = await self.line(reader)
            digits = size.split(b";", 1)[0].strip()
            # int() would also take signs, underscores and a prefix.
            if not digits or digits.strip(b"0123456789abcdefABCDEF"):
                raise Refused(HTTPStatus.BAD_REQUEST, "a chunk has no size")
            size = int(digits, 16)
            if len(body) + size > self.payload_limit:
                raise self.too_large()
            if size == 0:
                break
            body += await reader.readexactly(size)
            if await reader.readexactly(2) != b"\r\n":
                raise Refused(HTTPStatus.BAD_REQUEST, "a chunk is longer than its size")
        while await self.line(reader):
            pass  # trailers have nowhere to go
        return bytes(body)

    async def line(self, reader):
        try:
            return (await reader.readuntil(b"\r\n"))[:-2]
        except asyncio.LimitOverrunError:
            raise Refused(HTTPStatus.BAD_REQUEST, "a chunk's head has no end") from None

    def too_large(self):
        text = f"the payload is over {self.payload_limit} bytes, set by IGNITE_MAX_PAYLOAD_BYTES"
        return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)


def main():
    for stream in (sys.stdout, sys.stderr):
        # Whole lines, so that those of concurrent calls do not mix.
        stream.reconfigure(line_buffering=True, write_through=False)
    # Process 1 of a container is not ended by signals that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    port = setting("PORT", 80)
    threads = setting("IGNITE_MAX_THREADS", 64)
    calls = setting("IGNITE_MAX_CALLS", 256)
    payload_limit = setting("IGNITE_MAX_PAYLOAD_BYTES", 64 * 1024 * 1024)
    handler = load(os.path.abspath(sys.argv[1]))
    if not logging.getLogger().handlers:
        # A handler that sets up logging itself has done so by now.
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")

    async def serve():
        await Server(Workers(handler, threads), calls, payload_limit).run(port)

    asyncio.run(serve())


if __name__ == "__main__":
    main()
