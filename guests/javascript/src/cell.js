// One program: its top-level names become global ones, the value of its last statement is kept, and its errors are
// told by its own lines.
//
// A program is an asynchronous function to the engine, so that `await` works at its top level. What it declares there
// is set on the global object: the next program sees it. Its functions are defined before it runs, from the same
// places in the text, so that every error still names the right line and column.

import { parse } from "./acorn.js";
import { put } from "./values.js";

const { Array, JSON, Map, Object, Set, SyntaxError } = globalThis;
const evaluate = globalThis.eval;
const KEPT = 64; // programs whose text is kept for tracebacks
const OPTIONS = {
  ecmaVersion: "latest",
  sourceType: "script",
  locations: true,
  allowAwaitOutsideFunction: true,
  allowImportExportEverywhere: true,
};

// The lines of the last programs, by number.
export const sources = new Map();

export const fileName = (number) => `<agent:${number}>`;

// What a running program reaches of the guest: where its value goes, who watches its promises and answers its imports.
const SLOT = "__weir__";

// Starts the program; the promise is fulfilled with the value of its last statement.
export function start(source, number, slot) {
  sources.set(number, source.split("\n"));
  sources.delete(number - KEPT);
  const program = new Program(source);
  const file = `\n//# sourceURL=${fileName(number)}`;
  // The empty first lines have the same height as the one that opens the function below.
  if (program.hoisted.length > 0) evaluate(`\n${program.functions()}${file}`);
  for (const name of program.names) if (!(name in globalThis)) put(globalThis, name, undefined);
  return evaluate(`(async (${SLOT}) => {\n${program.rest()}\n})${file}`)(slot);
}

class Program {
  constructor(source) {
    // A first line for a shell is a comment.
    this.source = source.replace(/^#!/, "//");
    this.edits = [];
    this.names = new Set();
    this.hoisted = [];
    const tree = parse(this.source, OPTIONS);
    for (const statement of tree.body) this.top(statement);
    this.inner(tree, true);
    this.keep(tree.body.at(-1), true);
  }

  // Line ends are kept, so that every line keeps its number.
  edit(start, end, text) {
    this.edits.push({ start, end, text: text + this.source.slice(start, end).replace(/[^\n\r\u2028\u2029]/g, "") });
  }

  // A statement at the top level: what it declares becomes global.
  top(statement) {
    switch (statement.type) {
      case "VariableDeclaration":
        if (statement.kind.includes("using")) throw refused("`using` works inside a function or a block only", statement);
        return this.variables(statement);
      case "FunctionDeclaration":
        return this.hoisted.push(statement);
      case "ClassDeclaration":
        this.names.add(statement.id.name);
        this.edit(statement.start, statement.start, `${statement.id.name} = `);
        return this.edit(statement.end, statement.end, ";");
      case "ImportDeclaration":
        return this.edit(statement.start, statement.end, `${SLOT}.imported(${JSON.stringify(statement.source.value)});`);
      case "ExportNamedDeclaration":
      case "ExportDefaultDeclaration":
      case "ExportAllDeclaration":
        throw refused("a program exports nothing; its last statement's value is its result", statement);
      case "ExpressionStatement":
        return this.watched(statement);
    }
    return undefined;
  }

  // A promise that a statement makes and drops: its failure must not be lost.
  watched(statement) {
    if (statement.expression.type !== "CallExpression") return;
    this.edit(statement.expression.start, statement.expression.start, `${SLOT}.watch(`);
    this.edit(statement.expression.end, statement.expression.end, ")");
  }

  // `let a = 1, { b } = c;` becomes `void (a = 1, { b } = c);`.
  variables(declaration) {
    const [first] = declaration.declarations;
    const last = declaration.declarations.at(-1);
    this.edit(declaration.start, first.start, "void (");
    for (const { id, init } of declaration.declarations) {
      bound(id, this.names);
      // A declaration without a value: `var` keeps what is there.
      if (!init && declaration.kind !== "var") this.edit(id.end, id.end, " = void 0");
    }
    this.edit(last.end, declaration.end, ");");
  }

  // `var` below the top level, and imports wherever they stand; inner functions keep their own variables.
  inner(node, outer) {
    if (Array.isArray(node)) return node.forEach((item) => this.inner(item, outer));
    if (!node || typeof node.type !== "string") return undefined;
    if (node.type === "ImportExpression") this.edit(node.start, node.start + "import".length, "__import__");
    const within = outer && !/Function|^StaticBlock$|^PropertyDefinition$/.test(node.type);
    for (const key of Object.keys(node)) {
      const child = node[key];
      if (child === null || typeof child !== "object") continue;
      if (within && node.type !== "Program") this.nested(node, key, child);
      this.inner(child, within);
    }
    return undefined;
  }

  nested(node, key, child) {
    for (const item of Array.isArray(child) ? child : [child]) {
      if (item?.type !== "VariableDeclaration" || item.kind !== "var") continue;
      const head = /^For/.test(node.type) && (key === "init" || key === "left");
      if (!head) this.variables(item);
      else {
        for (const { id } of item.declarations) bound(id, this.names);
        // An object pattern may stand here without parentheses: the head of a loop is no statement.
        this.edit(item.start, item.declarations[0].start, "");
      }
    }
  }

  // Keeps the value of the last statement, a declaration's and an inner block's included.
  keep(last, listed = false) {
    switch (last?.type) {
      case "ExpressionStatement":
        if (last.directive === "use strict") return undefined;
        this.edit(last.expression.start, last.expression.start, `${SLOT}.value = (`);
        return this.edit(last.expression.end, last.expression.end, ")");
      case "VariableDeclaration": {
        const { id, init } = last.declarations.at(-1);
        if (listed && id.type === "Identifier" && init) this.edit(last.end, last.end, `; ${SLOT}.value = ${id.name};`);
        return undefined;
      }
      case "BlockStatement":
        return this.keep(last.body.at(-1), true);
      case "IfStatement":
        this.keep(last.consequent);
        return this.keep(last.alternate);
      case "TryStatement":
        this.keep(last.block);
        return this.keep(last.handler?.body);
      case "LabeledStatement":
      case "WhileStatement":
      case "DoWhileStatement":
      case "ForStatement":
      case "ForInStatement":
      case "ForOfStatement":
        return this.keep(last.body);
    }
    return undefined;
  }

  // The text from `start` to `end` with the edits in it; of several at one place, those that only insert come first.
  written(start, end, edits) {
    const insert = (edit) => (edit.start === edit.end ? 0 : 1);
    const sorted = edits.toSorted((a, b) => a.start - b.start || insert(a) - insert(b));
    let [text, at] = ["", start];
    for (const edit of sorted) {
      text += this.source.slice(at, edit.start) + edit.text;
      at = edit.end;
    }
    return text + this.source.slice(at, end);
  }

  // The program without its top-level functions.
  rest() {
    const edits = this.edits.filter((edit) => !this.hoisted.some((hoisted) => within(edit, hoisted)));
    for (const { start, end } of this.hoisted) {
      edits.push({ start, end, text: blank(this.source.slice(start, end)) });
    }
    return this.written(0, this.source.length, edits);
  }

  // Its top-level functions alone, each in its place.
  functions() {
    let [text, at] = ["", 0];
    for (const hoisted of this.hoisted) {
      const inside = this.edits.filter((edit) => within(edit, hoisted));
      text += blank(this.source.slice(at, hoisted.start)) + this.written(hoisted.start, hoisted.end, inside);
      at = hoisted.end;
    }
    return text;
  }
}

// Strictly inside: what only touches a function belongs to its neighbour.
const within = (edit, node) => edit.start > node.start && edit.end < node.end;
const blank = (text) => text.replace(/[^\n\r\u2028\u2029]/g, " ");

function refused(message, { start, loc }) {
  return Object.assign(new SyntaxError(message), { pos: start, loc: loc.start });
}

// The names that a pattern binds.
function bound(pattern, names) {
  switch (pattern?.type) {
    case "Identifier":
      names.add(pattern.name);
      break;
    case "AssignmentPattern":
      return bound(pattern.left, names);
    case "RestElement":
      return bound(pattern.argument, names);
    case "Property":
      return bound(pattern.value, names);
    case "ArrayPattern":
      return pattern.elements.forEach((element) => bound(element, names));
    case "ObjectPattern":
      return pattern.properties.forEach((property) => bound(property, names));
  }
  return undefined;
}
