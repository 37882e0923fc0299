// Stands where a part of the tool would be that this build never uses.
export default function absent() {
  throw new Error("not part of this build");
}
