// Measures Pyodide as measure.py measures the others; `node pyodide.mjs SECONDS` prints a JSON object. With `fresh` it is one
// fresh start instead: a process that loads the interpreter, runs a program and ends.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { createRequire } from "node:module";

const FRESH = "print(1 + 1)";
const CPU = "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\nfib(24)";
const FEW = 10, MANY = 910;

const seconds = Number(process.argv[3]);
const { loadPyodide } = createRequire(`${process.argv[2]}/`)("pyodide");
const opened = () => loadPyodide({ stdout: () => {} });

function summary(times) {
  times.sort((a, b) => a - b);
  const at = (part) => times[Math.floor(times.length * part)];
  return { best: times[0], p50: at(0.5), p90: at(0.9), runs: times.length };
}

function timed(work, within, most = 2000) {
  const times = [], until = performance.now() + within * 1000;
  while (times.length <= most && (times.length === 0 || performance.now() < until)) {
    const started = performance.now();
    work();
    times.push((performance.now() - started) / 1000);
  }
  return summary(times.length > 1 ? times.slice(1) : times);
}

function oneCall(run) {
  const few = timed(() => run(FEW), seconds / 2, 200), many = timed(() => run(MANY), seconds / 2, 200);
  return { p50: Math.max(many.p50 - few.p50, 0) / (MANY - FEW), runs: many.runs };
}

function freshProcess() {
  const done = spawnSync(process.execPath, [fileURLToPath(import.meta.url), process.argv[2], "fresh"], { timeout: 20_000 });
  if (done.status !== 0) throw new Error(`a fresh start ended with ${done.status}`);
}

if (process.argv[3] === "fresh") {
  (await opened()).runPython(FRESH);
} else {
  const live = await opened();
  live.runPython("x = 1");
  live.globals.set("echo", (value) => value);
  const found = {
    step: timed(() => live.runPython("x + 1"), seconds),
    cpu: timed(() => live.runPython(CPU), seconds),
    call: oneCall((n) => live.runPython(`for i in range(${n}): echo(i)`)),
    fresh: timed(freshProcess, seconds, 20),
  };
  console.log(JSON.stringify(found));
}
