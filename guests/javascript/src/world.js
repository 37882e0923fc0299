// What a program finds in its global scope besides the language: output, timers, and plain words for what is not here.
//
// None of this is the boundary: the component imports no network and no files, whatever stands here.

import { write } from "weir:guest/host";

import { printed } from "./inspect.js";
import { put } from "./values.js";

const { Error, Map, Math, Number, Object, Promise, TypeError } = globalThis;
const { clearTimeout: stop, performance, setTimeout: wait } = globalThis;
const SLICE = 64 << 10; // characters of one message of output

// Of the engine's own: what would reach for a network or a page that is not there.
const ABSENT = ["Request", "Response", "Headers", "FormData", "MultipartFormData", "WorkerLocation", "location"];

// What is printed goes to the gate at once, so that a stopped program loses nothing.
export class Output {
  full = false;
  indent = "";

  print(...values) {
    if (this.full) return;
    const text = `${this.indent}${printed(values).replaceAll("\n", `\n${this.indent}`)}\n`;
    const whole = text.isWellFormed() ? text : text.replace(/[\uD800-\uDFFF]/gu, (c) => `\\u${c.charCodeAt(0).toString(16)}`);
    for (let at = 0; at < whole.length && !this.full; ) {
      // A pair of surrogates is one character and stays together.
      const end = at + SLICE < whole.length && /[\uD800-\uDBFF]/.test(whole[at + SLICE - 1]) ? at + SLICE - 1 : at + SLICE;
      this.full = !write(whole.slice(at, end));
      at = end;
    }
  }
}

// The `console` of programs: all of it is output.
export function consoleOf(output) {
  const counts = new Map();
  const began = new Map();
  const print = output.print.bind(output);
  const since = (label) => `${label}: ${(performance.now() - (began.get(label) ?? 0)).toFixed(3)}ms`;
  return {
    log: print,
    info: print,
    debug: print,
    warn: print,
    error: print,
    trace: print,
    dir: (value) => print(value),
    table: (value) => print(value),
    assert: (condition, ...values) => condition || print("Assertion failed", ...values),
    group: (...values) => {
      if (values.length > 0) print(...values);
      output.indent += "  ";
    },
    groupEnd: () => (output.indent = output.indent.slice(2)),
    count: (label = "default") => {
      counts.set(label, (counts.get(label) ?? 0) + 1);
      print(`${label}: ${counts.get(label)}`);
    },
    time: (label = "default") => began.set(label, performance.now()),
    timeLog: (label = "default") => print(since(label)),
    timeEnd: (label = "default") => {
      print(since(label));
      began.delete(label);
    },
  };
}

// Timers that count, so that a program's end can be told from its waiting.
export class Timers {
  #waiting = new Map();
  #next = 1;
  #fail;
  #fired = null;

  constructor(fail) {
    this.#fail = fail;
  }

  get waiting() {
    return this.#waiting.size > 0;
  }

  // Fulfilled when the next timer has fired: until then there is nothing to do.
  fired() {
    return new Promise((done) => (this.#fired = done));
  }

  set(callback, delay, args, again) {
    if (typeof callback !== "function") throw new TypeError("a timer takes a function");
    const id = this.#next++;
    this.#arm(id, callback, Math.max(0, Number(delay) || 0), args, again);
    return id;
  }

  #arm(id, callback, delay, args, again) {
    const fire = () => {
      if (again) this.#arm(id, callback, delay, args, again);
      else this.#waiting.delete(id);
      try {
        Promise.resolve(callback(...args)).catch(this.#fail);
      } catch (error) {
        this.#fail(error);
      }
      this.#fired?.();
    };
    this.#waiting.set(id, wait(fire, delay));
  }

  clear(id) {
    stop(this.#waiting.get(id));
    this.#waiting.delete(id);
  }

  clearAll() {
    for (const id of [...this.#waiting.keys()]) this.clear(id);
  }
}

// Lets everything run that can run now.
export const settle = () => new Promise((done) => wait(done, 0));

// Puts it all in place, once, before the image is stored.
export function furnish(output, timers) {
  for (const name of ABSENT) delete globalThis[name];
  const given = {
    console: consoleOf(output),
    print: (...values) => output.print(...values),
    setTimeout: (callback, delay, ...args) => timers.set(callback, delay, args, false),
    setInterval: (callback, delay, ...args) => timers.set(callback, delay, args, true),
    clearTimeout: (id) => timers.clear(id),
    clearInterval: (id) => timers.clear(id),
    fetch: () => {
      throw new Error("the sandbox has no network; use a tool that the policy allows");
    },
  };
  for (const [name, value] of Object.entries(given)) {
    Object.defineProperty(globalThis, name, { value, writable: true, enumerable: false, configurable: true });
  }
}
