// The guest's entry: everything at the top of these files runs once, before the image is stored.
//
// The gate calls `run` once per program. Global names stay between calls; tools, modules and limits are told anew each
// time. Whatever happens in here, the gate believes none of it without checking.

import { start } from "./cell.js";
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

let [number, limit, granted, stubs] = [0, 0, new Set(), new Map()];

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

// Sets the variables, then the tools: a tool's name is the tool at the start of every program.
function bind(request) {
  for (const [name, stub] of stubs) if (globalThis[name] === stub) delete globalThis[name];
  for (const [name, value] of Object.entries(request.variables)) put(globalThis, name, decode(value));
  stubs = new Map(request.tools.map((spec) => [spec.name, tool(spec, limit)]));
  for (const [name, stub] of stubs) put(globalThis, name, stub);
}

function prepare(request) {
  number += 1;
  dropped = null;
  timers.clearAll();
  limit = request.result_bytes;
  granted = new Set(request.imports);
  output.full = false;
  output.indent = "";
  bind(request);
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
  const whole = async () => {
    await start(code, number, slot);
    slot.value = await slot.value;
  };
  whole().then(
    () => (ended = true),
    (error) => ([ended, failure] = [true, { error }]),
  );
  await settle();
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
    prepare(JSON.parse(request));
    return answer("done", await program(code), null);
  } catch (error) {
    timers.clearAll();
    if (error instanceof Ended) return answer(error.message, undefined, null);
    return answer(error instanceof PermissionDenied ? "denied" : "failed", undefined, told(error, number));
  }
}
