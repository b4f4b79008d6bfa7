// Runs gemmtune's exports
const ALL = [..."mnk", "batch"], {ceil, log2, max, min} = Math, F = "f32",
	pairs = Object.entries, up = (a, b) => ceil(a / b),
	problem = given => ({a: F, b: F, c: F, acc: F, batch: 1, alpha: 1, beta: 0, ...given}),
	packed = (g, s) => ({a: g.m * g.k, b: g.k * g.n, c: g.m * g.n})[s.at(-1)],
	size = (g, s) => g[s] ?? packed(g, s)
export const kind = g => [[g.a, g.b, g.c, g.acc], "nt"[+!!g.trans_a] + "nt"[+!!g.trans_b],
	[g.math, g.beta && "beta", g.bias && "bias", g.activation].filter(s => s && !/ieee|none/.test(s))]
	.filter(s => s[0]).join(":")
export const bytes = (g, s) => s === "bias" ? !!g.bias * g.n * g.c.slice(1) / 8
	: g.batch && ((g.batch - 1) * size(g, `stride_${s}`) + packed(g, s)) * g[s].slice(1) / 8
const traffic = g =>
	[..."abc", "bias"].reduce((all, s) => all + bytes(g, s), g.beta && bytes(g, "c"))
export const count = (rule, g) => [..."mnk"].reduce(
	(all, s, i, _, t = rule["tile_" + s]) => all * (t ? up(g[s], t) : 1),
	rule.times * g.batch * (rule.elements ? up(g.m * g.n, rule.elements) : 1))
function predict({at_once, launch_ns, bytes_per_ns, paces}, id, {passes, step_k = 1}, t, from, to) {
	const rule = passes.find(p => p.entry_point === "main").workgroups,
		[held, more] = paces?.[id] ?? [1, 64],
		work = (g, w = count(rule, g) / at_once) =>
			max((w > 16 ? w : (3 * ceil(w) + w) / 4) / held, 1)
				* (up(g.k || 1, step_k * rule.times) * step_k + more),
		fixed = min(passes.length * launch_ns, .9 * t), moved = traffic(from) || 1,
		moving = min(.45 * moved / (bytes_per_ns || 1 / 0), t - fixed)
	return fixed + moving * traffic(to) / moved + (t - fixed - moving) * work(to) / work(from)
}
function voted({m, n, k}, {trees, kernels}, good, votes = {}) {
	const of = (x, s) => x * 100 / (up(x, s) * s) | 0,
		x = [m, n, k, m * n, m * k, n * k, m * n * k, [m, n, k].map(s => min(s & -s, 64)),
			[16, 32, 64, 128].map(s => [of(m, s), of(n, s),
				[64, 128, 256].map(t => [t = up(m, s) * up(n, t), of(t, 132)])])].flat(3)
	for (let t of trees) {
		while (t.length) t = t[x[t[0]] < t[1] ? 2 : 3]
		for (const i in t) votes[i] = ~~votes[i] + t[i]
	}
	return pairs(votes).sort((a, b) => b[1] - a[1]).map(([i]) => kernels[i].find(good))
}
export function candidates(doc, given, able) {
	const g = problem(given), near = {}, found = {}, like = kind(g), {kernels} = doc,
		sizes = g.batch > 1 ? [...ALL, "stride_a", "stride_b", "stride_c"] : ALL,
		good = (id, _, $, {dialect, needs, valid} = kernels[id]) =>
			pairs({dialect, subgroup_size: needs.subgroup_size}).every(([s, x]) => !x || x === able[s])
			&& needs.features.every(s => able.features.includes(s))
			&& pairs(needs.limits).every(([s, min]) => able.limits[s] >= min)
			&& pairs(valid).every(([s, {min = 0, max = 1 / 0, multiple = 1}]) =>
				s[1] && g.batch <= 1 || (s = size(g, s)) >= min && s <= max && !(s % multiple)),
		add = (source, id, time_ns) => found[id] ??= {id, source, time_ns}
	for (const {problem: p, results, others = []} of doc.problems) {
		const h = problem(p),
			far = +Math.hypot(...ALL.map(s => log2((g[s] || 1) / (h[s] || 1)))).toFixed(6),
			w = (1 + far) ** -4
		if (kind(h) === like) for (const {kernel, general = [], time_ns} of [...results, ...others]) {
			const id = [kernel, general].flat().find(good)
			if (sizes.every(s => size(g, s) === size(h, s))) id === kernel && add("exact", id, time_ns)
			else if (id) {
				const one = kernels[id], sum = near[id] ??= [far, 0, 0, 0]
				sum[0] = min(sum[0], far)
				sum[3] = max(sum[3], time_ns)
				sum[1] += w
				sum[2] += w * log2(predict(doc.model, id, one, time_ns, h, g)
					* 1.3 ** (kernels[kernel].needs.unchecked > one.needs.unchecked))
			}
		}
	}
	const forest = doc.forests?.[like], last = doc.fallbacks[like]?.filter(good) ?? [],
		ranked = pairs(near).map(([id, [far, all, logs, most]], t) =>
			["near", id, t = 2 ** (logs / all), t * 1.15 ** (far * (1 + (t > most)))])
			.sort((a, b) => a[3] - b[3] || (a[1] > b[1]) - .5)
	for (const id of [...forest && g.batch === 1 ? voted(g, forest, good) : [], 0])
		ranked.forEach(one => [one[1], 0].includes(id) && add(...one))
	min(g.m, g.n) >= 1024 && last.reverse()
	last.forEach(id => add("default", id, null))
	return Object.values(found)
}
export const Gemmtune = {async load(gpu, source) {
	const url = source.trim && new URL(source, location),
		doc = url ? await (await fetch(url)).json() : source, built = {},
		{limits, queue, adapterInfo: {subgroupMinSize: low, subgroupMaxSize: top} = {}} = gpu,
		able = {dialect: "tint", limits, features: [...gpu.features], subgroup_size: low === top ? low : 0}
	if (doc.format !== 1) throw Error("no document of format 1")
	function buffer(length, data, usage = 0x8c) {
		const all = new Uint8Array(max(up(length, 4) * 4, 16)),
			made = gpu.createBuffer({size: all.length, usage})
		if (data) {
			all.set(new Uint8Array(data.buffer, data.byteOffset, length))
			queue.writeBuffer(made, 0, all)
		}
		return made
	}
	async function build({wgsl, wgsl_file, bindings, passes}) {
		const code = wgsl ?? await (await fetch(new URL(wgsl_file, url))).text(),
			module = gpu.createShaderModule({code})
		return Promise.all(passes.map(({entry_point: entryPoint, workspace}) =>
			gpu.createComputePipelineAsync({compute: {module, entryPoint},
				layout: gpu.createPipelineLayout({bindGroupLayouts: [gpu.createBindGroupLayout({
					entries: bindings.map(({binding, type}) =>
						({binding, visibility: 4, buffer: {type: binding > 4 && workspace || type}}))})]})})))
	}
	async function ready(gemm, choice) {
		const kernel = doc.kernels[choice.id], {size: length, fields} = doc.params,
			made = await (built[choice.id] ??= build(kernel)),
			u32 = new Uint32Array(length / 4), views = {u32, f32: new Float32Array(u32.buffer)}
		for (const {name, type, offset} of fields)
			views[type][offset / 4] = {first_workgroup: 0, last_workgroup: -1}[name] ?? size(gemm, name)
		const params = buffer(length, u32, 0x48), rule = kernel.workspace_bytes, workspace = rule && buffer(count(rule, gemm))
		let sets = []
		const encode = (pass, ...key) => {
			let kept = sets.find(([k]) => k.every((x, i) => x === key[i]))
			if (!kept) {
				const [a, b, c, bias] = key, has = {params, workspace, a, b, c, bias},
					entries = kernel.bindings.map(({binding, name}) => {
						if (!has[name]) throw TypeError(`no buffer for ${name}`)
						return {binding, resource: {buffer: has[name]}}
					})
				kept = [key, made.map(p => gpu.createBindGroup({layout: p.getBindGroupLayout(0), entries}))]
				sets = [kept, ...sets.slice(0, 31)]
			}
			kernel.passes.forEach(({workgroups}, i) => {
				const all = count(workgroups, gemm), rows = up(all, limits.maxComputeWorkgroupsPerDimension)
				if (!all) return
				pass.setPipeline(made[i])
				pass.setBindGroup(0, kept[1][i])
				pass.dispatchWorkgroups(up(all, rows), rows)
			})
		}
		return {gemm, choice, kernel, params, workspace, encode}
	}
	async function plan(given) {
		const gemm = problem(given), bad = ALL.find(s => gemm[s] !== gemm[s] >>> 0)
		if (bad) throw RangeError(`${bad} is ${gemm[bad]}, not 0, 1, ...`)
		let why = ""
		for (const choice of candidates(doc, gemm, able)) try {
			return await ready(gemm, choice)
		} catch (e) {
			why = `: ${choice.id}: ${e.message}`
		}
		throw Error(`no kernel for ${kind(gemm)}${why}`)
	}
	async function matmul(given, a, b, {c, bias} = {}) {
		const {gemm, params, workspace, encode} = await plan(given), length = bytes(gemm, "c"),
			to = gpu.createCommandEncoder(), pass = to.beginComputePass(), read = buffer(length, 0, 9)
		if (!gemm.beta) c ??= new Uint8Array(length)
		const made = pairs({a, b, c, bias}).map(([s, data]) => {
			const needs = bytes(gemm, s), has = data?.byteLength ?? 0
			if (has < needs) throw RangeError(`${s} has ${has} of ${needs} bytes`)
			return data && buffer(has, data)
		})
		encode(pass, ...made)
		pass.end()
		to.copyBufferToBuffer(made[2], 0, read, 0, read.size)
		queue.submit([to.finish()])
		await read.mapAsync(1)
		const copy = read.getMappedRange().slice(0, length)
		for (const each of [...made, params, workspace, read]) each?.destroy()
		return new (gemm.c === F ? Float32Array : Uint16Array)(copy)
	}
	return {doc, able, plan, matmul}
}}
