// Tools as functions: each call is one message to the gate, which decides, records and runs it.
//
// A stub binds positions to names and nothing more. The denial, the tool's own error and the end of the program come
// back as errors; which of them it is, the gate says.

import { call } from "weir:guest/host";

import { decode, packArguments, put } from "./values.js";

const { Error, JSON, Object, String, TypeError } = globalThis;

// The gate refused. The text says why and what is allowed instead; the same call will be refused again.
export class PermissionDenied extends Error {}

// The tool ran and failed. `kind` is the type of its error on the host.
export class ToolError extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }

  toString() {
    return `ToolError: ${this.kind}: ${this.message}`;
  }
}

// Ends the program from inside a call: the answer is recorded, or a limit is reached.
export class Ended extends Error {}

for (const type of [PermissionDenied, ToolError, Ended]) put(type.prototype, "name", type.name);

// Sends one message and returns the value of the answer.
export function ask(kind, name, args = "{}") {
  const answer = JSON.parse(call(kind, name, args));
  if ("value" in answer) return decode(answer.value);
  if ("denied" in answer) throw new PermissionDenied(answer.denied);
  if ("ended" in answer) throw new Ended(answer.ended);
  throw new ToolError(answer.error.type, answer.error.message);
}

// One tool's stub: arguments by position, or one object with all of them by name.
export function tool(spec, limit) {
  const names = spec.params.map((param) => param.name);
  const required = spec.params.filter((param) => param.required).map((param) => param.name);
  const stub = (...args) => {
    const values = byName(names, required, args) ?? args;
    check(spec.name, names, required, values);
    return ask("tool", spec.name, packArguments(names, values, limit));
  };
  Object.defineProperty(stub, "name", { value: spec.name });
  Object.defineProperty(stub, "length", { value: required.length });
  put(stub, "description", spec.description);
  put(stub, "toString", () => `<tool ${spec.name}(${names.join(", ")})>`);
  return stub;
}

// Argument errors as a function would raise them; a value that is undefined is not given.
function check(tool, names, required, values) {
  if (values.length > names.length) {
    throw new TypeError(`${tool}() takes ${names.length} arguments but ${values.length} were given`);
  }
  const missing = required.filter((name) => values[names.indexOf(name)] === undefined);
  if (missing.length > 0) {
    throw new TypeError(`${tool}() misses ${missing.join(", ")}; its arguments are: ${names.join(", ") || "none"}`);
  }
}

// The values of a single plain object that names arguments, every required one among them; otherwise it is a value.
function byName(names, required, args) {
  const [only] = args;
  if (args.length !== 1 || only === null || typeof only !== "object") return null;
  if (Object.getPrototypeOf(only) !== Object.prototype) return null;
  const given = Object.keys(only);
  const fits = given.length > 0 && given.every((name) => names.includes(name));
  return fits && required.every((name) => given.includes(name)) ? names.map((name) => only[name]) : null;
}

// Answers an import: the gate decides about one outside the list, and inside it nothing is here to import.
export function imported(name, granted) {
  const module = String(name);
  const base = module.replace(/^node:/, "").split("/")[0];
  if (!granted.has(module) && !granted.has(base)) {
    try {
      ask("import", module);
    } catch (error) {
      if (!(error instanceof PermissionDenied)) throw error;
      const denied = `Import of ${module} is not allowed`;
      throw error.message.includes(denied) ? error : new PermissionDenied(`${denied}. ${error.message}`);
    }
  }
  throw new Error(`${module} is not in this sandbox, which has no modules; use the language itself and the tools`);
}
