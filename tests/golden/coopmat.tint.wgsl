// gemmtune coopmat kernel for 16x16x8:f16,f16,f32,f32:nn:bias,relu
// config: checked=true,dims=static,frag=16,frags_m=1,frags_n=1,group_m=1,order=stream_a,pad=8,prefetch=true,sg_size=32,stages=1,subgroups_m=2,subgroups_n=2,tile_k=16,vec=4
enable f16;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);

const TILE_M = 32u;
const TILE_N = 32u;
const TILE_K = 16u;
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
@group(0) @binding(1) var<storage, read> a: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;

var<workgroup> tile_a: array<vec4<f16>, 192>;
var<workgroup> tile_b: array<vec4<f16>, 160>;
var<workgroup> out: array<f32, 1024>;
fn activation(x: vec4<f32>) -> vec4<f32> {
  return max(x, vec4<f32>(0.0));
}

@compute @workgroup_size(128)
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
  let a_ld = K / 4u;
  let a_q0 = tid % 4u;
  let a_r0 = tid / 4u;
  let a_base0 = matrix * params.stride_a / 4u + min(m0 + a_r0, M - 1u) * a_ld + a_q0;
  let b_ld = N / 4u;
  let b_q0 = tid % 8u;
  let b_r0 = tid / 8u;
  let b_base0 = matrix * params.stride_b / 4u + b_r0 * b_ld + min(n0 / 4u + b_q0, b_ld - 1u);
  // where this subgroup's part of the tile begins
  let sg_row = tid / 64u * 16u;
  let sg_col = tid / 32u % 2u * 16u;
  let a_first = sg_row * 6u;
  let b_first = sg_col / 4u;
  var sum0_0 = subgroup_matrix_result<f32, 16, 16>();
  var next_a0: vec4<f16>;
  var next_b0: vec4<f16>;
  next_a0 = select(vec4<f16>(), vec4<f16>(a[a_base0 + 0u / 4u]), 0u + a_q0 * 4u < K);
  next_b0 = select(vec4<f16>(), vec4<f16>(b[b_base0 + 0u * b_ld]), 0u + b_r0 < K);
  for (var turn = 0u; turn < (K + TILE_K - 1u) / TILE_K; turn++) {
    let k0 = turn * TILE_K;
    tile_a[a_r0 * 6u + a_q0] = next_a0;
    tile_b[b_r0 * 10u + b_q0] = next_b0;
    workgroupBarrier();
    // the last step loads its own tile again, which nothing reads: cheaper than a branch
    let k1 = select(k0, k0 + TILE_K, k0 + TILE_K < K);
    next_a0 = select(vec4<f16>(), vec4<f16>(a[a_base0 + k1 / 4u]), k1 + a_q0 * 4u < K);
    next_b0 = select(vec4<f16>(), vec4<f16>(b[b_base0 + k1 * b_ld]), k1 + b_r0 < K);
    {
      let b0 = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&tile_b, b_first + 0u, 10u);
      let a0 = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&tile_a, a_first + 0u, 6u);
      sum0_0 = subgroupMatrixMultiplyAccumulate(a0, b0, sum0_0);
    }
    workgroupBarrier();
  }
  let lane = tid % 32u;
  let out_first = tid / 32u * 256u;
  subgroupMatrixStore<row_major>(&out, out_first, sum0_0, 16u);
  workgroupBarrier();
  for (var e = lane * 4u; e < 256u; e += 128u) {
    let row = m0 + sg_row + 0u + e / 16u;
    let col = n0 + sg_col + 0u + e % 16u;
    if (row < M && col < N) { c[(matrix * params.stride_c + row * N + col) / 4u] = activation(params.alpha * vec4<f32>(out[out_first + e], out[out_first + e + 1u], out[out_first + e + 2u], out[out_first + e + 3u]) + vec4<f32>(bias[col / 4u])); }
  }
  workgroupBarrier();
}
