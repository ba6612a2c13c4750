// Writes vectors.json with a second implementation of msgpack, and checks with it
// what the Go one wrote (shared/task/testdata/vectors.json, made by
// `go test ./shared/task -run Vectors -update`). Fails if any differs.
//
//   cd "$(mktemp -d)" && npm install @msgpack/msgpack@3.1.3
//   node <repository>/docs/wire/gen.mjs
//
// In the JSON of a vector, what JSON lacks is an object with one key:
// {"$bin": hex}, {"$time": RFC 3339}, {"$int": decimal} beyond 2^53.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const { encode, decode, ExtData, EXT_TIMESTAMP, encodeTimeSpecToTimestamp } =
  createRequire(process.cwd() + "/")("@msgpack/msgpack");

const time = (sec, nsec) => new ExtData(EXT_TIMESTAMP, encodeTimeSpecToTimestamp({ sec, nsec }));
const bytes = (n) => Uint8Array.from({ length: n }, (_, i) => i % 256);
const hex = (b) => Buffer.from(b).toString("hex");
const keys = (n) => Object.fromEntries(Array.from({ length: n }, (_, i) => [`k${i}`, i]));

// name, value, and its JSON where that is not the value itself
const vectors = [
  ["empty map", {}],
  ["typed", { to: "ada@example.com", width: 320 }],
  ["nil", { v: null }],
  ["booleans", { t: true, f: false }],
  ["positive fixint", { a: 0, b: 1, c: 127 }],
  ["uint8", { a: 128, b: 255 }],
  ["uint16", { a: 256, b: 65535 }],
  ["uint32", { a: 65536, b: 4294967295 }],
  ["uint64", { a: 4294967296, b: Number.MAX_SAFE_INTEGER }],
  ["uint64 largest", { v: 18446744073709551615n }, { v: { $int: "18446744073709551615" } }],
  ["negative fixint", { a: -1, b: -32 }],
  ["int8", { a: -33, b: -128 }],
  ["int16", { a: -129, b: -32768 }],
  ["int32", { a: -32769, b: -2147483648 }],
  ["int64", { a: -2147483649, b: Number.MIN_SAFE_INTEGER }],
  ["int64 smallest", { v: -9223372036854775808n }, { v: { $int: "-9223372036854775808" } }],
  ["float64", { a: 1.5, b: -0.1, c: 1e300, d: 5e-324 }],
  ["float32", { a: 0.5, b: -1024.25 }, undefined, { forceFloat32: true }],
  ["empty string", { v: "" }],
  ["fixstr", { v: "x".repeat(31) }],
  ["str8", { a: "x".repeat(32), b: "y".repeat(255) }],
  ["str16", { v: "z".repeat(256) }],
  ["UTF-8", { "größe": "naïve 日本語 🐂\u0000\n" }],
  ["bin8", { a: bytes(0), b: bytes(3) }, { a: { $bin: "" }, b: { $bin: "000102" } }],
  ["bin16", { v: bytes(256) }, { v: { $bin: hex(bytes(256)) } }],
  ["arrays", { a: [], b: [1, [2, [3, "x", null]]] }],
  ["array16", { v: Array.from({ length: 16 }, (_, i) => i) }],
  ["maps", { a: {}, b: { c: { d: [{ e: true }] } } }],
  ["map16", keys(16)],
  ["map16 of 300", keys(300)],
  ["timestamp 32", { v: time(1700000000, 0) }, { v: { $time: "2023-11-14T22:13:20Z" } }],
  ["timestamp 64", { v: time(1700000000, 123456789) }, { v: { $time: "2023-11-14T22:13:20.123456789Z" } }],
  ["timestamp 96", { v: time(-1, 5) }, { v: { $time: "1969-12-31T23:59:59.000000005Z" } }],
  ["timestamp that begins like a map", { v: time(1700000000, 0xdf << 22) }, { v: { $time: "2023-11-14T22:13:20.935329792Z" } }],
].map(([name, value, json = value, options = {}]) => ({
  name,
  hex: hex(encode(value, { useBigInt64: true, ...options })),
  json,
}));

writeFileSync(new URL("vectors.json", import.meta.url), `[\n${vectors.map((v) => JSON.stringify(v)).join(",\n")}\n]\n`);

function toJSON(v) {
  if (typeof v === "bigint") return Number.isSafeInteger(Number(v)) ? Number(v) : { $int: String(v) };
  if (v instanceof Uint8Array) return { $bin: hex(v) };
  if (v instanceof Date) return { $time: v.toISOString().replace(/\.?0+Z$/, "Z") };
  if (Array.isArray(v)) return v.map(toJSON);
  if (v && typeof v === "object") return Object.fromEntries(Object.entries(v).map(([k, x]) => [k, toJSON(x)]));
  return v;
}

const made = JSON.parse(readFileSync(new URL("../../shared/task/testdata/vectors.json", import.meta.url)));
for (const { name, hex, json } of made) {
  assert.deepEqual(toJSON(decode(Buffer.from(hex, "hex"), { useBigInt64: true })), json, name);
}
console.log(`${vectors.length} vectors written, ${made.length} of Go's agree`);
