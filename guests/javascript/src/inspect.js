// Values as text, for what is printed and for results that cannot cross.
//
// Fields are read as they are described: no getter runs. The text is bounded while it is made, not afterwards.

const { Array, ArrayBuffer, Boolean, Date, Error, Function, JSON, Map, Math, Number, Object, Promise, RegExp } = globalThis;
const { Set, String, Symbol, Uint8Array, WeakMap, WeakSet } = globalThis;

const DEPTH = 5;
const ITEMS = 100;
const LINE = 72;
const LIMIT = 10_000;
const VIEW = Object.getPrototypeOf(Uint8Array);
// An object with this field is shown as its own text.
export const TOLD = Symbol("shown as text");
const NAME = /^[A-Za-z_$][\w$]*$/;

// `value` as text of at most `limit` characters and a mark; never throws.
export function shown(value, limit = LIMIT) {
  let text;
  try {
    text = new Shown(limit).value(value, 0);
  } catch {
    text = `<${typeof value} that could not be shown>`;
  }
  return cut(text.toWellFormed(), limit);
}

// The text of one `console.log` or `print`: strings as they are, `%` forms as everywhere.
export function printed(values, limit = 1 << 20) {
  const [first, ...rest] = values;
  const parts = [];
  if (typeof first === "string" && rest.length > 0 && first.includes("%")) {
    parts.push(first.replace(/%[sdifjoOc%]/g, (form) => filled(form, rest)));
    values = rest;
  }
  for (const value of values) parts.push(typeof value === "string" ? value : shown(value, limit));
  return parts.join(" ");
}

function filled(form, rest) {
  if (form === "%%") return "%";
  if (rest.length === 0) return form;
  const value = rest.shift();
  switch (form) {
    case "%s":
      return typeof value === "string" ? value : shown(value);
    case "%d":
    case "%f":
      return String(Number(value));
    case "%i":
      return String(Math.trunc(Number(value)));
    case "%j":
      return String(JSON.stringify(value));
    case "%c":
      return "";
    default:
      return shown(value);
  }
}

function cut(text, limit) {
  return text.length <= limit ? text : `${text.slice(0, limit)}…`;
}

function quoted(text) {
  const body = JSON.stringify(text).slice(1, -1);
  return text.includes("'") ? `"${body}"` : `'${body.replaceAll('\\"', '"')}'`;
}

class Shown {
  constructor(limit) {
    this.left = limit;
    this.open = [];
  }

  value(value, depth) {
    const text = this.leaf(value) ?? this.group(value, depth);
    this.left -= text.length;
    return text;
  }

  leaf(value) {
    switch (typeof value) {
      case "string":
        return quoted(cut(value, Math.max(this.left, 0)));
      case "bigint":
        return `${value}n`;
      case "number":
        return Object.is(value, -0) ? "-0" : String(value);
      case "function":
        return functionName(value);
      case "object":
        return value === null ? "null" : special(value);
      default:
        return String(value);
    }
  }

  group(value, depth) {
    const name = className(value);
    if (this.open.includes(value)) return "[Circular]";
    if (depth >= DEPTH) return `[${name}]`;
    this.open.push(value);
    try {
      return this.whole(value, name, depth);
    } finally {
      this.open.pop();
    }
  }

  whole(value, name, depth) {
    if (Array.isArray(value)) return this.list(value, value.length, "[", "]", depth);
    if (value instanceof VIEW) return this.list(value, value.length, `${name}(${value.length}) [`, "]", depth);
    if (value instanceof Set) return this.list(value, value.size, `Set(${value.size}) {`, "}", depth);
    if (value instanceof Map) return this.pairs(value, depth);
    return this.fields(value, name === "Object" ? "{" : `${name} {`, depth);
  }

  list(items, count, start, end, depth) {
    const parts = [];
    for (const item of items) {
      if (this.full(parts, count)) break;
      parts.push(this.value(item, depth + 1));
    }
    return joined(parts, start, end, depth);
  }

  pairs(map, depth) {
    const parts = [];
    for (const [key, item] of map) {
      if (this.full(parts, map.size)) break;
      parts.push(`${this.value(key, depth + 1)} => ${this.value(item, depth + 1)}`);
    }
    return joined(parts, `Map(${map.size}) {`, "}", depth);
  }

  fields(value, start, depth) {
    const keys = Object.keys(value);
    const parts = [];
    for (const key of keys) {
      if (this.full(parts, keys.length)) break;
      const field = Object.getOwnPropertyDescriptor(value, key);
      const text = field && "value" in field ? this.value(field.value, depth + 1) : "[Getter]";
      parts.push(`${NAME.test(key) ? key : quoted(key)}: ${text}`);
    }
    return joined(parts, start, "}", depth);
  }

  // Notes what is left out, once enough is shown.
  full(parts, count) {
    if (parts.length < ITEMS && this.left > 0) return false;
    parts.push(`… ${count - parts.length} more`);
    return true;
  }
}

function joined(parts, start, end, depth) {
  if (parts.length === 0) return `${start}${end}`;
  const line = parts.join(", ");
  const one = line.length + start.length + depth * 2 <= LINE && !line.includes("\n");
  if (one) return `${start} ${line} ${end}`;
  const indent = "  ".repeat(depth + 1);
  return `${start}\n${indent}${rows(parts).join(`,\n${indent}`)}\n${"  ".repeat(depth)}${end}`;
}

// Short parts share a line.
function rows(parts) {
  if (parts.some((part) => part.length > 16)) return parts;
  const lines = [parts[0]];
  for (const part of parts.slice(1)) {
    const line = `${lines.at(-1)}, ${part}`;
    if (line.length > LINE) lines.push(part);
    else lines[lines.length - 1] = line;
  }
  return lines;
}

function functionName(value) {
  const isClass = Function.prototype.toString.call(value).startsWith("class");
  const name = String(Object.getOwnPropertyDescriptor(value, "name")?.value ?? "") || "(anonymous)";
  return isClass ? `[class ${name}]` : `[Function: ${name}]`;
}

function className(value) {
  const parent = Object.getPrototypeOf(value);
  if (parent === null) return "[Object: null prototype]";
  return String(parent.constructor?.name || "Object");
}

// Objects whose text is not a list of their fields.
function special(value) {
  if (value instanceof Error) return `${value.name}: ${value.message}`;
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
  if (value instanceof RegExp) return String(value);
  if (value instanceof Promise) return "Promise {}";
  if (value instanceof ArrayBuffer) return `ArrayBuffer(${value.byteLength})`;
  if (value instanceof WeakMap || value instanceof WeakSet) return `${className(value)} {}`;
  if (value instanceof Number || value instanceof String || value instanceof Boolean) {
    return `[${className(value)}: ${shown(value.valueOf())}]`;
  }
  return TOLD in value ? String(value) : null;
}
