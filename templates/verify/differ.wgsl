// Counts the 32-bit words in which two buffers of one size differ, and finds the first.
struct Differ {
  words: u32,
}
struct Verdict {
  count: atomic<u32>,
  first: atomic<u32>,
}
@group(0) @binding(0) var<uniform> args: Differ;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> y: array<u32>;
@group(0) @binding(3) var<storage, read_write> verdict: Verdict;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  var count = 0u;
  var first = 0xffffffffu;
  for (var word = id.x; word < args.words; word += groups.x * 256u) {
    if (x[word] != y[word]) {
      count += 1u;
      first = min(first, word);
    }
  }
  if (count != 0u) {
    atomicAdd(&verdict.count, count);
    atomicMin(&verdict.first, first);
  }
}
