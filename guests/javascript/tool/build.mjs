// Makes the component: `node build.mjs FOLDER` reads FOLDER/src and FOLDER/wit and writes FOLDER/javascript.wasm.
//
// Without the features below the engine's network, its event of an incoming request and its standard streams are not
// there: the component then imports clocks, randomness and the streams that these rest on, and nothing else of WASI.

import { copyFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { componentize } from "@bytecodealliance/componentize-js";

const folder = process.argv[2];
await copyFile(new URL(import.meta.resolve("acorn")), join(folder, "src/acorn.js"));
const { component } = await componentize({
  sourcePath: join(folder, "src/main.js"),
  witPath: join(folder, "wit"),
  worldName: "javascript",
  disableFeatures: ["http", "fetch-event", "stdio"],
});
await writeFile(join(folder, "javascript.wasm"), component);
