// Fills a buffer with the seeded values of one operand (gemmtune.reference makes the same), and
// with poison wherever no element lies. One invocation per 32-bit word, in strides of the grid.
struct Fill {
  words: u32,    // size of the buffer
  elements: u32, // elements of the operand; what follows is slack. 0: all is poison
  stride: u32,   // from one matrix of a batch to the next
  packed: u32,   // elements of one matrix; the rest of a stride is a gap
  key: u32,      // stream of random values
  half: u32,     // elements are f16, two in a word
  coarse: u32,   // values have the precision of f16, whatever they are stored as
  poison: u32,
}
@group(0) @binding(0) var<uniform> fill: Fill;
@group(0) @binding(1) var<storage, read_write> data: array<u32>;

fn pcg(x: u32) -> u32 {
  let state = x * 747796405u + 2891336453u;
  let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
  return (word >> 22u) ^ word;
}

fn value(index: u32) -> f32 {
  let bits = pcg(pcg(index) ^ fill.key);
  if (fill.coarse != 0u) { return f32(bits >> 21u) * 0x1p-10f - 1.0; }
  return f32(bits >> 8u) * 0x1p-23f - 1.0;
}

fn inside(index: u32) -> bool {
  return index < fill.elements && index % fill.stride < fill.packed;
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var word = id.x; word < fill.words; word += groups.x * 256u) {
    var bits = fill.poison;
    if (fill.half == 0u) {
      if (inside(word)) { bits = bitcast<u32>(value(word)); }
    } else {
      let first = word * 2u;
      if (inside(first)) {
        bits = (bits & 0xffff0000u) | (pack2x16float(vec2<f32>(value(first), 0.0)) & 0xffffu);
      }
      if (inside(first + 1u)) {
        bits = (bits & 0xffffu) | (pack2x16float(vec2<f32>(0.0, value(first + 1u))) & 0xffff0000u);
      }
    }
    data[word] = bits;
  }
}
