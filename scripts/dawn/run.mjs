// Runs kernels on Dawn, the WebGPU of Chromium, and times them.
//
//   node run.mjs info TOGGLES            prints the adapter as JSON
//   node run.mjs FOLDER/job.json         runs a job, prints its result as JSON
//
// TOGGLES: of Dawn, comma-separated. A job is one kernel:
//   toggles, features   what the device is made with
//   wgsl                file with the module
//   buffers             [{binding, uniform, read_only, bytes, file}]; without file: zeros
//   passes              [{entry_point, grid: [x, y, z], only_reads}]; bindings of buffers that are
//                       read-only in this pass
//   output              {binding, file}: a buffer to keep
//   time                {warmup_s, samples, dispatches}; without: one run
// Files lie beside job.json. One kernel a process: drivers have died on the second pipeline.
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';

const modules = process.env.GEMMTUNE_DAWN_MODULES;
if (!modules) {
  console.error('GEMMTUNE_DAWN_MODULES is not set: the node_modules folder that has webgpu');
  process.exit(2);
}
const { create, globals } = await import(pathToFileURL(join(modules, 'webgpu', 'index.js')).href);
const { GPUBufferUsage, GPUMapMode } = globals;
const LIMITS = [
  'maxComputeWorkgroupStorageSize', 'maxComputeInvocationsPerWorkgroup', 'maxComputeWorkgroupSizeX',
  'maxStorageBufferBindingSize', 'maxBufferSize', 'maxComputeWorkgroupsPerDimension',
];

async function openAdapter(toggles) {
  // Kept alive by the caller: adapters die with the instance they came from.
  const gpu = create([`enable-dawn-features=${toggles.join(',')}`]);
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) throw new Error('Dawn finds no adapter here');
  return { gpu, adapter };
}

function describe(adapter) {
  const { vendor, architecture, device, description } = adapter.info;
  const { subgroupMinSize, subgroupMaxSize, subgroupMatrixConfigs } = adapter.info;
  return {
    vendor, architecture, device, description, subgroupMinSize, subgroupMaxSize,
    matrices: [...(subgroupMatrixConfigs ?? [])].map(
      ({ componentType, resultComponentType, M, N, K }) =>
        ({ componentType, resultComponentType, M, N, K })),
    features: [...adapter.features].sort(),
    limits: Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]])),
  };
}

async function pipelinesOf(device, job, folder) {
  const code = readFileSync(join(folder, job.wgsl), 'utf8');
  const module = device.createShaderModule({ code });
  const said = await module.getCompilationInfo();
  const wrong = [...said.messages].filter((one) => one.type === 'error');
  if (wrong.length) {
    throw new Error(wrong.map((one) => `${one.lineNum}:${one.linePos} ${one.message}`).join('\n'));
  }
  const pipelines = [];
  for (const pass of job.passes) {
    const type = ({ binding, uniform, read_only }) => {
      if (uniform) return 'uniform';
      return read_only || pass.only_reads.includes(binding) ? 'read-only-storage' : 'storage';
    };
    const entries = job.buffers.map((one) => ({
      binding: one.binding,
      visibility: globals.GPUShaderStage.COMPUTE,
      buffer: { type: type(one) },
    }));
    const bindGroupLayouts = [device.createBindGroupLayout({ entries })];
    const layout = device.createPipelineLayout({ bindGroupLayouts });
    const compute = { module, entryPoint: pass.entry_point };
    pipelines.push(await device.createComputePipelineAsync({ layout, compute }));
  }
  return pipelines;
}

function buffersOf(device, job, folder) {
  const buffers = new Map();
  for (const { binding, uniform, bytes, file } of job.buffers) {
    const kind = uniform ? GPUBufferUsage.UNIFORM : GPUBufferUsage.STORAGE;
    const usage = kind | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
    const buffer = device.createBuffer({ size: bytes, usage });
    if (file) device.queue.writeBuffer(buffer, 0, readFileSync(join(folder, file)));
    buffers.set(binding, buffer);
  }
  return buffers;
}

async function read(device, buffer) {
  const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
  const copy = device.createBuffer({ size: buffer.size, usage });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, 0, copy, 0, buffer.size);
  device.queue.submit([encoder.finish()]);
  await copy.mapAsync(GPUMapMode.READ);
  return new Uint8Array(copy.getMappedRange().slice(0));
}

// Nanoseconds of one run on the host's clock, a sample being `dispatches` runs in one submission.
async function time(device, run, { warmup_s, samples, dispatches }) {
  const sample = async () => {
    const before = process.hrtime.bigint();
    run(dispatches);
    await device.queue.onSubmittedWorkDone();
    return Number(process.hrtime.bigint() - before) / dispatches;
  };
  const end = process.hrtime.bigint() + BigInt(Math.round(warmup_s * 1e9));
  do await sample(); while (process.hrtime.bigint() < end);
  const times = [];
  for (let i = 0; i < samples; i++) times.push(await sample());
  return times;
}

async function runJob(path) {
  const folder = dirname(path);
  const job = JSON.parse(readFileSync(path, 'utf8'));
  const { gpu, adapter } = await openAdapter(job.toggles);
  const requiredLimits = Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]]));
  const device = await adapter.requestDevice({ requiredFeatures: job.features, requiredLimits });
  const complaints = [];
  device.addEventListener?.('uncapturederror', ({ error }) => complaints.push(error.message));
  device.pushErrorScope('validation');
  const pipelines = await pipelinesOf(device, job, folder);
  const buffers = buffersOf(device, job, folder);
  const entries = [...buffers].map(([binding, buffer]) => ({ binding, resource: { buffer } }));
  const groups = pipelines.map((pipeline) =>
    device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
  const run = (count) => {
    const encoder = device.createCommandEncoder();
    for (let i = 0; i < count; i++) {
      const pass = encoder.beginComputePass();
      pipelines.forEach((pipeline, number) => {
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, groups[number]);
        pass.dispatchWorkgroups(...job.passes[number].grid);
      });
      pass.end();
    }
    device.queue.submit([encoder.finish()]);
  };
  run(1);
  await device.queue.onSubmittedWorkDone();
  const error = await device.popErrorScope();
  if (error) throw new Error(error.message);
  if (job.output) writeFileSync(join(folder, job.output.file), await read(device, buffers.get(job.output.binding)));
  const times = job.time ? await time(device, run, job.time) : [];
  if (complaints.length) throw new Error(complaints.join('\n'));
  return { gpu, result: { ok: true, times_ns: times } };
}

async function main([what, toggles]) {
  if (what === 'info') {
    const { gpu, adapter } = await openAdapter((toggles ?? '').split(',').filter(Boolean));
    return { gpu, result: describe(adapter) };
  }
  try {
    return await runJob(what);
  } catch (error) {
    return { result: { ok: false, error: String(error.message ?? error) } };
  }
}

const { result } = await main(process.argv.slice(2));
// Exit at once: destroying devices has hung in drivers.
process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0));
