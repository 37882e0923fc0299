// What has no place in the sandbox is refused or not there, and each import is on record.
try {
  await import("node:fs");
} catch (error) {
  console.log(`${error.name}: ${error.message.split("\n")[0]}`);
}
console.log(typeof process, typeof WebAssembly);
await fetch("http://127.0.0.1:1/");
