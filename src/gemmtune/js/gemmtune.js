// Runs what `gemmtune export` wrote
const SIDES = [..."mnk"], ALL = [...SIDES, "batch"], { ceil, log2, max, min } = Math;
const problem = (given) =>
	({ a: "f32", b: "f32", c: "f32", acc: "f32", batch: 1, alpha: 1, beta: 0, ...given });
const up = (a, b) => ceil(a / b);
const packed = (g, s) => ({ a: g.m * g.k, b: g.k * g.n, c: g.m * g.n })[s.at(-1)];
const size = (g, s) => g[s] ?? packed(g, s);
export function kind(g) {
	const steps = [g.math, g.beta && "beta", g.bias && "bias", g.activation]
		.filter((s) => s && !/ieee|none/.test(s));
	const t = (on) => "nt"[+!!on];
	return `${[g.a, g.b, g.c, g.acc]}:${t(g.trans_a)}${t(g.trans_b)}${steps[0] ? ":" + steps : ""}`;
}
export const bytes = (g, s) => s === "bias" ? !!g.bias * g.n * g.c.slice(1) / 8
	: g.batch && ((g.batch - 1) * size(g, `stride_${s}`) + packed(g, s)) * g[s].slice(1) / 8;
const traffic = (g) =>
	bytes(g, "a") + bytes(g, "b") + bytes(g, "bias") + bytes(g, "c") * (g.beta ? 2 : 1);

export const count = (rule, g) => SIDES.reduce(
	(all, s) => all * (rule[`tile_${s}`] ? up(g[s], rule[`tile_${s}`]) : 1),
	rule.times * g.batch * (rule.elements ? up(g.m * g.n, rule.elements) : 1));

function predict({ at_once, busy = 1, launch_ns, bytes_per_ns, paces }, id,
	{ passes, step_k = 1 }, t, from, to) {
	const { workgroup_size: [x, y, z], workgroups: rule } =
		passes.find((p) => p.entry_point === "main");
	const [held, more] = paces?.[id] ?? [max(busy / (x * y * z), 1), 64];
	const work = (g, w = count(rule, g) / at_once) =>
		max((w > 16 ? w : (3 * ceil(w) + w) / 4) / held, 1)
			* (up(max(g.k, 1), step_k * rule.times) * step_k + more);
	const fixed = min(passes.length * launch_ns, .9 * t), moved = traffic(from) || 1,
		moving = min(.45 * moved / (bytes_per_ns || 1 / 0), t - fixed);
	return fixed + moving * traffic(to) / moved + (t - fixed - moving) * work(to) / work(from);
}
export function candidates(doc, given, able) {
	const g = problem(given), near = {}, found = {};
	const sizes = g.batch > 1 ? [...ALL, "stride_a", "stride_b", "stride_c"] : ALL;
	const good = (id) => {
		const { dialect, needs, valid } = doc.kernels[id];
		return (!dialect || dialect === able.dialect)
			&& needs.features.every((s) => able.features.includes(s))
			&& Object.entries(needs.limits).every(([s, min]) => able.limits[s] >= min)
			&& (!needs.subgroup_size || needs.subgroup_size === able.subgroup_size)
			&& Object.entries(valid).every(([s, { min = 0, max = 1 / 0, multiple = 1 }]) =>
				s[1] && g.batch <= 1 || (s = size(g, s)) >= min && s <= max && !(s % multiple));
	};
	const add = (source, id, time_ns) => found[id] ??= { id, source, time_ns };
	for (const { problem: tuned, results, others = [] } of doc.problems) {
		const h = problem(tuned);
		if (kind(h) !== kind(g)) continue;
		const far = +Math.hypot(...ALL.map((s) => log2(max(g[s], 1) / max(h[s], 1)))).toFixed(6),
			weight = (1 + far) ** -4;
		for (const { kernel, general = [], time_ns } of [...results, ...others]) {
			const id = [kernel, general].flat().find(good);
			if (sizes.every((s) => size(g, s) === size(h, s))) {
				if (id === kernel) add("exact", id, time_ns);
			} else if (id) {
				const one = doc.kernels[id], sum = near[id] ??= [far, 0, 0, 0];
				sum[0] = min(sum[0], far);
				sum[3] = max(sum[3], time_ns);
				sum[1] += weight;
				sum[2] += weight * log2(predict(doc.model, id, one, time_ns, h, g)
					* 1.3 ** (doc.kernels[kernel].needs.unchecked > one.needs.unchecked));
			}
		}
	}
	Object.entries(near).map(([id, [far, all, logs, most]], t) =>
		[id, t = 2 ** (logs / all), t * 1.15 ** (far * (1 + (t > most)))])
		.sort(([i, , t], [j, , u]) => t - u || (i > j) - .5)
		.forEach(([id, time]) => add("near", id, time));
	const last = doc.fallbacks[kind(g)]?.filter(good) ?? [];
	if (min(g.m, g.n) >= 1024) last.reverse();
	last.forEach((id) => add("default", id, null));
	return Object.values(found);
}

async function load(device, source) {
	const url = typeof source === "string" && new URL(source, location);
	const doc = url ? await (await fetch(url)).json() : source, built = {};
	if (doc.format !== 1) throw Error("no gemmtune document of format 1");
	const { subgroupMinSize: least, subgroupMaxSize: most } = device.adapterInfo ?? {},
		able = { dialect: "tint", limits: device.limits, features: [...device.features],
			subgroup_size: least === most ? least : 0 };

	function buffer(length, data, usage = 0x8c) {
		const all = new Uint8Array(max(up(length, 4) * 4, 16));
		const made = device.createBuffer({ size: all.length, usage });
		if (data) {
			all.set(new Uint8Array(data.buffer, data.byteOffset, length));
			device.queue.writeBuffer(made, 0, all);
		}
		return made;
	}
	async function build({ wgsl, wgsl_file, bindings, passes }) {
		const code = wgsl ?? await (await fetch(new URL(wgsl_file, url))).text(),
			module = device.createShaderModule({ code });
		return Promise.all(passes.map(({ entry_point: entryPoint, workspace }) =>
			device.createComputePipelineAsync({ compute: { module, entryPoint },
				layout: device.createPipelineLayout({ bindGroupLayouts: [device.createBindGroupLayout({
					entries: bindings.map(({ binding, type }) =>
						({ binding, visibility: 4, buffer: { type: binding > 4 && workspace || type } })) })] }) })));
	}
	async function ready(gemm, choice) {
		const kernel = doc.kernels[choice.id], { size: length, fields } = doc.params,
			made = await (built[choice.id] ??= build(kernel));
		const u32 = new Uint32Array(length / 4), views = { u32, f32: new Float32Array(u32.buffer) };
		for (const { name, type, offset } of fields) {
			views[type][offset / 4] = { first_workgroup: 0, last_workgroup: -1 }[name] ?? size(gemm, name);
		}
		const params = buffer(length, u32, 0x48), rule = kernel.workspace_bytes,
			workspace = rule && buffer(count(rule, gemm));
		let groups = [];
		const encode = (pass, ...key) => {
			let kept = groups.find(([k]) => k.every((x, i) => x === key[i]));
			if (!kept) {
				const [a, b, c, bias] = key, given = { params, workspace, a, b, c, bias },
					entries = kernel.bindings.map(({ binding, name }) => {
					if (!given[name]) throw TypeError(`no buffer for ${name}`);
					return { binding, resource: { buffer: given[name] } };
				});
				kept = [key, made.map((p) => device.createBindGroup({ layout: p.getBindGroupLayout(0), entries }))];
				groups = [kept, ...groups.slice(0, 31)];
			}
			kernel.passes.forEach(({ workgroups }, i) => {
				const all = count(workgroups, gemm);
				if (!all) return;
				const rows = up(all, able.limits.maxComputeWorkgroupsPerDimension);
				pass.setPipeline(made[i]);
				pass.setBindGroup(0, kept[1][i]);
				pass.dispatchWorkgroups(up(all, rows), rows);
			});
		};
		return { gemm, choice, kernel, params, workspace, encode };
	}
	async function plan(given) {
		const gemm = problem(given), bad = ALL.find((s) => !(gemm[s] >= 0) || gemm[s] % 1);
		if (bad) throw RangeError(`${bad} is ${gemm[bad]}, not 0, 1, ...`);
		let why = "";
		for (const choice of candidates(doc, gemm, able)) {
			try {
				return await ready(gemm, choice);
			} catch (error) {
				why = `: ${choice.id}: ${error.message}`;
			}
		}
		throw Error(`no kernel here for ${kind(gemm)}${why}`);
	}
	async function matmul(given, a, b, { c, bias } = {}) {
		const one = await plan(given), { gemm, params, workspace } = one, length = bytes(gemm, "c");
		if (!gemm.beta) c ??= new Uint8Array(length);
		const made = Object.entries({ a, b, c, bias }).map(([s, data]) => {
			const needs = bytes(gemm, s), has = data?.byteLength ?? 0;
			if (has < needs) throw RangeError(`${s} has ${has} of ${needs} bytes`);
			return data && buffer(has, data);
		});
		const encoder = device.createCommandEncoder(), pass = encoder.beginComputePass();
		one.encode(pass, ...made);
		pass.end();
		const read = buffer(length, 0, 9);
		encoder.copyBufferToBuffer(made[2], 0, read, 0, read.size);
		device.queue.submit([encoder.finish()]);
		await read.mapAsync(1);
		const copy = read.getMappedRange().slice(0, length);
		for (const each of [...made, params, workspace, read]) each?.destroy();
		return new (gemm.c === "f32" ? Float32Array : Uint16Array)(copy);
	}
	return { doc, able, plan, matmul };
}
export const Gemmtune = { load };
