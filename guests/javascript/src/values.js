// Tagged values: JavaScript values to JSON and back (docs/protocol.md).
//
// Whatever JSON cannot say is `{"$": [tag, …]}`. Nothing is ever evaluated. The gate checks every message again; the
// bounds here only make the errors readable. A kind of value that JavaScript lacks (a date without a time zone, a
// decimal) is kept as it came, so that it can be passed on unchanged.

import { TOLD, shown } from "./inspect.js";

const { Array, ArrayBuffer, BigInt, Boolean, DataView, Date, Error, JSON, Map, Math, Number, Object, Set } = globalThis;
const { String, TextEncoder, TypeError, Uint8Array } = globalThis;

const DEPTH = 56; // JSON levels; the gate's own limit is 64
const NODES = 400_000;
const DIGITS = 1_200_000;
const REPR = 10_000;
const SAFE = BigInt(Number.MAX_SAFE_INTEGER);
const VIEW = Object.getPrototypeOf(Uint8Array);
const utf8 = new TextEncoder();

// A value that cannot leave the sandbox.
export class Uncrossable extends TypeError {}

// An object that stays on the host. It can be passed back to tools and nothing else.
export class HostObject {
  #parts;
  [TOLD] = true;

  constructor(id, type, text) {
    this.#parts = [String(id), String(type), String(text)];
    Object.freeze(this);
  }

  static parts(value) {
    return typeof value === "object" && value !== null && #parts in value ? value.#parts : null;
  }

  toString() {
    return `<host object ${this.#parts[1]}: ${this.#parts[2]}>`;
  }
}

// A value of another language, kept as it came: its text is readable, and a tool gets it back unchanged.
export class Carried {
  #parts;
  [TOLD] = true;

  constructor(parts) {
    this.#parts = parts;
    Object.freeze(this);
  }

  static parts(value) {
    return typeof value === "object" && value !== null && #parts in value ? value.#parts : null;
  }

  get kind() {
    return this.#parts[0];
  }

  toString() {
    const [kind, content] = this.#parts;
    return kind === "complex" ? `${shown(decode(content))} (complex)` : String(content);
  }
}

const tag = (...parts) => ({ __proto__: null, $: parts });

// UTF-8 in which lone surrogates stand as three bytes each, as base64.
function surrogates(text) {
  const bytes = [];
  for (const part of text) {
    const code = part.codePointAt(0);
    if (code >= 0xd800 && code < 0xe000) bytes.push(0xed, 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f));
    else bytes.push(...utf8.encode(part));
  }
  return Uint8Array.from(bytes).toBase64();
}

// The reverse of `surrogates`.
function text(content) {
  const bytes = Uint8Array.fromBase64(content);
  let read = "";
  for (let at = 0; at < bytes.length; ) {
    const lead = bytes[at];
    const size = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    let code = size === 1 ? lead : lead & (0x7f >> size);
    for (let more = 1; more < size; more++) code = (code << 6) | (bytes[at + more] & 0x3f);
    read += String.fromCodePoint(code);
    at += size;
  }
  return read;
}

function number(value) {
  if (Number.isNaN(value)) return tag("float", "nan");
  if (!Number.isFinite(value)) return tag("float", value > 0 ? "inf" : "-inf");
  if (Object.is(value, -0)) return JSON.rawJSON("-0.0");
  // A whole number beyond the exact ones is a float to every other reader, so it is written as one.
  return Number.isInteger(value) && !Number.isSafeInteger(value) ? JSON.rawJSON(value.toExponential()) : value;
}

function bigint(value) {
  if (value >= -SAFE && value <= SAFE) return Number(value);
  const digits = value.toString();
  if (digits.length > DIGITS) throw new Uncrossable(`an integer of ${digits.length} digits is too large to cross`);
  return tag("int", digits);
}

function date(value) {
  const year = value.getUTCFullYear();
  return year >= 1 && year <= 9999 ? tag("datetime", value.toISOString().replace("Z", "+00:00")) : null;
}

function bytes(value) {
  if (value instanceof Uint8Array) return value;
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  return value instanceof DataView ? new Uint8Array(value.buffer, value.byteOffset, value.byteLength) : null;
}

// True for objects that are nothing but their fields.
function plain(value) {
  const parent = Object.getPrototypeOf(value);
  if (parent === null || parent === Object.prototype) return true;
  const own = Object.prototype.toString.call(value) === "[object Object]" && !(value instanceof Error);
  return own && Object.keys(value).length > 0;
}

// Encodes one message. With `lossy`, what cannot cross becomes its representation instead of an error.
class Encoder {
  constructor(lossy) {
    this.lossy = lossy;
    this.nodes = 0;
    this.open = new Set();
  }

  encode(value, depth = 1) {
    this.nodes += 1;
    if (this.nodes > NODES) throw new Uncrossable(`more than ${NODES} elements cannot cross in one value`);
    switch (typeof value) {
      case "undefined":
        return null;
      case "boolean":
        return value;
      case "string":
        return value.isWellFormed() ? value : tag("str", surrogates(value));
      case "number":
        return number(value);
      case "bigint":
        return bigint(value);
      case "object":
        return value === null ? null : this.object(value, depth);
      default:
        return this.foreign(value, "is no plain data");
    }
  }

  object(value, depth) {
    const handle = HostObject.parts(value);
    if (handle) return tag("handle", ...handle);
    const carried = Carried.parts(value);
    if (carried) return tag(...carried);
    if (value instanceof Date) return date(value) ?? this.foreign(value, "is outside the years 1 to 9999");
    const raw = bytes(value);
    if (raw) return tag("bytes", raw.toBase64());
    if (value instanceof Number || value instanceof String || value instanceof Boolean) {
      return this.encode(value.valueOf(), depth);
    }
    if (this.open.has(value)) return this.foreign(value, "contains itself");
    if (depth > DEPTH) return this.foreign(value, "is nested too deeply");
    this.open.add(value);
    try {
      return this.container(value, depth);
    } finally {
      this.open.delete(value);
    }
  }

  container(value, depth) {
    if (Array.isArray(value) || value instanceof VIEW) {
      return Array.from(value, (item) => this.encode(item, depth + 1));
    }
    if (value instanceof Set) return tag("set", Array.from(value, (item) => this.encode(item, depth + 4)));
    if (value instanceof Map) return this.fields([...value], depth);
    if (typeof value.toJSON === "function") return this.encode(value.toJSON(), depth + 1);
    return plain(value) ? this.fields(Object.entries(value), depth) : this.foreign(value, "is no plain data");
  }

  fields(entries, depth) {
    const simple = entries.every(([key]) => typeof key === "string" && key !== "$" && key.isWellFormed());
    if (!simple) return tag("dict", entries.map(([k, v]) => [this.encode(k, depth + 5), this.encode(v, depth + 5)]));
    const object = { __proto__: null };
    for (const [key, item] of entries) object[key] = this.encode(item, depth + 1);
    return object;
  }

  foreign(value, why) {
    const type = typeName(value);
    if (this.lossy) return tag("repr", type, shown(value, REPR));
    throw new Uncrossable(`a value of type ${type} cannot cross to the host: it ${why}`);
  }
}

// The name of a value's type, as an error or a result shows it.
export function typeName(value) {
  if (value === null || typeof value !== "object") return value === null ? "null" : typeof value;
  try {
    const name = Object.getPrototypeOf(value)?.constructor?.name;
    return (typeof name === "string" && name.toWellFormed().slice(0, 100)) || "object";
  } catch {
    return "object";
  }
}

// Bytes of the text in UTF-8; counted only where its length leaves a doubt.
const measured = (json, limit) => (json.length * 3 <= limit ? json.length : utf8.encode(json).length);

// The JSON text of a call's arguments, or `Uncrossable`; what is undefined is left out.
export function packArguments(names, values, limit) {
  const encoder = new Encoder(false);
  const bound = { __proto__: null };
  for (let at = 0; at < values.length; at++) {
    if (values[at] !== undefined) bound[names[at]] = encoder.encode(values[at], 2);
  }
  const json = JSON.stringify(bound);
  const used = measured(json, limit);
  if (used > limit) throw new Uncrossable(`${used} bytes of arguments are over the limit of ${limit} bytes; pass less`);
  return json;
}

// The JSON text of a result and whether it had to be replaced by its cut representation.
export function packResult(value, limit) {
  try {
    const json = JSON.stringify(new Encoder(true).encode(value));
    if (measured(json, limit) <= limit) return [json, false];
  } catch {
    // Whatever a getter, a proxy or the engine throws here: the value cannot be told whole.
  }
  const most = Math.max(1, Math.min(REPR, Math.floor(limit / 8)));
  return [JSON.stringify(tag("repr", typeName(value), shown(value, most))), true];
}

// Every host text with a meaning of its own becomes that; the rest is carried.
const LEAVES = {
  __proto__: null,
  int: (content) => BigInt(content),
  float: (content) => ({ nan: NaN, inf: Infinity, "-inf": -Infinity })[content],
  str: text,
  bytes: (content) => Uint8Array.fromBase64(content),
  bytearray: (content) => Uint8Array.fromBase64(content),
  datetime: instant,
  tuple: (items) => items.map(decode),
  set: (items) => new Set(items.map(decode)),
  frozenset: (items) => new Set(items.map(decode)),
  dict: (pairs) => new Map(pairs.map(([key, item]) => [decode(key), decode(item)])),
};

// A `Date` where that says all of it: with a time zone, and nothing finer than milliseconds.
function instant(content) {
  const whole = /T\d\d:\d\d(:\d\d(\.\d{1,3}0*)?)?(Z|[+-]\d\d:\d\d)$/.test(content);
  const read = whole ? new Date(content.replace(/(\.\d{3})0+/, "$1")) : null;
  return read && !Number.isNaN(read.getTime()) ? read : new Carried(["datetime", content]);
}

// The JavaScript value of a decoded JSON value.
export function decode(value) {
  if (Array.isArray(value)) return value.map(decode);
  if (value === null || typeof value !== "object") return value;
  if (!Object.hasOwn(value, "$")) {
    const object = {};
    for (const [name, item] of Object.entries(value)) put(object, name, decode(item));
    return object;
  }
  const [name, ...parts] = value.$;
  if (name === "handle") return new HostObject(...parts);
  if (name === "repr") return parts[1];
  return LEAVES[name] ? LEAVES[name](parts[0]) : new Carried([name, ...parts]);
}

// Sets a field whatever its name; `__proto__` is a name like any other.
export function put(object, name, value) {
  Object.defineProperty(object, name, { value, writable: true, enumerable: true, configurable: true });
}
