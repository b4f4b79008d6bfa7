// gemmtune naive kernel for 16x16x8:f16,f16,f32,f32:nn:bias,relu
// config: tile_m=8,tile_n=8
enable f16;

const TILE_M = 8u;
const TILE_N = 8u;

struct Params {
  m: u32, n: u32, k: u32, batch: u32,
  stride_a: u32, stride_b: u32, stride_c: u32, // elements from one matrix of a batch to the next
  first_workgroup: u32, last_workgroup: u32,   // the part of the problem that this dispatch does
  alpha: f32, beta: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f16>;
@group(0) @binding(2) var<storage, read> b: array<f16>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;

fn activation(x: f32) -> f32 {
  return max(x, f32(0.0));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
  let M = params.m;
  let N = params.n;
  let K = params.k;
  let id = params.first_workgroup + wid.y * groups.x + wid.x;
  let tiles_m = (M + TILE_M - 1u) / TILE_M;
  let tiles_n = (N + TILE_N - 1u) / TILE_N;
  if (id >= min(params.last_workgroup, tiles_m * tiles_n * params.batch)) { return; }
  let matrix = id / (tiles_m * tiles_n);
  let tile = id % (tiles_m * tiles_n);
  let m0 = (tile / tiles_n) * TILE_M;
  let n0 = (tile % tiles_n) * TILE_N;
  let row = m0 + tid / TILE_N;
  let col = n0 + tid % TILE_N;
  if (row >= M || col >= N) { return; }
  let a0 = matrix * params.stride_a + row * K;
  let b0 = matrix * params.stride_b + col * 1u;
  var sum = f32(0.0);
  for (var k0 = 0u; k0 < K; k0 += 64u) {
    var part = f32(0.0);
    for (var k = k0; k < min(k0 + 64u, K); k++) {
      let x = f32(a[a0 + k * 1u]);
      let y = f32(b[b0 + k * N]);
      part = fma(x, y, part);
    }
    sum += part;
  }
  let at = matrix * params.stride_c + row * N + col;
  c[at] = activation(params.alpha * sum + f32(bias[col]));
}
