// The guest's entry: everything at the top of these files runs once, before the image is stored.
//
// The gate calls `run` once per program. Global names stay between calls; tools, modules and limits are told anew each
// time. Whatever happens in here, the gate believes none of it without checking.

import { sources, start } from "./cell.js";
import { printed } from "./inspect.js";
import { told } from "./told.js";
import { Ended, PermissionDenied, ToolError, imported, tool } from "./tools.js";
import { HostObject, decode, packResult, put } from "./values.js";
import { Output, Timers, furnish, settle } from "./world.js";

const { Error, JSON, Map, Object, Promise, Set } = globalThis;

const output = new Output();
// The first failure of something that no statement waits for: a timer, or a promise that was dropped.
let dropped = null;
const timers = new Timers((error) => {
  dropped ??= { error };
});

// Words without which nothing can go on after a program's last statement. Who hides them from this test only finds
// that what is left runs at the beginning of the next program.
const LASTING = /async|await|Promise|then|set(Timeout|Interval)|queueMicrotask/;
let lasting = false;
// Turns of the engine's queue after which a program that only computes has ended.
const TURNS = 8;

let [number, limit, granted, stubs] = [0, 0, new Set(), new Map()];
let [aside, taken] = [false, null];

furnish(output, timers);
for (const [name, value] of Object.entries({
  HostObject,
  PermissionDenied,
  ToolError,
  require: (name) => imported(name, granted),
  __import__: async (name) => imported(name, granted),
})) {
  Object.defineProperty(globalThis, name, { value, writable: true, enumerable: false, configurable: true });
}

// Takes over what programs may use from now on.
function take(grant) {
  aside = grant.aside;
  limit = grant.result_bytes;
  granted = new Set(grant.imports);
  for (const [name, stub] of stubs) if (globalThis[name] === stub) delete globalThis[name];
  stubs = new Map(grant.tools.map((spec) => [spec.name, tool(spec, limit)]));
}

// The request is two lines of JSON: what may be used, which seldom changes, and the variables. Tools stand under their
// names at the start of every program, whatever stood there.
function prepare(request) {
  const end = request.indexOf("\n");
  const grant = request.slice(0, end);
  if (grant !== taken) {
    take(JSON.parse(grant));
    taken = grant;
  }
  if (!aside) number += 1;
  dropped = null;
  timers.clearAll();
  output.full = false;
  output.indent = "";
  for (const [name, value] of Object.entries(JSON.parse(request.slice(end + 1)))) put(globalThis, name, decode(value));
  for (const [name, stub] of stubs) put(globalThis, name, stub);
}

// Runs one program to its end, with everything that it began; the value of its last statement.
async function program(code) {
  const slot = {
    value: undefined,
    watch(value) {
      if (value instanceof Promise) {
        value.then(undefined, (error) => {
          dropped ??= { error };
        });
      }
      return value;
    },
    imported: (name) => imported(name, granted),
  };
  let [ended, failure] = [false, null];
  lasting ||= LASTING.test(code);
  const whole = async () => {
    await start(code, number, slot);
    slot.value = await slot.value;
  };
  whole().then(
    () => (ended = true),
    (error) => ([ended, failure] = [true, { error }]),
  );
  for (let turn = 0; turn < TURNS && !ended; turn++) await undefined;
  if (lasting || !ended) await settle();
  while (timers.waiting && !failure && !dropped) {
    await timers.fired();
    await settle();
  }
  failure ??= dropped;
  if (failure) throw failure.error;
  if (!ended) throw new Error("the program waits for something that cannot happen in the sandbox");
  return slot.value;
}

function answer(status, value, error) {
  const [packed, cut] = packResult(value, limit);
  const rest = JSON.stringify({ status, error, cut });
  return `${rest.slice(0, -1)},"output":${packed}}`;
}

// Runs one program; the answer's JSON text.
export async function run(code, request) {
  try {
    prepare(request);
    return answer("done", await program(code), null);
  } catch (error) {
    timers.clearAll();
    if (error instanceof Ended) return answer(error.message, undefined, null);
    return answer(error instanceof PermissionDenied ? "denied" : "failed", undefined, told(error, number));
  }
}

// Runs ordinary programs before the image is stored: what the engine compiles when it is first used is then ready in
// every new interpreter.
function rehearse() {
  const before = new Set(Object.getOwnPropertyNames(globalThis));
  const slot = { value: undefined, watch: (value) => value };
  const spec = { name: "t", params: [{ name: "a", required: true }], description: "" };
  for (let turn = 0; turn < 3; turn++) {
    for (const code of REHEARSED) start(code, 1, slot).catch(() => undefined);
    packResult({ a: [1, "b", null, 1.5, true], c: decode({ d: [{ $: ["tuple", [1]] }] }) }, 1000);
    printed(["text", 1, { a: [1, "b"] }]);
    told(new PermissionDenied("x"), 1);
    tool(spec, 1000);
  }
  for (const name of Object.getOwnPropertyNames(globalThis)) if (!before.has(name)) delete globalThis[name];
  sources.clear();
}

const REHEARSED = [
  "let a = 1, { b, c: [d] } = { b: 2, c: [3] };\nconst e = `${a} text`\nvar f = (x, ...y) => ({ x, y })\nf(a, b)",
  "function g(x) {\n  return x.map((v) => v + 1);\n}\nclass H { constructor() { this.i = 1 } }\ng([new H().i])",
  "for (const j of [1, 2]) { if (j > 1 && j !== 3) { e.at(-1) } else { j ? 1 : 'x' } }",
  "try { null.k } catch (l) { l.message }\nawait null\n[1, 2].reduce((m, n) => m + n, 0)",
  "let o = 0; while (o < 3) o++;\nconsole\n/x/g.test('x')",
];

rehearse();
