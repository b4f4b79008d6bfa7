// Runs under Node: node vectors.mjs GEMMTUNE_JS VECTORS; prints what gemmtune.js chooses for each.
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [module, file] = process.argv.slice(2);
const gemmtune = await import(pathToFileURL(module));
const { document, cases } = JSON.parse(await readFile(file, "utf8"));
console.log(JSON.stringify(cases.map(({ problem, able }) => ({
  kind: gemmtune.kind({ a: "f32", b: "f32", c: "f32", acc: "f32", ...problem }),
  chosen: gemmtune.candidates(document, problem, able),
}))));
