// Errors as the gate gets them: type, message, and a traceback that has the program's own lines only.

import { fileName, sources } from "./cell.js";
import { ToolError } from "./tools.js";
import { shown } from "./inspect.js";
import { typeName } from "./values.js";

const { AggregateError, Error, Math, Number, String, SyntaxError } = globalThis;
const TEXT = 8_000; // characters of a traceback
const FRAMES = 30;
const CAUSES = 3;

// The error of program `number` for the gate; nothing that the program put into it can make this throw.
export function told(error, number) {
  try {
    // How the engine says that a memory limit was reached.
    if (error === "out of memory") return { type: "MemoryError", message: "out of memory", traceback: "" };
    return { type: kind(error), message: cut(message(error)), traceback: cut(traceback(error, number, CAUSES)) };
  } catch {
    return { type: "Error", message: "the error's text could not be made", traceback: "" };
  }
}

function kind(error) {
  if (!(error instanceof Error)) return typeName(error);
  const [name, type] = [String(error.name), typeName(error)];
  return name === "Error" ? type : name.slice(0, 100);
}

function message(error) {
  if (!(error instanceof Error)) return `a value was thrown that is no error: ${shown(error, TEXT)}`;
  return error instanceof ToolError ? `${error.kind}: ${error.message}` : String(error.message);
}

function cut(text) {
  const whole = text.toWellFormed();
  return whole.length <= TEXT ? whole : `${whole.slice(0, TEXT / 4)}\n[…]\n${whole.slice((-TEXT * 3) / 4)}`;
}

function traceback(error, number, causes) {
  let text = `${kind(error)}: ${message(error)}\n`;
  if (!(error instanceof Error)) return text;
  text += syntax(error, number) ?? frames(error).map((frame) => line(frame, number)).join("");
  if (error instanceof AggregateError) {
    for (const one of [...error.errors].slice(0, 5)) text += `  one of: ${kind(one)}: ${message(one)}\n`;
  }
  if (causes > 0 && error.cause !== undefined) text += `Caused by ${traceback(error.cause, number, causes - 1)}`;
  return text;
}

// Where the parser stopped, with the line and a mark below it.
function syntax(error, number) {
  if (!(error instanceof SyntaxError)) return null;
  if (error.loc) return spot({ step: number, line: error.loc.line, name: "" }, number, error.loc.column);
  const own = fileName(number) === error.fileName;
  return own ? line({ step: number, line: error.lineNumber - 1, name: "" }, number) : null;
}

// The frames of agents' programs, innermost first; the engine's form is `name@file:line:column`.
function frames(error) {
  const found = [];
  for (const text of String(error.stack).split("\n")) {
    const [, name, step, row] = /^(?:async\*)?(.*)@<agent:(\d+)>:(\d+):\d+$/.exec(text) ?? [];
    if (step && Number(row) > 1) found.push({ name, step: Number(step), line: Number(row) - 1 });
  }
  if (found.length <= FRAMES) return found;
  return [...found.slice(0, FRAMES / 2), null, ...found.slice(-FRAMES / 2)];
}

function line(frame, number) {
  return frame ? spot(frame, number, null) : "    […]\n";
}

function spot({ name, step, line }, number, column) {
  const place = step === number ? `<agent>, line ${line}` : `<agent>, step ${step}, line ${line}`;
  const source = sources.get(step)?.[line - 1] ?? "";
  const indent = source.length - source.trimStart().length;
  let text = `    at ${name ? `${name} (${place})` : place}\n`;
  if (source.trim()) text += `        ${source.trim().slice(0, 200)}\n`;
  if (column !== null && column - indent < 200) text += `        ${" ".repeat(Math.max(0, column - indent))}^\n`;
  return text;
}
