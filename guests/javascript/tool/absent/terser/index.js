// Stands where a part of the tool would be that this build never uses.
export function minify() {
  throw new Error("not part of this build");
}
