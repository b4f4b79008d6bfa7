// Runs under Node: node dawn.mjs GEMMTUNE_JS JOB; prints what gemmtune.js gives on Dawn as JSON.
// JOB: {toggles, document, cases: [{problem, a, b, c, bias, swap}]}, operands in base64 or null.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const imported = (path) => import(pathToFileURL(path));
const [module, file] = process.argv.slice(2);
const { Gemmtune } = await imported(module);
const { create } = await imported(
  join(process.env.GEMMTUNE_DAWN_MODULES, "webgpu", "index.js"));
const { toggles, document, cases } = JSON.parse(await readFile(file, "utf8"));

const bytes = (text) => text === null ? undefined : new Uint8Array(Buffer.from(text, "base64"));
const text = (array) =>
  Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");

// One plan, two products in one pass: A B and B A.
async function both(device, plan, a, b, length) {
  const usage = 0x8c; // STORAGE, COPY_SRC, COPY_DST
  const filled = (data) => {
    const buffer = device.createBuffer({ size: data.byteLength, usage });
    device.queue.writeBuffer(buffer, 0, data);
    return buffer;
  };
  const [x, y] = [a, b].map(filled);
  const outputs = [0, 1].map(() => device.createBuffer({ size: length, usage }));
  const read = device.createBuffer({ size: 2 * length, usage: 9 }); // MAP_READ, COPY_DST
  const encoder = device.createCommandEncoder(), pass = encoder.beginComputePass();
  plan.encode(pass, x, y, outputs[0]);
  plan.encode(pass, y, x, outputs[1]);
  pass.end();
  outputs.forEach((one, i) => encoder.copyBufferToBuffer(one, 0, read, i * length, length));
  device.queue.submit([encoder.finish()]);
  await read.mapAsync(1);
  return text(new Uint8Array(read.getMappedRange().slice(0)));
}

const gpu = create([`enable-dawn-features=${toggles.join()}`]);
const adapter = await gpu.requestAdapter();
const requiredLimits = {};
for (const name in adapter.limits) {
  if (name.startsWith("max")) requiredLimits[name] = adapter.limits[name];
}
const wanted = new Set(Object.values(document.kernels).flatMap(({ needs }) => needs.features));
const requiredFeatures = [...wanted, "subgroups"].filter((name) => adapter.features.has(name));
const device = await adapter.requestDevice({ requiredFeatures, requiredLimits });
const errors = [];
device.addEventListener("uncapturederror", ({ error }) => errors.push(error.message));

const gemmtune = await Gemmtune.load(device, document);
const results = [];
for (const { problem, swap, ...operands } of cases) {
  const [a, b, c, bias] = ["a", "b", "c", "bias"].map((name) => bytes(operands[name]));
  try {
    const plan = await gemmtune.plan(problem);
    const found = await gemmtune.matmul(problem, a, b, { c, bias });
    results.push({
      choice: plan.choice, type: found.constructor.name, c: text(found),
      both: swap ? await both(device, plan, a, b, found.byteLength) : null,
    });
  } catch (error) {
    results.push({ error: String(error.message ?? error) });
  }
}
const limits = Object.fromEntries(Object.keys(requiredLimits).map((s) => [s, device.limits[s]]));
const able = { ...gemmtune.able, limits };
// The instance is named to the end: adapters die with it. Destroying devices has hung in drivers.
process.stdout.write(`${JSON.stringify({ able, errors, results, gpu: !!gpu })}\n`,
  () => process.exit(0));
