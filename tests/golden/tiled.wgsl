// gemmtune tiled kernel for 16x16x8:f16,f16,f32,f32:nn:bias,relu
// config: dims=static,group_m=1,lanes_n=8,pad_a=4,pad_b=0,prefetch=true,reg_m=2,reg_n=2,stages=1,tile_a=km,tile_b=kn,tile_dtype=f32,tile_k=8,unroll_k=2,vec=2,wg_m=8,wg_n=8
enable f16;

const TILE_M = 16u;
const TILE_N = 16u;
const TILE_K = 8u;
const M = 16u;
const N = 16u;
const K = 8u;
struct Params {
  m: u32, n: u32, k: u32, batch: u32,
  stride_a: u32, stride_b: u32, stride_c: u32, // elements from one matrix of a batch to the next
  first_workgroup: u32, last_workgroup: u32,   // the part of the problem that this dispatch does
  alpha: f32, beta: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec2<f16>>;
@group(0) @binding(2) var<storage, read> b: array<vec2<f16>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec2<f32>>;

var<workgroup> tile_a: array<array<vec2<f32>, 10>, 8>;
var<workgroup> tile_b: array<array<vec2<f32>, 8>, 8>;
fn activation(x: vec2<f32>) -> vec2<f32> {
  return max(x, vec2<f32>(0.0));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
  let id = params.first_workgroup + wid.y * groups.x + wid.x;
  let tiles_m = (M + TILE_M - 1u) / TILE_M;
  let tiles_n = (N + TILE_N - 1u) / TILE_N;
  if (id >= min(params.last_workgroup, tiles_m * tiles_n * params.batch)) { return; }
  let matrix = id / (tiles_m * tiles_n);
  let tile = id % (tiles_m * tiles_n);
  let m0 = (tile / tiles_n) * TILE_M;
  let n0 = (tile % tiles_n) * TILE_N;
  // 32 consecutive invocations form a block of 4 x 8
  let tx = (tid / 32u) % 1u * 8u + tid % 8u;
  let ty = (tid / 32u) * 4u + tid % 32u / 8u;
  let a_ld = K / 2u;
  let a_q0 = tid % 4u;
  let a_r0 = tid / 4u;
  let a_base0 = matrix * params.stride_a / 2u + (m0 + a_r0) * a_ld + a_q0;
  let b_ld = N / 2u;
  let b_q0 = tid % 8u;
  let b_r0 = tid / 8u;
  let b_base0 = matrix * params.stride_b / 2u + b_r0 * b_ld + n0 / 2u + b_q0;
  var sum0_0 = vec2<f32>();
  var sum1_0 = vec2<f32>();
  var next_a0: vec2<f32>;
  var next_b0: vec2<f32>;
  next_a0 = vec2<f32>(a[a_base0 + 0u / 2u]);
  next_b0 = vec2<f32>(b[b_base0 + 0u * b_ld]);
  for (var k0 = 0u; k0 < K; k0 += TILE_K) {
    tile_a[a_q0 * 2u + 0u][a_r0 / 2u][a_r0 % 2u] = next_a0[0];
    tile_a[a_q0 * 2u + 1u][a_r0 / 2u][a_r0 % 2u] = next_a0[1];
    tile_b[b_r0][b_q0] = next_b0;
    workgroupBarrier();
    // the last step loads its own tile again, which nothing reads: cheaper than a branch
    let k1 = select(k0, k0 + TILE_K, k0 + TILE_K < K);
    next_a0 = vec2<f32>(a[a_base0 + k1 / 2u]);
    next_b0 = vec2<f32>(b[b_base0 + k1 * b_ld]);
    for (var kb = 0u; kb < TILE_K; kb += 2u) {
      {
        let a0_0 = tile_a[kb + 0u][ty];
        let b0_0 = tile_b[kb + 0u][tx];
        sum0_0 = fma(vec2<f32>(a0_0.x), b0_0, sum0_0);
        sum1_0 = fma(vec2<f32>(a0_0.y), b0_0, sum1_0);
      }
      {
        let a0_0 = tile_a[kb + 1u][ty];
        let b0_0 = tile_b[kb + 1u][tx];
        sum0_0 = fma(vec2<f32>(a0_0.x), b0_0, sum0_0);
        sum1_0 = fma(vec2<f32>(a0_0.y), b0_0, sum1_0);
      }
    }
    workgroupBarrier();
  }
  {
    let row = m0 + ty * 2u + 0u;
    {
      let col = n0 + tx * 2u;
      c[(matrix * params.stride_c + row * N + col) / 2u] = activation(params.alpha * sum0_0 + vec2<f32>(bias[col / 2u]));
    }
  }
  {
    let row = m0 + ty * 2u + 1u;
    {
      let col = n0 + tx * 2u;
      c[(matrix * params.stride_c + row * N + col) / 2u] = activation(params.alpha * sum1_0 + vec2<f32>(bias[col / 2u]));
    }
  }
}
