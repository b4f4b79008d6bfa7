// Compares every element of C with the reference, and everything around them with the canary.
// Numbers that are not finite are told apart by their bits: drivers may assume that NaN is not.
struct Compare {
  total: u32,     // elements that C's buffer holds
  elements: u32,  // of them, those that C spans
  stride: u32,    // from one matrix of a batch to the next
  packed: u32,    // elements of one matrix
  half: u32,      // C is f16
  ref_half: u32,  // the reference is f16
  tolerance: u32, // bits of an f32
  canary: u32,    // 32 bits of it
}
struct Verdict {
  max_error: atomic<u32>,      // bits of an f32; positive floats order as integers do
  wrong: atomic<u32>,          // elements off by more than the tolerance
  first_wrong: atomic<u32>,    // the least index of one
  max_reference: atomic<u32>,  // bits of an f32
  overwritten: atomic<u32>,    // canary elements that changed
  first_overwritten: atomic<u32>,
}
@group(0) @binding(0) var<uniform> args: Compare;
@group(0) @binding(1) var<storage, read> c: array<u32>;
@group(0) @binding(2) var<storage, read> reference: array<u32>;
@group(0) @binding(3) var<storage, read_write> verdict: Verdict;

const INFINITY = 0x7f800000u;
const MAGNITUDE = 0x7fffffffu;

fn widen(half: u32) -> u32 {
  if ((half & 0x7c00u) == 0x7c00u) {
    return ((half & 0x8000u) << 16u) | INFINITY | ((half & 0x3ffu) << 13u);
  }
  return bitcast<u32>(unpack2x16float(half).x);
}

// |got - expected| as bits; infinity where either is not a number
fn distance_bits(got: u32, expected: u32) -> u32 {
  if (got == expected && (got & MAGNITUDE) <= INFINITY) { return 0u; }
  // f16 overflows to infinity where the reference, kept in f32, does not
  let overflowed = args.half != 0u && (got & MAGNITUDE) == INFINITY
    && (expected & MAGNITUDE) >= bitcast<u32>(65500.0) && (got >> 31u) == (expected >> 31u);
  if (overflowed && (expected & MAGNITUDE) <= INFINITY) { return 0u; }
  if ((got & MAGNITUDE) >= INFINITY || (expected & MAGNITUDE) >= INFINITY) { return INFINITY; }
  return min(bitcast<u32>(bitcast<f32>(got) - bitcast<f32>(expected)) & MAGNITUDE, INFINITY);
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  var max_error = 0u;
  var max_reference = 0u;
  var wrong = 0u;
  var first_wrong = 0xffffffffu;
  var overwritten = 0u;
  var first_overwritten = 0xffffffffu;
  for (var at = id.x; at < args.total; at += groups.x * 256u) {
    let got_word = c[select(at, at >> 1u, args.half != 0u)];
    let got_half = (got_word >> ((at & 1u) * 16u)) & 0xffffu;
    if (at >= args.elements || at % args.stride >= args.packed) {
      let kept = select(got_word == args.canary, got_half == (args.canary & 0xffffu),
                        args.half != 0u);
      if (!kept) {
        overwritten += 1u;
        first_overwritten = min(first_overwritten, at);
      }
      continue;
    }
    let got = select(got_word, widen(got_half), args.half != 0u);
    let ref_word = reference[select(at, at >> 1u, args.ref_half != 0u)];
    let ref_half = (ref_word >> ((at & 1u) * 16u)) & 0xffffu;
    let expected = select(ref_word, widen(ref_half), args.ref_half != 0u);
    let error = distance_bits(got, expected);
    max_error = max(max_error, error);
    max_reference = max(max_reference, expected & MAGNITUDE);
    if (error > args.tolerance) {
      wrong += 1u;
      first_wrong = min(first_wrong, at);
    }
  }
  atomicMax(&verdict.max_error, max_error);
  atomicMax(&verdict.max_reference, max_reference);
  if (wrong != 0u) {
    atomicAdd(&verdict.wrong, wrong);
    atomicMin(&verdict.first_wrong, first_wrong);
  }
  if (overwritten != 0u) {
    atomicAdd(&verdict.overwritten, overwritten);
    atomicMin(&verdict.first_overwritten, first_overwritten);
  }
}
