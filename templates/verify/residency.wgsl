// Waits: every lane follows a chain of loads through workgroup memory, each of which needs the one
// before. How long all workgroups take depends on how many are resident at once, and that on WORDS.
// Words that begin with a dollar sign are filled in.
const WORDS = ${words}u; // of workgroup memory that a workgroup takes
const LANES = ${lanes}u;

struct Chain {
  steps: u32, // on average
  first: u32, // where the chain goes round; only the host knows, so no compiler can shrink the array
}
@group(0) @binding(0) var<storage, read> chain: Chain;
@group(0) @binding(1) var<storage, read_write> ends: array<u32>; // LANES of each workgroup

var<workgroup> links: array<u32, WORDS>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
  let here = (chain.first + tid) % WORDS;
  links[here] = (chain.first + (tid + 1u) % LANES) % WORDS;
  workgroupBarrier();
  // Workgroups of different lengths, so that the last ones do not all end at once.
  let steps = chain.steps / 2u + wid.x * 2654435761u % chain.steps;
  var at = here;
  for (var i = 0u; i < steps; i++) { at = links[at]; }
  ends[wid.x * LANES + tid] = at;
}
