//! Deno: code as public samples have it, deployed without naming the runtime.

use hyper::StatusCode;

use super::{AT_ONCE, Handler, TEXT, server};
use crate::support::code::write;

/// As public samples have it: this file is the wiring, and the handler a module that serves nothing.
const DENO_MAIN: &[u8] =
    b"import { start } from \"ignite\";\nimport { handle } from \"./handler.ts\";\nstart(handle);\n";

const DENO: &str = r#"
import * as store from "ignite/store";
import { twice } from "more";

let waiting: (() => void)[] = [];

// The type is nobody's import: types are not checked when the code is built.
export async function handle(payload: Uint8Array, { headers, ...ctx }: Context): Promise<unknown> {
  const text = new TextDecoder().decode(payload);
  console.log("called with", text);
  switch (text) {
    case "ctx": return ctx;
    case "header": return headers.get("X-Ignite-Function-Id");
    case "keep": return store.set("kept", text) ?? store.get("kept");
    case "twice": return { twice: twice(2) };
    case "bytes": return new Uint8Array([65, 66]);
    case "stream": return (async function* () { yield "a"; yield "b"; })();
    case "lines": return (function* () { yield { a: 1 }; yield [2]; })();
    case "response": return new Response("short and stout", { status: 418 });
    case "throw": throw new TypeError("no luck");
    case "home":
      await Deno.writeTextFile(Deno.env.get("HOME") + "/f", "x");
      return await Deno.readTextFile(Deno.env.get("HOME") + "/f");
    case "meet":
      await new Promise<void>((met) => {
        waiting.push(met);
        if (waiting.length === MANY) waiting.forEach((all) => all());
      });
      return "met";
    default: return text;
  }
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_deno_handler_answers_as_the_contract_has_it() {
    let ignite = server(&[("IGNITE_DENO_BASE", "deno")]).await;
    let code = DENO.replace("MANY", &AT_ONCE.to_string());
    let files: &[(&str, &[u8])] = &[
        ("main.ts", DENO_MAIN),
        ("handler.ts", code.as_bytes()),
        (
            "deno.jsonc",
            br#"{
                // where things are
                "imports": {
                    "ignite": "./deno/sdk/ignite/bootstrap.ts",
                    "ignite/store": "./deno/sdk/ignite/store.ts",
                    "more": "./lib/more.ts",
                },
            }"#,
        ),
        (
            "lib/more.ts",
            b"export const twice = (n: number): number => 2 * n;\n",
        ),
    ];
    let handler = Handler::new(ignite, files, &["--tier", "large"]);
    let log = handler.deploy_ok();
    let recognized = "deno.jsonc makes this a handler of the runtime deno";
    assert!(log.contains(recognized), "{log}");
    handler.gives_values().await;
    handler.answers("header", TEXT, "acme/fn").await;
    handler.answers("keep", TEXT, "keep").await;
    handler.answers("stream", TEXT, "ab").await;
    handler
        .answers("lines", "application/x-ndjson", "{\"a\":1}\n[2]\n")
        .await;
    handler.answers("home", TEXT, "x").await;
    assert_eq!(
        handler.call("response").await.status,
        StatusCode::IM_A_TEAPOT
    );
    handler.keeps_the_contract("throw").await;

    let code = "import { start } from 'ignite'; start(() => 'alone');";
    handler.can_be_one_file("deno", code, "alone").await;

    // A compile error is reported by the build, and the previous version keeps serving.
    write(
        handler.folder.path(),
        &[("main.ts", b"import \"./nowhere.ts\";\n")],
    );
    let log = handler.deploy_fails();
    assert!(
        log.contains("nowhere.ts") && log.contains("deno cache"),
        "{log}"
    );
    handler.answers("hello", TEXT, "hello").await;
}

const JSR_MAIN: &[u8] = br#"
import { start } from "ignite";
import { twice } from "@acme/twice";
start((payload: Uint8Array) => ({ twice: twice(payload.length) }));
"#;

#[tokio::test(flavor = "multi_thread")]
async fn modules_of_a_registry_are_fetched_before_the_code_of_a_deno_handler() {
    let ignite = server(&[("IGNITE_DENO_BASE", "deno")]).await;
    // The registry is a folder of the base image.
    let files: &[(&str, &[u8])] = &[
        ("main.ts", JSR_MAIN),
        (
            "deno.json",
            br#"{ "imports": { "ignite": "./sdk/start.ts", "@acme/twice": "jsr:@acme/twice@^1" } }"#,
        ),
        (
            "deno.lock",
            br#"{
                "version": "5",
                "specifiers": { "jsr:@acme/twice@1": "1.2.0" },
                "workspace": { "dependencies": ["jsr:@acme/twice@1"] }
            }"#,
        ),
    ];
    let handler = Handler::new(ignite, files, &[]);
    let log = handler.deploy_ok();
    let (install, copy) = (log.find("RUN deno install"), log.find("COPY app/"));
    assert!(install.is_some() && install < copy, "{log}");
    handler
        .answers("two", "application/json", "{\"twice\":6}")
        .await;
}
