// What `import { start } from "ignite"` is: the HTTP server around a handler.
//
// A call is one request. Its body is the handler's `payload`; `ctx` has the execution, the
// function and the organization that the platform's headers name, and all headers. What the handler
// returns is the answer: bytes as they are, a string as UTF-8, a stream or an iterator piece by piece, a Response
// as it is, anything else as JSON. What it throws is a 500 with `error`.

/** Whose call it is. */
export interface Context {
  execution_id: string;
  function_id: string;
  organization_id: string;
  /** The headers of the request. */
  headers: Headers;
}

/** Answers a call; may be async. */
export type Handler = (payload: Uint8Array<ArrayBuffer>, ctx: Context) => unknown;

const HEALTH_PATH = "/healthz";
const JSON_TYPE = "application/json";
const BYTES = "application/octet-stream";
const TEXT = "text/plain; charset=utf-8";
const LINES = "application/x-ndjson";
const NEW_LINE = 10;

const encoder = new TextEncoder();

/** Serves the handler on $PORT until SIGTERM, then until every call has its answer. */
export function start(handler: Handler): void {
  if (typeof handler !== "function") {
    throw new TypeError("start(handler) needs a function (payload: Uint8Array, ctx) => …");
  }
  const port = setting("PORT", 80);
  const most = setting("IGNITE_MAX_PAYLOAD_BYTES", 64 * 1024 * 1024);
  const server = Deno.serve(
    { hostname: "0.0.0.0", port, onListen: () => {} },
    (request) => isHealth(request) ? new Response("ok\n") : call(handler, request, most),
  );
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    Deno.addSignalListener(signal, () => void server.shutdown());
  }
  // A timer of the handler must not keep the process.
  void server.finished.then(() => Deno.exit());
}

/** A whole number of at least 1 from the environment. */
function setting(name: string, otherwise: number): number {
  const text = Deno.env.get(name) || String(otherwise);
  if (!/^[0-9]+$/.test(text) || Number(text) < 1) {
    throw new RangeError(`${name}=${text} is not a whole number of at least 1`);
  }
  return Number(text);
}

/** Whether the platform asks for the container's health: at the usual path, or at one that the app
 * set, where only the platform's own questions name no execution. */
function isHealth(request: Request): boolean {
  if (request.method !== "GET" && request.method !== "HEAD") return false;
  const { headers } = request;
  return new URL(request.url).pathname === HEALTH_PATH ||
    (!headers.has("x-ignite-execution-id") &&
      (headers.get("user-agent") ?? "").startsWith("ignite-health"));
}

async function call(handler: Handler, request: Request, most: number): Promise<Response> {
  const header = (name: string) => request.headers.get(name) ?? "";
  const ctx = {
    execution_id: header("x-ignite-execution-id"),
    function_id: header("x-ignite-function-id"),
    organization_id: header("x-ignite-organization-id"),
    headers: request.headers,
  };
  const payload = await read(request, most);
  if (payload === undefined) {
    return answer(JSON.stringify({ error: `the payload has more than ${most} bytes` }), JSON_TYPE, 413);
  }
  try {
    return await respond(await handler(payload, ctx));
  } catch (error) {
    report(ctx, error);
    const text = error instanceof Error ? error.message : String(error);
    return answer(JSON.stringify({ error: text }), JSON_TYPE, 500);
  }

  /** The answer for what the handler returned. */
  async function respond(value: unknown): Promise<Response> {
    if (value instanceof Response) return value;
    const pieces = iterator(value);
    if (pieces === undefined) return answer(...encode(value));
    // Before the head: what fails here can still become a 500.
    const first = await pieces.next();
    if (first.done) return answer(new Uint8Array(), BYTES);
    const [head, kind] = encodePiece(first.value);
    let waiting: Uint8Array | undefined = head;
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        try {
          if (waiting !== undefined) {
            controller.enqueue(waiting);
            waiting = undefined;
            return;
          }
          const next = await pieces.next();
          if (next.done) controller.close();
          else controller.enqueue(encodePiece(next.value)[0]);
        } catch (error) {
          // A body that breaks off must not look whole.
          report(ctx, error);
          controller.error(error);
        }
      },
      async cancel() {
        await pieces.return?.();
      },
    });
    return answer(body, kind);
  }
}

/** The body of a request; undefined when it is too long. */
async function read(
  request: Request,
  most: number,
): Promise<Uint8Array<ArrayBuffer> | undefined> {
  if (Number(request.headers.get("content-length") ?? 0) > most) return undefined;
  const pieces: Uint8Array[] = [];
  let length = 0;
  for await (const piece of request.body ?? []) {
    length += piece.length;
    if (length > most) return undefined;
    pieces.push(piece);
  }
  const whole = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

/** How a value comes piece by piece, if it does: streams, generators and their like. An array is a
 * value, and so is what merely can be iterated. */
function iterator(value: unknown): AsyncIterator<unknown> | Iterator<unknown> | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  if (Symbol.asyncIterator in value) {
    return (value as AsyncIterable<unknown>)[Symbol.asyncIterator]();
  }
  if (Symbol.iterator in value && "next" in value) {
    return (value as Iterable<unknown>)[Symbol.iterator]();
  }
  return undefined;
}

/** A value as body and content type. */
function encode(value: unknown): [Uint8Array<ArrayBuffer>, string] {
  if (value instanceof ArrayBuffer) return [new Uint8Array(value), BYTES];
  if (ArrayBuffer.isView(value)) {
    const { buffer, byteOffset, byteLength } = value;
    return [new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength), BYTES];
  }
  if (typeof value === "string") return [encoder.encode(value), TEXT];
  return [encoder.encode(JSON.stringify(value) ?? "null"), JSON_TYPE];
}

/** One piece of a stream; values that become JSON are told apart by lines. */
function encodePiece(value: unknown): [Uint8Array, string] {
  const [body, kind] = encode(value);
  return kind === JSON_TYPE ? [new Uint8Array([...body, NEW_LINE]), LINES] : [body, kind];
}

function answer(body: BodyInit, kind: string, status = 200): Response {
  return new Response(body, { status, headers: { "content-type": kind } });
}

function report(ctx: Context, error: unknown): void {
  console.error(`ignite: execution ${ctx.execution_id || "none"} failed:`, error);
}
