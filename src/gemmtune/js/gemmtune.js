// Runs what `gemmtune export` writes. Selects as export/select.py; types: gemmtune.d.ts.
const SIDES = ["m", "n", "k"], ALL = [...SIDES, "batch"];
const problem = (given) =>
	({ a: "f32", b: "f32", c: "f32", acc: "f32", batch: 1, alpha: 1, beta: 0, ...given });
const up = (a, b) => Math.ceil(a / b);
const packed = (g, s) => ({ a: g.m * g.k, b: g.k * g.n, c: g.m * g.n })[s.at(-1)];
const size = (g, s) => g[s] ?? packed(g, s); // a side, or a stride in elements
export function kind(g) {
	const layout = (g.trans_a ? "t" : "n") + (g.trans_b ? "t" : "n");
	const steps = [g.math, g.beta && "beta", g.bias && "bias", g.activation]
		.filter((s) => s && s !== "ieee" && s !== "none");
	return [[g.a, g.b, g.c, g.acc].join(), layout, steps.join()].filter((s) => s).join(":");
}
export const bytes = (g, s) => s === "bias" ? (g.bias ? g.n * +g.c.slice(1) / 8 : 0)
	: g.batch && ((g.batch - 1) * size(g, `stride_${s}`) + packed(g, s)) * +g[s].slice(1) / 8;
const traffic = (g) =>
	bytes(g, "a") + bytes(g, "b") + bytes(g, "bias") + bytes(g, "c") * (g.beta ? 2 : 1);

const same = (g, h) => (g.batch > 1 ? [...ALL, "stride_a", "stride_b", "stride_c"] : ALL)
	.every((s) => size(g, s) === size(h, s));
export const count = (rule, g) => SIDES.reduce(
	(all, s) => all * (rule[`tile_${s}`] ? up(g[s], rule[`tile_${s}`]) : 1),
	rule.times * g.batch * (rule.elements ? up(g.m * g.n, rule.elements) : 1));

const fits = ({ dialect, needs, valid }, g, able) => (!dialect || dialect === able.dialect)
	&& needs.features.every((s) => able.features.includes(s))
	&& Object.entries(needs.limits).every(([s, min]) => able.limits[s] >= min)
	&& (!needs.subgroup_size || needs.subgroup_size === able.subgroup_size)
	&& Object.entries(valid).every(([s, { min = 0, max = Infinity, multiple = 1 }]) =>
		(s[1] && g.batch <= 1)
		|| ((s = size(g, s)) >= min && s <= max && s % multiple === 0));

const doublings = (g, h) => Math.round(1e6 * Math.hypot(...ALL.map((s) =>
	Math.log2(Math.max(g[s], 1) / Math.max(h[s], 1))))) / 1e6;

function predict({ at_once, busy = 1, launch_ns, bytes_per_ns }, one, time, from, to) {
	const [x, y, z] = one.workgroup_size, all = at_once * Math.max(busy / (x * y * z), 1);
	const work = (g) => {
		const w = count(one.workgroups, g) / all;
		return Math.max(w > 4 ? w : Math.ceil(w), 1) * Math.max(g.k, 1);
	};
	return Math.max(launch_ns + (time - launch_ns) * work(to) / work(from),
		traffic(to) / (bytes_per_ns || Infinity));
}
export function candidates(doc, given, able) {
	const g = problem(given), exact = [], near = {};
	const good = (id) => id && fits(doc.kernels[id], g, able);
	for (const { problem: tuned, results } of doc.problems) {
		const h = problem(tuned);
		if (kind(h) !== kind(g)) continue;
		for (const { kernel, general, time_ns } of results) {
			const id = [kernel, general].find(good), far = doublings(g, h);
			if (same(g, h)) {
				if (id === kernel) exact.push({ id, source: "exact", time_ns });
			} else if (id && !(near[id]?.far <= far)) {
				const { needs, passes } = doc.kernels[id]; // 1.3: bounds checks
				const time = predict(doc.model, passes[0],
					time_ns * (doc.kernels[kernel].needs.unchecked > needs.unchecked ? 1.3 : 1), h, g);
				near[id] = { id, source: "near", time_ns: time, far, rank: time * (1 + 0.05 * far) };
			}
		}
	}
	const ranked = Object.values(near).sort((x, y) => x.rank - y.rank || (x.id < y.id ? -1 : 1));
	const last = (doc.fallbacks[kind(g)] ?? []).filter(good)
		.map((id) => ({ id, source: "default", time_ns: null }));
	if (Math.min(g.m, g.n) >= 1024) last.reverse();
	const all = [...exact, ...ranked, ...last];
	return all.filter(({ id }, i) => all.findIndex((one) => one.id === id) === i);
}

function buffer(device, length, usage, data) {
	const made = device.createBuffer({ size: Math.max(up(length, 4) * 4, 16), usage,
		mappedAtCreation: !!data });
	if (data) {
		new Uint8Array(made.getMappedRange()).set(
			new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
		made.unmap();
	}
	return made;
}
const STORAGE = 0x8c; // and COPY_SRC, COPY_DST

class Plan {
	constructor(fields) {
		Object.assign(this, fields);
		const most = this.device.limits.maxComputeWorkgroupsPerDimension;
		this.groups = [];
		this.grids = this.kernel.passes.map(({ workgroups }) => {
			const all = count(workgroups, this.gemm), rows = Math.max(up(all, most), 1);
			return [up(all, rows), rows];
		});
	}
	encode(pass, a, b, c, bias) {
		const given = { params: this.params, workspace: this.workspace, a, b, c, bias };
		const key = [a, b, c, bias];
		let kept = this.groups.find(([k]) => k.every((one, i) => one === key[i]));
		if (!kept) {
			const entries = this.kernel.bindings.map(({ binding, name }) => {
				if (!given[name]) throw TypeError(`no buffer for ${name}`);
				return { binding, resource: { buffer: given[name] } };
			});
			const group = this.device.createBindGroup({ layout: this.layout, entries });
			this.groups = [kept = [key, group], ...this.groups.slice(0, 31)];
		}
		this.grids.forEach(([x, y], i) => {
			if (!x) return;
			pass.setPipeline(this.pipelines[i]);
			pass.setBindGroup(0, kept[1]);
			pass.dispatchWorkgroups(x, y);
		});
	}
}

export class Gemmtune {
	constructor(device, doc, url, able) {
		Object.assign(this, { device, doc, url, able, built: {} });
	}
	static async load(device, source) {
		const url = typeof source === "string" ? new URL(source, location) : undefined;
		const doc = url ? await (await fetch(url)).json() : source;
		if (doc.format !== 1) throw Error("not a gemmtune document of format 1");
		const { subgroupMinSize: least, subgroupMaxSize: most } = device.adapterInfo ?? {};
		return new Gemmtune(device, doc, url, { dialect: "tint", limits: device.limits,
			features: [...device.features], subgroup_size: least === most ? least : 0 });
	}

	async build({ wgsl, wgsl_file, bindings, passes }) {
		const { device } = this;
		const code = wgsl ?? await (await fetch(new URL(wgsl_file, this.url))).text();
		const module = device.createShaderModule({ code });
		const layout = device.createBindGroupLayout({ entries: bindings.map(({ binding, type }) =>
			({ binding, visibility: 4, buffer: { type } })) });
		const whole = device.createPipelineLayout({ bindGroupLayouts: [layout] });
		const pipelines = await Promise.all(passes.map(({ entry_point: entryPoint }) =>
			device.createComputePipelineAsync({ layout: whole, compute: { module, entryPoint } })));
		return { layout, pipelines };
	}
	async plan(given) {
		const gemm = problem(given), { device, doc, built } = this;
		let why = "";
		for (const choice of candidates(doc, gemm, this.able)) {
			const kernel = doc.kernels[choice.id];
			try {
				const ready = await (built[choice.id] ??= this.build(kernel));
				const data = new DataView(new ArrayBuffer(doc.params.size));
				for (const { name, type, offset } of doc.params.fields) {
					data[type === "f32" ? "setFloat32" : "setUint32"](
						offset, { first_workgroup: 0, last_workgroup: -1 }[name] ?? size(gemm, name), true);
				}
				const workspace = kernel.workspace_bytes
					&& buffer(device, count(kernel.workspace_bytes, gemm), STORAGE);
				const params = buffer(device, doc.params.size, 0x40, data);
				return new Plan({ device, gemm, choice, kernel, params, workspace, ...ready });
			} catch (error) {
				why = `: ${choice.id}: ${error.message}`;
			}
		}
		throw Error(`no kernel here for ${kind(gemm)}${why}`);
	}
	async matmul(given, a, b, { c, bias } = {}) {
		const { device } = this, plan = await this.plan(given), length = bytes(plan.gemm, "c");
		const made = [a, b, c ?? new Uint8Array(length), bias].map(
			(data) => data && buffer(device, data.byteLength, STORAGE, data));
		const encoder = device.createCommandEncoder(), pass = encoder.beginComputePass();
		plan.encode(pass, ...made);
		pass.end();
		const read = buffer(device, length, 9);
		encoder.copyBufferToBuffer(made[2], 0, read, 0, read.size);
		device.queue.submit([encoder.finish()]);
		await read.mapAsync(1);
		const copy = read.getMappedRange().slice(0, length);
		for (const one of [...made, plan.params, plan.workspace, read]) one?.destroy();
		return plan.gemm.c === "f32" ? new Float32Array(copy) : new Uint16Array(copy);
	}
}
