// Writes the size of the subgroup that really runs.
@group(0) @binding(0) var<storage, read_write> size: array<u32>;

@compute @workgroup_size(128)
fn main(@builtin(subgroup_size) lanes: u32, @builtin(local_invocation_index) tid: u32) {
  if (tid == 0u) { size[0] = lanes; }
}
