// gemmtune subgroup kernel for 16x16x8:f16,f16,f32,f32:nn:bias,relu
// config: dims=static,group_m=1,lanes_m=2,lanes_n=4,reg_m=2,reg_n=2,subgroups_m=1,subgroups_n=1,vec=2,vec_k=1
enable f16;
enable subgroups;

const TILE_M = 4u;
const TILE_N = 8u;
const TILE_K = 4u;
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
@group(0) @binding(1) var<storage, read> a: array<f16>;
@group(0) @binding(2) var<storage, read> b: array<vec2<f16>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec2<f32>>;

fn activation(x: vec2<f32>) -> vec2<f32> {
  return max(x, vec2<f32>(0.0));
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32, @builtin(subgroup_invocation_id) lane: u32) {
  let id = params.first_workgroup + wid.y * groups.x + wid.x;
  let tiles_m = (M + TILE_M - 1u) / TILE_M;
  let tiles_n = (N + TILE_N - 1u) / TILE_N;
  if (id >= min(params.last_workgroup, tiles_m * tiles_n * params.batch)) { return; }
  let matrix = id / (tiles_m * tiles_n);
  let tile = id % (tiles_m * tiles_n);
  let m0 = (tile / tiles_n) * TILE_M;
  let n0 = (tile % tiles_n) * TILE_N;
  let sg = tid / 8u;
  let lm = lane / 4u;
  let ln = lane % 4u;
  let row0 = m0 + sg / 1u * 4u + lm * 2u;
  let col0 = n0 + sg % 1u * 8u + ln * 2u;
  let a0 = matrix * params.stride_a;
  let b0 = matrix * params.stride_b;
  let a_row0 = a0 + (row0 + 0u) * K;
  let a_row1 = a0 + (row0 + 1u) * K;
  var sum0_0 = vec2<f32>();
  var sum1_0 = vec2<f32>();
  for (var k0 = 0u; k0 < K; k0 += TILE_K) {
    let a_k0 = k0 + 0u + ln * 1u;
    let a0_0 = f32(a[a_row0 + a_k0]);
    let a0_1 = f32(a[a_row1 + a_k0]);
    let b_k0 = k0 + 0u + lm * 1u;
    let b0_0 = vec2<f32>(b[(b0 + b_k0 * N + col0 + 0u) / 2u]);
    let b_k1 = k0 + 2u + lm * 1u;
    let b1_0 = vec2<f32>(b[(b0 + b_k1 * N + col0 + 0u) / 2u]);
    {
      let x0 = subgroupShuffle(a0_0, lm * 4u + 0u);
      let x1 = subgroupShuffle(a0_1, lm * 4u + 0u);
      let y0 = subgroupShuffle(b0_0, 0u + ln);
      sum0_0 = fma(vec2<f32>(x0), y0, sum0_0);
      sum1_0 = fma(vec2<f32>(x1), y0, sum1_0);
    }
    {
      let x0 = subgroupShuffle(a0_0, lm * 4u + 1u);
      let x1 = subgroupShuffle(a0_1, lm * 4u + 1u);
      let y0 = subgroupShuffle(b0_0, 4u + ln);
      sum0_0 = fma(vec2<f32>(x0), y0, sum0_0);
      sum1_0 = fma(vec2<f32>(x1), y0, sum1_0);
    }
    {
      let x0 = subgroupShuffle(a0_0, lm * 4u + 2u);
      let x1 = subgroupShuffle(a0_1, lm * 4u + 2u);
      let y0 = subgroupShuffle(b1_0, 0u + ln);
      sum0_0 = fma(vec2<f32>(x0), y0, sum0_0);
      sum1_0 = fma(vec2<f32>(x1), y0, sum1_0);
    }
    {
      let x0 = subgroupShuffle(a0_0, lm * 4u + 3u);
      let x1 = subgroupShuffle(a0_1, lm * 4u + 3u);
      let y0 = subgroupShuffle(b1_0, 4u + ln);
      sum0_0 = fma(vec2<f32>(x0), y0, sum0_0);
      sum1_0 = fma(vec2<f32>(x1), y0, sum1_0);
    }
  }
  {
    let row = row0 + 0u;
    let col = col0 + 0u;
    c[(matrix * params.stride_c + row * N + col) / 2u] = activation(params.alpha * sum0_0 + vec2<f32>(bias[col / 2u]));
  }
  {
    let row = row0 + 1u;
    let col = col0 + 0u;
    c[(matrix * params.stride_c + row * N + col) / 2u] = activation(params.alpha * sum1_0 + vec2<f32>(bias[col / 2u]));
  }
}
